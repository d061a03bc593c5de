# SPDX-License-Identifier: Apache-2.0
"""Any strategy of evosax, by its name, as a Learner."""

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.populations import population


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
    population_size: P, a multiple of the number of devices.
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
    ValueError: for a strategy that cannot be run so, or sizes that cannot be.

  Source: R. T. Lange, "evosax: JAX-based Evolution Strategies",
  arXiv:2212.04180 (2022).
  """
  base.require_kind('evosax', cell, interfaces.Cell)
  kind, settings = _strategy_class(strategy), dict(settings or {})
  _check_settings(strategy, kind, settings)
  keeps_population = 'population' in inspect.signature(kind.init).parameters
  if predict_mean and keeps_population:
    raise ValueError(
      f'predict_mean={predict_mean}: must be False for {strategy}, whose '
      'population has no mean.'
    )
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
      return _make(strategy, kind, population_size, like, settings)

  def init(key, trials):
    params, constants = model.init(key, trials)
    start_key, member_key, noise_key = jax.random.split(key, 3)
    with jax.numpy_rank_promotion('allow'):  # evosax relies on it
      made, parameters = make(params)
      if keeps_population:
        members = population.draw_members(
          model, member_key, trials, population_size
        )
        judged = judge_alone(members, constants, noise_key, trials)
        told = _without_holes(population.finite_losses(judged))
        memory = made.init(start_key, members, told, parameters)
      else:
        memory = made.init(start_key, params, parameters)
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
      made, parameters = make(state.params)
      members, memory = made.ask(ask_key, memory, parameters)
      members = _like(members, state.params)
    judged = judge(members, state.constants, key, trials)
    losses = population.finite_losses(judged)
    with jax.numpy_rank_promotion('allow'):
      told = _without_holes(losses)
      memory, _ = made.tell(tell_key, members, told, memory, parameters)
      mean = made.get_mean(memory) if predict_mean else None
    best = jnp.argmin(losses)
    found = jax.tree.map(lambda x: x[best], (members, judged))
    params = _like(mean, state.params) if predict_mean else found[0]
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
    return state, {**found[1], **population.spread_metrics(losses)}

  def predict(state, key, trials):
    return model.predict(state.params, state.constants, key, trials)

  return base.Learner(init, update, predict, partition='population')


def _strategy_class(name: str) -> Any:
  try:
    algorithms = importlib.import_module('evosax.algorithms').algorithms
  except ImportError as error:
    raise ImportError(
      "learner 'evosax' needs the package evosax, which is not installed: "
      "pip install 'bionet[evolution]'."
    ) from error
  if name not in algorithms:
    near = difflib.get_close_matches(name, algorithms, n=1, cutoff=0.5)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise KeyError(
      f'strategy={name!r}: must be one of evosax.{hint} There are: '
      f'{", ".join(sorted(algorithms))}.'
    )
  kind = algorithms[name]
  for argument in inspect.signature(kind).parameters.values():
    known = argument.name in ('population_size', 'solution')
    if argument.default is argument.empty and not known:
      raise ValueError(
        f'strategy={name!r}: must be one that needs numbers alone; it needs '
        f'{argument.name!r}.'
      )
  return kind


def _check_settings(name, kind, settings) -> None:
  """Refuses a setting that the strategy lacks, or one that is no number."""
  # The parameters of a strategy for two numbers have the names of any other's.
  with jax.ensure_compile_time_eval(), jax.numpy_rank_promotion('allow'):
    probe = kind(4, np.zeros(2, np.float32))
    parameters = vars(probe.default_params)
  known = sorted({*parameters, *_arguments(kind)})
  for setting, value in settings.items():
    if setting not in known:
      near = difflib.get_close_matches(setting, known, n=1)
      hint = f' Did you mean {near[0]!r}?' if near else ''
      raise KeyError(
        f'settings.{setting}={value!r}: must be a setting of {name}.{hint} '
        f'There are: {", ".join(known)}.'
      )
    if not isinstance(value, int | float):
      raise ValueError(f'settings.{setting}={value!r}: must be a number.')


def _arguments(kind) -> list[str]:
  """Arguments of a strategy's class that a number can set."""
  return [
    name
    for name, argument in inspect.signature(kind).parameters.items()
    if name == 'std_schedule'
    or (name != 'population_size' and isinstance(argument.default, int | float))
  ]


def _make(name, kind, population_size, like, settings):
  """The strategy for parameters like these, and its parameters."""
  arguments = {k: v for k, v in settings.items() if k in _arguments(kind)}
  if 'std_schedule' in arguments:
    std = arguments['std_schedule']
    arguments['std_schedule'] = optax.constant_schedule(std)
  try:
    made = kind(population_size, like, **arguments)
  except AssertionError as error:  # evosax says so of what a caller chose
    raise ValueError(f'strategy={name!r}: {error}') from error
  own = {k: v for k, v in settings.items() if k not in arguments}
  parameters = made.default_params
  own = {
    k: jnp.asarray(v, jnp.result_type(getattr(parameters, k)))
    for k, v in own.items()
  }
  return made, parameters.replace(**own)


def _without_holes(losses: jax.Array) -> jax.Array:
  """Losses with infinities replaced by the worst finite loss, or 0."""
  finite = jnp.isfinite(losses)
  worst = jnp.max(losses, where=finite, initial=-jnp.inf)
  return jnp.where(finite, losses, jnp.where(jnp.any(finite), worst, 0.0))


def _like(tree: interfaces.ArrayTree, params: interfaces.ArrayTree):
  """The tree in the types of the parameters."""
  return jax.tree.map(lambda x, p: x.astype(p.dtype), tree, params)


def _hardened(tree: interfaces.ArrayTree) -> interfaces.ArrayTree:
  """The tree with types of its own: a weak one would change in an update."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)
