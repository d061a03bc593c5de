# SPDX-License-Identifier: Apache-2.0
"""A learner on several devices of this machine: the only pmap.

Trials are split over the devices, `[D, n, T, B/D, ...]`; parameters, constants,
the optimizer's state and what a rule shares are the same on each, and stay so,
because every learner averages its updates with the `Devices` it is given. What
a rule keeps per trial lives with its trials. A learner that splits a population
gets all trials on every device.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners import base as learners
from bionet_learners.training import learner as learner_ranges

_AXIS = 'devices'


def devices(count: int) -> learners.Devices:
  """The collectives for a learner on so many devices; ONE for one."""
  if count == 1:
    return learners.ONE

  def mean(tree):
    return jax.tree.map(
      lambda x: (
        jax.lax.pmean(x, _AXIS) if jnp.issubdtype(x.dtype, jnp.inexact) else x
      ),
      tree,
    )

  return learners.Devices(
    count=count,
    index=lambda: jax.lax.axis_index(_AXIS),
    mean=mean,
    gather=lambda tree: jax.lax.all_gather(tree, _AXIS, tiled=True),
  )


def check(count: int, batch_size: int) -> None:
  """Raises ValueError for devices that are not there, or share no batch."""
  if count < 1:
    raise ValueError(f'devices={count}: must be at least 1.')
  present = jax.local_device_count()
  if count > present:
    hint = ''
    if jax.default_backend() == 'cpu':
      hint = (
        ' To pretend more on a CPU, set '
        f'XLA_FLAGS=--xla_force_host_platform_device_count={count} in the '
        'environment.'
      )
    raise ValueError(
      f'devices={count}: must be at most {present}, as many as are here.{hint}'
    )
  if batch_size % count:
    near = batch_size - batch_size % count or count
    raise ValueError(
      f'batch_size={batch_size}: must be a multiple of {count}, for {count} '
      f'devices share it equally; {near} would do.'
    )


def shard(
  state: learners.LearnerState, learner: learners.Learner, count: int
) -> learners.LearnerState:
  """A whole state laid out over devices, `[D, ...]` each leaf."""
  local = jax.local_devices()[:count]

  def same(tree):
    return jax.tree.map(lambda x: _spread([x] * count, local), tree)

  def parts(tree):
    return jax.tree.map(lambda x: _spread(jnp.split(x, count), local), tree)

  rule = state.rule_state
  if learner.partition == 'trials':
    rule = rule._replace(
      shared=same(rule.shared), per_trial=parts(rule.per_trial)
    )
  else:
    rule = same(rule)
  return same(state._replace(rule_state=()))._replace(rule_state=rule)


def whole(
  state: learners.LearnerState, learner: learners.Learner
) -> learners.LearnerState:
  """The state of one device of what `shard` laid out: all trials again."""

  def first(tree):
    return jax.tree.map(lambda x: _shards(x)[0], tree)

  def joined(tree):
    home = jax.local_devices()[0]
    return jax.tree.map(
      lambda x: jnp.concatenate(
        [jax.device_put(part, home) for part in _shards(x)]
      ),
      tree,
    )

  rule = state.rule_state
  if learner.partition == 'trials':
    rule = rule._replace(
      shared=first(rule.shared), per_trial=joined(rule.per_trial)
    )
  else:
    rule = first(rule)
  return first(state._replace(rule_state=()))._replace(rule_state=rule)


def make_advance(
  learner: learners.Learner,
  sample: interfaces.SampleFn,
  count: int,
  *,
  data_key: jax.Array,
  noise_key: jax.Array,
  batch_size: int,
) -> Callable[..., tuple[learners.LearnerState, dict[str, jax.Array]]]:
  """The compiled range on several devices, as `make_advance` on one.

  The trials are sampled on the first device and handed out.

  Args:
    learner: made with `devices(count)`.
    sample: the task's.
    count: D, which divides `batch_size`.
    data_key: draws the trials.
    noise_key: draws their noise.
    batch_size: trials per update, over all devices.

  Returns:
    `(state, first, n) -> (state, {name: [n]})`, the state as `shard` lays it
    out; the metrics are those of the first device.
  """
  split = learner.partition == 'trials'
  local = jax.local_devices()[:count]
  mesh = jax.sharding.Mesh(np.array(local), (_AXIS,))
  spec = jax.sharding.PartitionSpec(*([_AXIS] if split else []))
  layout = jax.sharding.NamedSharding(mesh, spec)

  @functools.partial(jax.jit, static_argnums=1)
  def sampled(first, n):
    batches = learner_ranges.sample_range(
      sample, data_key, first, n, batch_size
    )
    return _split_trials(batches, count) if split else batches

  @functools.partial(
    jax.pmap,
    axis_name=_AXIS,
    in_axes=(0, 0 if split else None),
    donate_argnums=0,
    devices=local,
  )
  def scan(state, batches):
    return learner_ranges.scan_updates(learner, noise_key, state, batches)

  def advance(state, first, n):
    # The batches are put explicitly: JAX's transfer guard, under which the loop
    # runs, makes an implicit transfer an error.
    batches = jax.device_put(sampled(first, n), layout)
    state, values = scan(state, batches)
    return state, jax.tree.map(lambda x: _shards(x)[0], values)

  return advance


def _split_trials(batches: interfaces.Trials, count: int) -> interfaces.Trials:
  """Batches `[n, T, B, ...]` as `[D, n, T, B/D, ...]`."""

  def cut(x, axis):
    x = x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)

  return interfaces.Trials(
    index=cut(batches.index, 1),
    **jax.tree.map(lambda x: cut(x, 2), unroll.timed(batches)),
  )


def _spread(parts: list[jax.Array], local: list[jax.Device]) -> jax.Array:
  """One array `[D, ...]`, part d on device d, nothing shared with the parts."""
  typed = jnp.issubdtype(parts[0].dtype, jax.dtypes.prng_key)
  if typed:
    impl = jax.random.key_impl(parts[0])
    parts = [jax.random.key_data(part) for part in parts]
  # By way of the host: a device_put may alias, and donation would then delete
  # what the caller still has.
  stacked = np.stack([np.asarray(part) for part in parts])
  mesh = jax.sharding.Mesh(np.array(local), (_AXIS,))
  spec = jax.sharding.PartitionSpec(_AXIS)
  laid = jax.device_put(stacked, jax.sharding.NamedSharding(mesh, spec))
  return jax.random.wrap_key_data(laid, impl=impl) if typed else laid


def _shards(x: jax.Array) -> list[jax.Array]:
  """The parts of an array `[D, ...]`, each on its device."""
  parts = sorted(
    x.addressable_shards, key=lambda part: part.index[0].start or 0
  )
  return [jax.lax.squeeze(part.data, (0,)) for part in parts]
