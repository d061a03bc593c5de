# SPDX-License-Identifier: Apache-2.0
"""CPU time of an update of the reference network, beside its bare products.

The floor is a scan of the very matrix products that one update multiplies (10 +
10 sweeps, fields, and the three outer products of the update), with nothing
between them. All are measured in one process on one core, in turn, in CPU time;
medians.
"""

import os
import statistics
import time

import jax
import jax.numpy as jnp

from experiments.configs import prototypes as configs
from experiments.runs import build, updates

SEEDS = (0,)
_UPDATES = 63
_ROUNDS = 21


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Rows: CPU ms an update, and the median ratio to the floor of its round."""
  # Threads that wait for each other burn CPU time; one core is comparable. This
  # must come before JAX starts its own threads.
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  floor = 'bare scan of the products'
  subjects = {
    floor: _floor(seeds[0]),
    'epoch in one scan': _epoch(seeds[0], stop=False),
    'epoch, stops at the fixed point': _epoch(seeds[0], stop=True),
    'called from Python': _called(seeds[0], stop=False),
    'called, stops at the fixed point': _called(seeds[0], stop=True),
  }
  if not any(only in name for name in subjects):
    return []
  times = {name: [] for name in subjects}
  for round_ in range(_ROUNDS + 1):
    for name, subject in subjects.items():
      if name != floor and only not in name:
        continue
      began = time.process_time()
      subject()
      if round_:  # the first one compiles
        times[name].append((time.process_time() - began) / _UPDATES * 1e3)
  return [
    {
      'update': name,
      'CPU ms': statistics.median(values),
      'x floor': statistics.median(
        value / base for value, base in zip(values, times[floor], strict=True)
      ),
    }
    for name, values in times.items()
    if values
  ]


def _config(seed: int, *, stop: bool):
  config = configs.get_config()
  config.seed = seed
  config.network.stop_at_fixed_point = stop
  return config


def _epoch(seed: int, *, stop: bool):
  run = build.build(_config(seed, stop=stop))
  advance = updates.make_advance(run.first)
  state = updates.init(run)
  state, _ = advance(state, jnp.int32(0), _UPDATES)  # steady: trained a while

  def subject():
    nonlocal state
    state, metrics = advance(state, jnp.int32(_UPDATES), _UPDATES)
    jax.block_until_ready((state, metrics))

  return subject


def _called(seed: int, *, stop: bool):
  run = build.build(_config(seed, stop=stop))
  stage = run.first
  state, _ = updates.make_advance(stage)(
    updates.init(run), jnp.int32(0), _UPDATES
  )
  update = jax.jit(stage.learner.update, donate_argnums=0)
  size = stage.batch_size
  trials = [
    stage.task.sample(stage.keys.data, i * size + jnp.arange(size))
    for i in range(_UPDATES)
  ]

  def subject():
    nonlocal state
    for batch in trials:
      state, metrics = update(state, stage.keys.noise, batch)
    jax.block_until_ready((state, metrics))

  return subject


def _floor(seed: int):
  config = _config(seed, stop=False)
  run = build.build(config)
  stage, state = run.first, updates.init(run)
  weights = {name: leaf['w'] for name, leaf in state.params.items()}
  feedback = state.constants['to1_from2']['w']
  size, sweeps = stage.batch_size, config.learner.clamped + config.learner.free
  trials = stage.task.sample(stage.keys.data, jnp.arange(_UPDATES * size))
  inputs = trials.inputs[0].reshape(_UPDATES, size, -1)

  @jax.jit
  def products(weights):
    def update(carry, x):
      outer, _ = carry
      label = jnp.ones((size, feedback.shape[0]))
      field = x @ weights['to1_from0'] + label @ feedback
      # The fields of the update multiply by J once more than the sweeps.
      hidden, _ = jax.lax.scan(
        lambda s, _: (s @ weights['to1_from1'], None), field, None, sweeps + 1
      )
      scores = hidden @ weights['to2_from1']
      outer = {
        'to1_from0': x.T @ hidden,
        'to1_from1': hidden.T @ hidden,
        'to2_from1': hidden.T @ scores,
      }
      return (outer, scores), None

    start = (weights, jnp.zeros((size, weights['to2_from1'].shape[1])))
    return jax.lax.scan(update, start, inputs)[0]

  return lambda: jax.block_until_ready(products(weights))
