# SPDX-License-Identifier: Apache-2.0
"""Utilities of a population of patterns, as losses and as metrics."""

from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp

from bionet_core import information, interfaces, plugins, surrogate
from bionet_tasks import base


class UtilityFn(Protocol):
  """A utility of one's own, to be descended in place of the built-in ones."""

  def __call__(
    self,
    states: jax.Array,
    temperature: jax.Array,
    weights: jax.Array | None,
    /,
  ) -> information.Utility:
    """Returns the utility of a population and its parts, each `[]`.

    Args:
      states: final states float `[R, N]`.
      temperature: the task's, `[]`.
      weights: float `[R]`, how often each replicate counts, of mean 1; None:
        once.
    """
    ...


def built_in(bandwidth: float, straight_through: bool) -> dict[str, UtilityFn]:
  """The built-in utilities, by name."""

  def hard(states, temperature, weights=None):
    del temperature
    return information.hard_utility(states, weights=weights)

  def soft(states, temperature, weights=None):
    return information.soft_utility(
      states,
      temperature=temperature,
      bandwidth=bandwidth,
      straight_through=straight_through,
      weights=weights,
    )

  def exact(states, temperature, weights=None):
    return information.exact_soft_utility(
      states,
      temperature=temperature,
      straight_through=straight_through,
      weights=weights,
    )

  return {'hard': hard, 'soft': soft, 'exact': exact}


def find(
  name: str, built_in: Mapping[str, UtilityFn], num_cells: int
) -> UtilityFn:
  """The utility of a name among the built-in ones, or of a path.

  Args:
    name: a name, or `module:function`.
    built_in: `{name: utility}`.
    num_cells: N.

  Raises:
    KeyError: for a path that leads nowhere.
    ValueError: for an unknown name, or what is no utility of N cells.
  """
  if ':' in name:
    try:
      utility = plugins.load('bionet.utilities', name, {})
    except KeyError as error:
      raise KeyError(f'loss={name!r}: {error.args[0]}') from error
  elif name in built_in:
    utility = built_in[name]
  else:
    raise ValueError(
      f'loss={name!r}: must be one of {", ".join(built_in)}, or a '
      'module:function.'
    )
  states = jax.ShapeDtypeStruct((2, num_cells), jnp.result_type(float))
  number = jax.ShapeDtypeStruct((), jnp.result_type(float))
  weights = jax.ShapeDtypeStruct((2,), states.dtype)
  for each in (weights, None):
    result = jax.eval_shape(utility, states, number, each)
    is_one = isinstance(result, information.Utility)
    if not is_one or any(part.shape != () for part in result):
      raise ValueError(
        f'loss={name!r}: must return a bionet_core.information.Utility of '
        f'three numbers, and returns {result}.'
      )
  return utility


def make_metrics(
  num_cells: int,
  utilities: Mapping[str, UtilityFn],
  custom: UtilityFn | None,
) -> base.MetricsFn:
  """The hard and a graded utility, with their parts; one's own, if it is."""
  graded = utilities['exact' if num_cells <= information.MAX_CELLS else 'soft']

  def metrics(outputs, trials):
    states, temperature = outputs[-1], trials.targets[-1, 0, 0]
    hard = information.hard_utility(states)
    soft = graded(states, temperature, None)
    fates = surrogate.fates(states)
    distinct = jnp.round(jnp.sum(1 / information.pattern_counts(fates)))
    scores = {
      **hard._asdict(),
      'soft_utility': soft.utility,
      'soft_s_pat': soft.s_pat,
      'soft_s_rep': soft.s_rep,
      'mean_fate': jnp.mean(fates),
      'distinct_patterns': distinct,
    }
    if custom is not None:
      parts = custom(states, temperature, None)._asdict()
      scores |= {f'own_{name}': value for name, value in parts.items()}
    return scores

  return metrics


def step_loss(
  utility: UtilityFn, num_groups: int, refinements: int, *, prefix: str
) -> interfaces.StepLoss:
  """Minus the utility: of the worst refinement, the mean over its groups.

  Its metrics are the utility and its parts, their names behind a prefix.
  """

  def loss(outputs, targets, mask):
    num_replicates = outputs.shape[0]
    if num_replicates % (num_groups * refinements):
      raise ValueError(
        f'batch_size={num_replicates}: must be a multiple of '
        f'num_groups * refinements = {num_groups * refinements}.'
      )
    groups = outputs.reshape(refinements, num_groups, -1, outputs.shape[-1])
    weight = jnp.mean(mask)
    # How often each counts among those it is judged with: once, or not at all.
    weights = mask.reshape(groups.shape[:-1])
    present = jnp.mean(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(present > 0, present, 1.0)
    # The temperature, of which a trial of weight 0 says nothing.
    temperature = targets[jnp.argmax(mask != 0), 0]
    judge = jax.vmap(jax.vmap(lambda s, w: utility(s, temperature, w)))
    judged = jax.tree.map(lambda x: jnp.mean(x, axis=1), judge(groups, weights))
    worst = jnp.argmin(judged.utility)
    judged = jax.tree.map(lambda x: x[worst] * weight, judged)
    parts = {prefix + name: value for name, value in judged._asdict().items()}
    return -judged.utility, parts

  return loss
