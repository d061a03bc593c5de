# SPDX-License-Identifier: Apache-2.0
"""Evolution: the best parameters stay, and their mutants compete with them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base, padding
from bionet_learners.populations import population


class Population(NamedTuple):
  """What evolves.

  Attributes:
    members: a tree like the parameters, every leaf `[P, ...]`.
    best_loss: `[]`, the least loss that any member ever had.
  """

  members: interfaces.ArrayTree
  best_loss: jax.Array


def evolution(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  *,
  devices: base.Devices = base.ONE,
  population_size: int = 32,
  elites: int = 6,
  std: float = 0.3,
  std_spread: float = 0.0,
  common_noise: bool = True,
  best_ever: bool = False,
) -> base.Learner:
  """(mu + lambda) evolution strategy with Gaussian mutation.

    elites   = the mu members of least loss
    children = parent + std exp(std_spread n) xi,  parents drawn among elites,
               n ~ N(0, 1) a child, xi ~ N(0, 1) a parameter
    members <- elites and children

  One update is one generation; all members and trials run in one compiled call.
  It needs no gradient, so the loss may be a step function of the outputs. Cost:
  P forward passes; memory of P states. With common noise all members face the
  same trials and the same noise, which compares them better and lets the noise
  be drawn once for all. A later stage of a run may have fewer members: it goes
  on with the elites, the best first, and then with children.

  Args:
    cell: the dynamics.
    loss: the loss of one step.
    devices: the population is split over them.
    population_size: P = mu + lambda, a multiple of the number of devices.
    elites: mu, from 1 to P - 1.
    std: standard deviation of a mutation.
    std_spread: of the logarithm of a child's own factor on `std`.
    common_noise: all members meet the same noise; else each its own.
    best_ever: predict with the member of least loss ever, whatever noise it met
      then; else with the best of the last generation.

  Returns:
    A Learner; its metrics are the best member's, and 'loss_mean' and 'loss_std'
    over the population. Members whose loss is no finite number are the worst,
    and never the parameters.

  Raises:
    TypeError: if `cell` is not a Cell.
    ValueError: for sizes that cannot be, or a population larger than that of
      the stage before.

  Source: H.-G. Beyer and H.-P. Schwefel, Natural Computing 1, 3 (2002).
  """
  base.require_kind('evolution', cell, interfaces.Cell)
  if population_size < 2:
    raise ValueError(
      f'population_size={population_size}: must be at least 2, of whom one is '
      'replaced.'
    )
  if not 1 <= elites < population_size:
    raise ValueError(
      f'elites={elites}: must be from 1 to one less than population_size='
      f'{population_size}.'
    )
  for name, value in (('std', std), ('std_spread', std_spread)):
    if not value >= 0:
      raise ValueError(f'{name}={value}: must be 0 or more.')
  model = unroll.model_from_cell(cell)
  judge = population.make_judge(
    cell, loss, population_size, common_noise=common_noise, devices=devices
  )

  def init(key, trials):
    params, constants = model.init(key, trials)
    members = population.draw_members(model, key, trials, population_size)
    start = Population(members, jnp.full((), jnp.inf, jnp.zeros(()).dtype))
    return base.LearnerState(
      params=params,
      constants=constants,
      rule_state=base.RuleState(shared=start, per_trial=()),
      opt_state=(),
      step=jnp.zeros((), jnp.int32),
    )

  def update(state, key, trials):
    members, best_loss = state.rule_state.shared
    judged = judge(members, state.constants, key, trials)
    losses = population.finite_losses(judged)
    order = jnp.argsort(losses)
    best = jax.tree.map(lambda x: x[order[0]], (members, judged))
    least = losses[order[0]]
    better = (least < best_loss) if best_ever else jnp.isfinite(least)
    params = jax.tree.map(
      lambda new, old: jnp.where(better, new, old), best[0], state.params
    )
    draw = population.draw_key(key, state.step)
    after = Population(
      _next_generation(draw, members, order),
      jnp.minimum(best_loss, least),
    )
    state = state._replace(
      params=params,
      rule_state=base.RuleState(shared=after, per_trial=()),
      step=state.step + 1,
    )
    return state, {**best[1], **population.spread_metrics(losses)}

  def _next_generation(key, members, order):
    num_children = population_size - elites
    parent_key, factor_key, *keys = jax.random.split(
      key, 2 + len(jax.tree.leaves(members))
    )
    parents = jax.random.randint(parent_key, (num_children,), 0, elites)
    factors = std * jnp.exp(
      std_spread * jax.random.normal(factor_key, (num_children,))
    )

    def evolve(x, key):
      elite = x[order[:elites]]
      factor = jnp.expand_dims(factors, tuple(range(1, x.ndim)))
      noise = jax.random.normal(key, (num_children, *x.shape[1:]), x.dtype)
      mutation = (factor * noise).astype(x.dtype)
      return jnp.concatenate([elite, elite[parents] + mutation])

    leaves, tree = jax.tree.flatten(members)
    return tree.unflatten(
      [evolve(x, k) for x, k in zip(leaves, keys, strict=True)]
    )

  def predict(state, key, trials):
    trials = padding.without_padding(trials, keep_unasked=True)
    return model.predict(state.params, state.constants, key, trials)

  def take_over(before):
    if not isinstance(before, Population):
      raise ValueError('the stage before has no population to go on with.')
    size = jax.tree.leaves(before.members)[0].shape[0]
    if size < population_size:
      raise ValueError(
        f'population_size={population_size}: must be at most the {size} '
        'members of the stage before.'
      )
    members = jax.tree.map(lambda x: x[:population_size], before.members)
    return before._replace(members=members)

  return base.Learner(
    init, update, predict, partition='population', take_over=take_over
  )
