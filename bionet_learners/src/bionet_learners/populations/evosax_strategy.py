# SPDX-License-Identifier: Apache-2.0
"""Any strategy of evosax, by its name, as a Learner."""

import inspect
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners import base, padding
from bionet_learners.populations import population, strategies


def evosax_strategy(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  *,
  devices: base.Devices = base.ONE,
  strategy: str = 'CMA_ES',
  population_size: int = 32,
  settings: Mapping[str, float] | None = None,
  common_noise: bool = True,
  predict_mean: bool = False,
) -> base.Learner:
  """Asks a strategy of evosax for members and tells it their losses.

    members, s <- ask(s);  s <- tell(members, loss of each, s)

  One update is one generation; all members and trials run in one compiled call.
  A strategy that keeps a distribution starts about a draw of the cell's
  parameters; one that keeps a population starts from P such draws, judged on
  the trials of `init`. evosax (the extra 'evolution') is imported when a
  learner is made. A few of its strategies were learned, and read weights that
  come with evosax. Cost: P forward passes, and the strategy's own: CMA_ES keeps
  matrices of the parameters squared.

  Args:
    cell: the dynamics.
    loss: the loss of one step.
    devices: the population is split over them.
    strategy: the strategy's name in `evosax.algorithms`.
    population_size: P, a multiple of the number of devices. Some strategies
      need more than one member, or an even number; LM_MA_ES takes at most twice
      as many as there are parameters.
    settings: numbers by their evosax names: the strategy's parameters
      ('std_init'), and arguments of its class ('std_schedule', a constant). In
      a config they are set whole. Learning rates are those of the optimizer
      that evosax gives it.
    common_noise: all members meet the same noise; else each its own.
    predict_mean: predict with the mean of the distribution; else with the best
      of the last generation.

  Returns:
    A Learner; its metrics are the best member's, and 'loss_mean' and 'loss_std'
    over the population. Members whose loss is no finite number are told to be
    as bad as the worst that has one, and are never the parameters.

  Raises:
    ImportError: if evosax is not installed.
    TypeError: if `cell` is not a Cell.
    KeyError: for a strategy or a setting that is not there.
    ValueError: for a strategy that cannot be run so, or sizes that cannot be;
      what depends on the number of parameters is said when a state is made.

  Source: R. T. Lange, "evosax: JAX-based Evolution Strategies",
  arXiv:2212.04180 (2022).
  """
  base.require_kind('evosax', cell, interfaces.Cell)
  kind, settings = strategies.strategy_class(strategy), dict(settings or {})
  strategies.check_settings(strategy, kind, settings)
  keeps_population = 'population' in inspect.signature(kind.init).parameters
  if predict_mean and keeps_population:
    raise ValueError(
      f'predict_mean={predict_mean}: must be False for {strategy}, whose '
      'population has no mean.'
    )
  if population_size == 1:
    strategies.check_alone(strategy, kind, settings, keeps_population)
  model = unroll.model_from_cell(cell)
  judge = population.make_judge(
    cell, loss, population_size, common_noise=common_noise, devices=devices
  )
  judge_alone = population.make_judge(  # a state is made on one device
    cell, loss, population_size, common_noise=common_noise
  )

  def make(params):
    # Made of zeros on the host, while tracing too: it holds no traced array.
    like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)
    with jax.ensure_compile_time_eval():
      return strategies.make(strategy, kind, population_size, like, settings)

  def init(key, trials):
    params, constants = model.init(key, trials)
    start_key, member_key, noise_key = jax.random.split(key, 3)
    with jax.numpy_rank_promotion('allow'):  # evosax relies on it
      evolver, parameters = make(params)
      if keeps_population:
        members = population.draw_members(
          model, member_key, trials, population_size
        )
        judged = judge_alone(members, constants, noise_key, trials)
        fitness = population.without_holes(population.finite_losses(judged))
        memory = evolver.init(start_key, members, fitness, parameters)
      else:
        memory = evolver.init(start_key, params, parameters)
      members_shape, _ = jax.eval_shape(
        evolver.ask, start_key, memory, parameters
      )
      strategies.check_members(strategy, population_size, members_shape, params)
    return base.LearnerState(
      params=params,
      constants=constants,
      rule_state=base.RuleState(shared=_hardened(memory), per_trial=()),
      opt_state=(),
      step=jnp.zeros((), jnp.int32),
    )

  def update(state, key, trials):
    memory = state.rule_state.shared
    ask_key, tell_key = jax.random.split(population.draw_key(key, state.step))
    with jax.numpy_rank_promotion('allow'):
      evolver, parameters = make(state.params)
      members, memory = evolver.ask(ask_key, memory, parameters)
      members = _like(members, state.params)
    judged = judge(members, state.constants, key, trials)
    losses = population.finite_losses(judged)
    with jax.numpy_rank_promotion('allow'):
      fitness = population.without_holes(losses)
      memory, _ = evolver.tell(tell_key, members, fitness, memory, parameters)
      mean = evolver.get_mean(memory) if predict_mean else None
    best = jnp.argmin(losses)
    best_member = jax.tree.map(lambda x: x[best], (members, judged))
    params = _like(mean, state.params) if predict_mean else best_member[0]
    # Where no member has a number, nothing was learned.
    memory, params = jax.tree.map(
      lambda new, old: jnp.where(jnp.isfinite(losses[best]), new, old).astype(
        old.dtype
      ),
      (memory, params),
      (state.rule_state.shared, state.params),
    )
    state = state._replace(
      params=params,
      rule_state=base.RuleState(shared=memory, per_trial=()),
      step=state.step + 1,
    )
    return state, {**best_member[1], **population.spread_metrics(losses)}

  def predict(state, key, trials):
    trials = padding.without_padding(trials, keep_unasked=True)
    return model.predict(state.params, state.constants, key, trials)

  return base.Learner(init, update, predict, partition='population')


def _like(tree: interfaces.ArrayTree, params: interfaces.ArrayTree):
  """The tree in the types of the parameters."""
  return jax.tree.map(lambda x, p: x.astype(p.dtype), tree, params)


def _hardened(tree: interfaces.ArrayTree) -> interfaces.ArrayTree:
  """The tree with types of its own: a weak one would change in an update."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)
