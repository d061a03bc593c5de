# SPDX-License-Identifier: Apache-2.0
"""CPU time of a generation, beside a Python loop over a cached jit.

The published notebook's sizes: 20 members, R 50, 2,000 steps. The loop judges
one member after the other with one compiled function, and selects and mutates
as the learner does. It is written in plain JAX, with JAX's own functions for
the noise; another one takes our cell, which draws the same noise faster. Under
the same noise all have the same draws, and their losses are compared. All are
measured in one process on one core, in turn, in CPU time; medians, and medians
of the ratios within a round.
"""

import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import unroll
from bionet_core.cells import lattice, tissue
from bionet_learners.populations import population
from experiments.configs import cell_fate as configs
from experiments.runs import build, updates

SEEDS = (0,)
_ROUNDS = 5
_LOOP = 'loop over a cached jit, plain JAX'
_OURS = 'loop over a cached jit, our cell'
_CALL = 'one compiled call'


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Rows: CPU ms per generation, and how often it fits into the loop's time."""
  # Threads that wait for each other burn CPU time; one core is comparable. This
  # must come before JAX starts its own threads.
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  subjects = {}
  for noise in ('own noise', 'common noise'):
    settings = _config(seeds[0], common=noise == 'common noise')
    subjects[f'{_LOOP}, {noise}'] = _looped(settings, _plain)
    subjects[f'{_OURS}, {noise}'] = _looped(settings, _with_cell)
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
      looped = losses[f'{_LOOP}, {name.split(", ")[-1]}']
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
  stage = run.first
  index = jnp.arange(stage.batch_size)
  trials = stage.task.sample(stage.keys.data, index, stage.batch_size)
  return stage, updates.init(run), trials


def _called(config):
  """A generation as the learner's own update; its mean loss."""
  stage, state, trials = _start(config)
  update = jax.jit(stage.learner.update)

  def subject():
    _, metrics = jax.block_until_ready(update(state, stage.keys.noise, trials))
    return float(metrics['loss_mean'])

  return subject


def _with_cell(config, stage, trials):
  """`(params, key) -> loss` of a member, by our cell and its unrolling."""
  del config
  cell, loss = stage.dynamics, stage.task.loss

  def judge(params, key):
    start = unroll.initial_state(cell, {}, key, trials.index)
    keys = unroll.trial_keys(key, trials.index)
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    return unroll.unroll(cell, loss, params, {}, start, keys, steps, trials)[0]

  return judge


def _plain(config, stage, trials):
  """The same in plain JAX, as one writes it without bionet."""
  loss = stage.task.loss
  rate = tissue.regulatory_network(config.network.hidden, centred=False)
  fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))

  def judge(params, key):
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(trials.index)

    def step(states, at_step):
      number, inputs = at_step
      dt, sigma = inputs[:, :1], inputs[:, 1:]
      xi = jax.vmap(lambda k: jax.random.normal(k, states.shape[1:]))(
        fold_in(keys, number)
      )
      drift = rate.apply(params, lattice.row_means(states)) * dt
      moved = states + drift + sigma * jnp.sqrt(dt) * xi
      return jnp.clip(moved, 0.0, 1.0), None

    start = unroll.initial_state(stage.dynamics, {}, key, trials.index)
    numbers = jnp.arange(trials.inputs.shape[0])
    states, _ = jax.lax.scan(step, start, (numbers, trials.inputs))
    return loss(states, trials.targets[-1], trials.mask[-1])[0]

  return judge


def _looped(config, make_judge):
  """A generation member by member, selection and mutation in NumPy."""
  stage, state, trials = _start(config)
  judge = jax.jit(make_judge(config, stage, trials))
  settings = config.learner

  members = jax.device_get(state.rule_state.shared.members)
  size, elites = settings.population_size, settings.elites
  noise_keys = [
    stage.keys.noise
    if settings.common_noise
    else population.member_key(stage.keys.noise, i)
    for i in range(size)
  ]
  rng = np.random.default_rng(config.seed)

  def subject():
    losses = [
      float(judge(jax.tree.map(lambda x, i=i: x[i], members), key))
      for i, key in enumerate(noise_keys)
    ]
    best = np.argsort(losses)[:elites]
    parents = best[rng.integers(elites, size=size - elites)]
    jax.tree.map(
      lambda x: np.concatenate(
        [x[best], x[parents] + settings.std * rng.normal(size=x[parents].shape)]
      ),
      members,
    )
    return float(np.mean(losses))

  return subject
