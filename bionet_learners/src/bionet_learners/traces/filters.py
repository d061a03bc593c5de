# SPDX-License-Identifier: Apache-2.0
"""The filters of pp_prop: pre and post of a synapse, kept apart."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners.traces import advance, placement, unit_matrix


class Filters(NamedTuple):
  """The two traces of a synapse.

  Attributes:
    pre: x, summed with decay: `[B, Q, m]`; `[B]`, of ones, for an elementwise
      parameter.
    post: of each leaf that the synapse drives, ds/dy averaged with decay,
      `[B, Q, n]` or the parameter's `[B, ...]`.
  """

  pre: jax.Array
  post: unit_matrix.Vector


def empty(site: placement.Site, batch: int, dtype: jnp.dtype) -> Filters:
  """The filters of trials that have no past."""
  pre = (batch,)
  if site.synapse.product is not None:
    pre = (batch, site.shape[0], site.weights[1])
  post = jnp.zeros((batch, *site.shape), dtype)
  return Filters(jnp.zeros(pre, dtype), (post,) * len(site.leaves))


def newest(step: advance.Window, at: int) -> Filters:
  """What one step alone would leave in the filters of site number `at`."""
  x, post = step.inputs[at], step.drive[at]
  # The input of an elementwise parameter is the constant 1.
  return Filters(jnp.ones(post[0].shape[:1]) if x is None else x, post)


def advanced(
  decay: float,
  sites: list[placement.Site],
  filters: list[Filters],
  step: advance.Window,
) -> list[Filters]:
  """All filters after a step.

  pre <- decay pre + x,   post <- decay D post + (1 - decay) c
  """
  after = []
  for at, (site, old) in enumerate(zip(sites, filters, strict=True)):
    x, drive = newest(step, at)
    moved = site.of_matrix(step.decay[site.group]) @ old.post
    post = tuple(
      decay * p + (1 - decay) * c for p, c in zip(moved, drive, strict=True)
    )
    # In the types that they began with: a loop carries them.
    after.append(
      jax.tree.map(
        lambda new, before: new.astype(before.dtype),
        Filters(decay * old.pre + x, post),
        old,
      )
    )
  return after


def credit(
  site: placement.Site,
  filters: Filters,
  signal: interfaces.ArrayTree,
  start: chex.Numeric,
) -> jax.Array:
  """`pre (signal post)^T / start`, as `placement.no_sums` lays it out.

  Args:
    site: the site.
    filters: its filters.
    signal: dL/d state.
    start: `[B]`, the share of the filters' weights that they have seen; 0
      where they have not begun, and there is no credit.
  """
  along = placement.signals_of(site, signal)
  post = functools.reduce(
    jnp.add, [a * b for a, b in zip(along, filters.post, strict=True)]
  )
  start = jnp.broadcast_to(start, post.shape[:1])
  # At the first step the filters are empty, and 0 / 0 would be NaN.
  scale = jnp.where(start > 0, 1 / jnp.where(start > 0, start, 1), 0)
  post *= _wide(scale.astype(post.dtype), post)
  if site.synapse.product is None:
    return _wide(filters.pre, post) * post
  # Weights of a block are shared by its places: their credit is summed.
  blocks = site.weights[0]
  x, y = (
    a.reshape(a.shape[0], blocks, -1, a.shape[-1]) for a in (filters.pre, post)
  )
  return jnp.einsum('bgpi,bgpj->gij', x, y)


def _wide(x: jax.Array, like: jax.Array) -> jax.Array:
  """`[B]` as `[B, 1, ...]`, to go with another array."""
  return x.reshape(-1, *[1] * (like.ndim - 1))
