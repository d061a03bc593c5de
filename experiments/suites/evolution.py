# SPDX-License-Identifier: Apache-2.0
"""CPU time of a generation, beside a Python loop over a cached jit.

The published notebook's sizes: 20 members, R 50, 2,000 steps. The loop judges
one member after the other with one compiled function, and selects and mutates
as the learner does; in each pair of rows both have the same draws, and their
losses are compared. All are measured in one process on one core, in turn, in
CPU time; medians, and medians of the ratios within a round.
"""

import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import unroll
from bionet_learners import population
from experiments import build, updates
from experiments.configs import cell_fate as configs

SEEDS = (0,)
_ROUNDS = 5
_LOOP, _CALL = 'loop over a cached jit', 'one compiled call'


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Rows: CPU ms a generation, and how often it fits into the loop's time."""
  # Threads that wait for each other burn CPU time; one core is comparable. This
  # must come before JAX starts its own threads.
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  subjects = {}
  for noise in ('own noise', 'common noise'):
    settings = _config(seeds[0], common=noise == 'common noise')
    subjects[f'{_LOOP}, {noise}'] = _looped(settings)
    subjects[f'{_CALL}, {noise}'] = _called(settings)
  if not any(only in name for name in subjects):
    return []
  times = {name: [] for name in subjects}
  for round_ in range(_ROUNDS + 1):
    losses = {}
    for name, subject in subjects.items():
      began = time.process_time()
      losses[name] = subject()
      if round_:  # the first one compiles
        times[name].append((time.process_time() - began) * 1e3)
    for name in subjects:  # identical draws, identical losses
      if name.startswith(_CALL):
        looped = losses[name.replace(_CALL, _LOOP)]
        np.testing.assert_allclose(losses[name], looped, rtol=1e-3, atol=1e-4)
  loop = times[f'{_LOOP}, own noise']
  return [
    {
      'generation': name,
      'CPU ms': statistics.median(values),
      'x faster': statistics.median(
        slow / fast for slow, fast in zip(loop, values, strict=True)
      ),
    }
    for name, values in times.items()
    if only in name
  ]


def _config(seed: int, *, common: bool):
  config = configs.get_config('evolution')
  config.seed = seed
  config.learner.common_noise = common
  return config


def _start(config):
  run = build.build(config)
  index = jnp.arange(run.batch_size)
  trials = run.task.sample(run.keys.data, index, run.batch_size)
  return run, updates.init(run), trials


def _called(config):
  """A generation as the learner's own update; its mean loss."""
  run, state, trials = _start(config)
  update = jax.jit(run.learner.update)

  def subject():
    _, metrics = jax.block_until_ready(update(state, run.keys.noise, trials))
    return float(metrics['loss_mean'])

  return subject


def _looped(config):
  """A generation member by member, selection and mutation in NumPy."""
  run, state, trials = _start(config)
  cell, loss = run.dynamics, run.task.losses[run.task.spec.loss]
  settings = config.learner

  @jax.jit
  def judge(params, key):
    begun = unroll.initial_state(cell, state.constants, key, trials.index)
    keys = unroll.trial_keys(key, trials.index)
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    return unroll.unroll(
      cell, loss, params, state.constants, begun, keys, steps, trials
    )[0]

  members = jax.device_get(state.rule_state.shared.members)
  size, elites = settings.population_size, settings.elites
  noise_keys = [
    run.keys.noise
    if settings.common_noise
    else population.member_key(run.keys.noise, i)
    for i in range(size)
  ]
  rng = np.random.default_rng(config.seed)

  def subject():
    losses = [
      float(judge(jax.tree.map(lambda x, i=i: x[i], members), key))
      for i, key in enumerate(noise_keys)
    ]
    kept = np.argsort(losses)[:elites]
    parents = kept[rng.integers(elites, size=size - elites)]
    jax.tree.map(
      lambda x: np.concatenate(
        [x[kept], x[parents] + settings.std * rng.normal(size=x[parents].shape)]
      ),
      members,
    )
    return float(np.mean(losses))

  return subject
