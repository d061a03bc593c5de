# SPDX-License-Identifier: Apache-2.0
"""OpenES: a gradient of the loss from pairs of opposite perturbations."""

import jax
import jax.numpy as jnp
import optax

from bionet_core import interfaces, unroll
from bionet_learners import base, padding
from bionet_learners.populations import population


def open_es(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  *,
  optimizer: optax.GradientTransformation,
  devices: base.Devices = base.ONE,
  population_size: int = 64,
  std: float = 0.1,
  rank_losses: bool = True,
  common_noise: bool = True,
) -> base.Learner:
  """Descends the loss smoothed by a Gaussian, by antithetic sampling.

    g = 1 / (P std) sum_i (L(theta + std xi_i) - L(theta - std xi_i)) xi_i
    i = 1 ... P / 2,  xi ~ N(0, 1)

  An unbiased estimate of the gradient of E_xi L(theta + std xi), and the
  optimizer steps against it. On a quadratic loss this is the gradient of L
  itself, whatever `std` is; its variance grows with the number of parameters.
  With ranked losses L is replaced by

    (members better than this - members worse) / (2 (P - 1)), with sign: from
    -1/2, the best, to 1/2, the worst; equals have equal ranks,

  which no longer knows the scale of the loss, and outliers pull no more than
  others. It needs no gradient, so the loss may be a step function of the
  outputs. One update is one population; all members and trials run in one
  compiled call. Cost: P forward passes; memory of P states.

  Args:
    cell: the dynamics.
    loss: the loss of one step.
    optimizer: steps against the estimate; a run hands in its own.
    devices: the population is split over them.
    population_size: P, even, a multiple of the number of devices.
    std: standard deviation of the perturbations.
    rank_losses: estimate with ranks in place of losses.
    common_noise: all members meet the same noise; else each pair its own, which
      both of its members share.

  Returns:
    A Learner; its metrics are means over the members ('loss' is the smoothed
    loss), 'loss_std', and the norms of estimate and step. A member whose loss
    is no finite number counts as the worst that has one.

  Raises:
    TypeError: if `cell` is not a Cell.
    ValueError: for sizes that cannot be.

  Source: T. Salimans, J. Ho, X. Chen, S. Sidor and I. Sutskever,
  arXiv:1703.03864 (2017), Algorithm 1, with mirrored sampling.
  """
  base.require_kind('open_es', cell, interfaces.Cell)
  if population_size < 2 or population_size % 2:
    raise ValueError(
      f'population_size={population_size}: must be even, and at least 2, for '
      'the members form pairs.'
    )
  if not std > 0:
    raise ValueError(f'std={std}: must be above 0.')
  num_pairs = population_size // 2
  model = unroll.model_from_cell(cell)
  judge = population.make_judge(
    cell,
    loss,
    population_size,
    common_noise=common_noise,
    num_noises=num_pairs,
    devices=devices,
  )

  def init(key, trials):
    params, constants = model.init(key, trials)
    return base.LearnerState(
      params=params,
      constants=constants,
      rule_state=base.RuleState(shared=(), per_trial=()),
      opt_state=optimizer.init(params),
      step=jnp.zeros((), jnp.int32),
    )

  def update(state, key, trials):
    noise = draw_pairs(
      population.draw_key(key, state.step), state.params, num_pairs
    )
    members = jax.tree.map(
      lambda x, xi: x[None] + std * jnp.concatenate([xi, -xi]),
      state.params,
      noise,
    )
    judged = judge(members, state.constants, key, trials)
    losses = population.finite_losses(judged)
    finite = jnp.isfinite(losses)
    heights = population.without_holes(losses)
    if rank_losses:
      heights = centred_ranks(heights)
    weights = heights[:num_pairs] - heights[num_pairs:]
    gradient = jax.tree.map(
      lambda xi: (jnp.tensordot(weights, xi, 1) / (2 * std * num_pairs)).astype(
        xi.dtype
      ),
      noise,
    )
    updates, opt_state = optimizer.update(
      gradient, state.opt_state, state.params
    )
    means = {
      name: jnp.mean(values, where=finite) for name, values in judged.items()
    }
    metrics = {
      **means,
      'loss_std': jnp.std(losses, where=finite),
      'gradient_norm': optax.tree.norm(gradient),
      'update_norm': optax.tree.norm(updates),
    }
    state = state._replace(
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      step=state.step + 1,
    )
    return state, metrics

  def predict(state, key, trials):
    trials = padding.without_padding(trials, keep_unasked=True)
    return model.predict(state.params, state.constants, key, trials)

  return base.Learner(init, update, predict, partition='population')


def draw_pairs(
  key: jax.Array, params: interfaces.ArrayTree, num_pairs: int
) -> interfaces.ArrayTree:
  """Xi ~ N(0, 1) of each pair: a tree like `params`, leaves `[P / 2, ...]`."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  return tree.unflatten(
    [
      jax.random.normal(k, (num_pairs, *x.shape), x.dtype)
      for k, x in zip(keys, leaves, strict=True)
    ]
  )


def centred_ranks(losses: jax.Array) -> jax.Array:
  """Ranks `[P]` from -1/2, the least, to 1/2; equal losses, equal ranks."""
  worse = losses[:, None] > losses[None, :]
  better = losses[:, None] < losses[None, :]
  ranks = jnp.sum(worse, axis=1) - jnp.sum(better, axis=1)
  return ranks / (2 * max(len(losses) - 1, 1))
