# SPDX-License-Identifier: Apache-2.0
"""Measures of an estimate against what it should be.

Finite differences check `bptt`; `bptt` checks what claims to be exact; cosine
and relative error say how far an approximation is; the bias test is for
estimates that are right only on average.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from bionet_core import interfaces


def finite_differences(
  objective: Callable[[interfaces.ArrayTree], jax.Array],
  params: interfaces.ArrayTree,
  *,
  step: float = 1e-5,
) -> interfaces.ArrayTree:
  """The gradient by central differences, one parameter after the other.

    g_i = (objective(p + step e_i) - objective(p - step e_i)) / (2 step)

  The error is O(step^2) plus about 1e-16 / step of rounding. Cost: two
  evaluations a parameter.

  Args:
    objective: `params -> []`.
    params: a tree of float64 arrays (run inside `jax.enable_x64(True)`).
    step: the step.

  Returns:
    A tree like `params`.

  Raises:
    TypeError: if a leaf is not float64: in float32 nothing would be proved.
  """
  for path, leaf in jax.tree.leaves_with_path(params):
    if leaf.dtype != jnp.float64:
      raise TypeError(
        f'finite differences need float64; {jax.tree_util.keystr(path)} is '
        f'{leaf.dtype}.'
      )

  @jax.jit
  def slopes(params):
    flat, unravel = flatten_util.ravel_pytree(params)

    def slope(i):
      nudge = jnp.zeros_like(flat).at[i].set(step)
      ahead, behind = (
        objective(unravel(flat + nudge)),
        objective(unravel(flat - nudge)),
      )
      return (ahead - behind) / (2 * step)

    return unravel(jax.lax.map(slope, jnp.arange(flat.size)))

  return slopes(params)


def norm(tree: interfaces.ArrayTree) -> float:
  """The Euclidean norm of a tree of concrete arrays, in float64."""
  return float(np.linalg.norm(_flat(tree)))


def relative_error(
  estimate: interfaces.ArrayTree, reference: interfaces.ArrayTree
) -> float:
  """`|estimate - reference| / |reference|`; infinite at reference 0."""
  chex.assert_trees_all_equal_shapes(estimate, reference)
  with np.errstate(divide='ignore', invalid='ignore'):
    error = np.linalg.norm(_flat(estimate) - _flat(reference))
    return float(error / np.linalg.norm(_flat(reference)))


def cosine(
  estimate: interfaces.ArrayTree, reference: interfaces.ArrayTree
) -> float:
  """The cosine of the angle between two trees; NaN where one is 0."""
  chex.assert_trees_all_equal_shapes(estimate, reference)
  a, b = _flat(estimate), _flat(reference)
  with np.errstate(invalid='ignore'):
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def _flat(tree) -> np.ndarray:
  """All elements of a tree on the host, float64 `[P]`."""
  # Nothing is compiled for the shapes of the tree.
  leaves = jax.device_get(jax.tree.leaves(tree))
  return np.concatenate([np.ravel(x).astype(np.float64) for x in leaves])


class Bias(NamedTuple):
  """What a sample of estimates says of their mean.

  Attributes:
    z: float `[directions]`: (mean - reference) / standard error along each of
      the directions; standard normal where the estimate is unbiased.
    standard_error: `[]`, the standard error of the mean's norm over the norm of
      the reference: small, or z proves nothing. Any noisy estimate passes z.
  """

  z: jax.Array
  standard_error: jax.Array


@functools.partial(jax.jit, static_argnames='directions')
def bias(
  estimates: interfaces.ArrayTree,
  reference: interfaces.ArrayTree,
  key: jax.Array,
  *,
  directions: int = 8,
) -> Bias:
  """Tests whether estimates are right on average, along random directions.

  Args:
    estimates: S independent estimates, every leaf `[S, ...]`, S >= 2.
    reference: the exact gradient.
    key: draws the directions (fixed by the key, not by the data).
    directions: how many.

  Returns:
    A Bias. Demand both halves: |z| small, and the standard error small.

  Raises:
    ValueError: if S < 2.
  """
  flat = jax.vmap(lambda e: flatten_util.ravel_pytree(e)[0])(estimates)
  exact = flatten_util.ravel_pytree(reference)[0]
  chex.assert_equal_shape([flat[0], exact])
  size = flat.shape[0]
  if size < 2:
    raise ValueError(f'{size} estimate has no standard error; at least 2.')
  axes = jax.random.normal(key, (directions, exact.size), exact.dtype)
  along = flat @ axes.T
  error = jnp.std(along, axis=0, ddof=1) / jnp.sqrt(size)
  z = (jnp.mean(along, axis=0) - axes @ exact) / error
  spread = jnp.sqrt(jnp.sum(jnp.var(flat, axis=0, ddof=1)) / size)
  return Bias(z, spread / jnp.linalg.norm(exact))
