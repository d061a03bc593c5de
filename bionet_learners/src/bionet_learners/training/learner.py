# SPDX-License-Identifier: Apache-2.0
"""A Learner in the loop: its updates between two borders, compiled."""

import dataclasses
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.training import metrics

_RANGE_BYTES = 256 * 2**20  # most that the trials of one compiled range take

Schedule = Callable[[chex.Numeric], chex.Numeric]


def sample_range(
  sample: interfaces.SampleFn,
  key: jax.Array,
  first: jax.Array,
  count: int,
  batch_size: int,
) -> interfaces.Trials:
  """The trials of `count` updates from number `first` on, `[count, T, B, ...]`.

  All are sampled in one call, so that what a task draws once an epoch is drawn
  once, outside the scan over updates.
  """
  index = first * batch_size + jnp.arange(count * batch_size)
  trials = sample(key, index, batch_size)

  def split(x):  # [T, count * B, ...] -> [count, T, B, ...]
    x = x.reshape(x.shape[0], count, batch_size, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  return dataclasses.replace(
    trials,
    index=trials.index.reshape(count, batch_size),
    **jax.tree.map(split, unroll.timed(trials)),
  )


def scan_updates(
  learner: base.Learner,
  key: jax.Array,
  state: base.LearnerState,
  batches: interfaces.Trials,
) -> tuple[base.LearnerState, dict[str, jax.Array]]:
  """One update for each of the batches `[n, T, B, ...]`; metrics `[n]`."""
  return jax.lax.scan(
    lambda state, batch: learner.update(state, key, batch), state, batches
  )


def make_advance(
  learner: base.Learner,
  sample: interfaces.SampleFn,
  *,
  data_key: jax.Array,
  noise_key: jax.Array,
  batch_size: int,
) -> Callable[..., tuple[base.LearnerState, dict[str, jax.Array]]]:
  """The compiled range on one device.

  Returns:
    `(state, first, count) -> (state, {name: [count]})`: samples the trials of
    `count` updates (static) from number `first` (int `[]`) on, and scans over
    them. The state's memory is given up.
  """

  def advance(state, first, count):
    batches = sample_range(sample, data_key, first, count, batch_size)
    return scan_updates(learner, noise_key, state, batches)

  return jax.jit(advance, static_argnums=2, donate_argnums=0)


def longest_range(
  sample: interfaces.SampleFn, key: jax.Array, batch_size: int
) -> int:
  """How many updates' trials fit into the memory of one range; at least 1."""
  batch = jax.eval_shape(
    lambda: sample(key, jnp.arange(batch_size), batch_size)
  )
  size = sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(batch)
  )
  return max(1, _RANGE_BYTES // size)


def advance_between(
  advance: Callable[..., tuple[base.LearnerState, dict[str, jax.Array]]],
  longest: int,
  learning_rate: Schedule | None = None,
) -> Callable[..., tuple[base.LearnerState, list[metrics.Metrics]]]:
  """The adapter: what `ranges.train_ranges` advances a Learner's state with.

  Args:
    advance: the compiled range, of one device or many.
    longest: the most updates of one call.
    learning_rate: from the number of an update to its rate, to be reported;
      None: no rate is.

  Returns:
    `(state, first, last) -> (state, parts)`; nothing is read from the device.
  """

  @jax.jit
  def rates(updates):
    if learning_rate is None:
      return {}
    rate = jnp.broadcast_to(learning_rate(updates), updates.shape)
    return {'learning_rate': rate}

  def advance_to(state, first, last):
    parts = []
    while first < last:
      count = min(longest, last - first)
      # Put explicitly: the loop runs under a transfer guard.
      state, values = advance(state, jax.device_put(np.int32(first)), count)
      numbers = np.arange(first, first + count, dtype=np.int32)
      values = {**values, **rates(jax.device_put(numbers))}
      parts.append(metrics.Metrics(values))
      first += count
    return state, parts

  return advance_to
