# SPDX-License-Identifier: Apache-2.0
"""The tissue's stochastic dynamics: order, noise, memory and time of a step.

Strong order: on dX = -k (X - .5) dt + sigma dW the exact solution follows each
step from the increment that the cell drew and from what a step does not see of
the path, which is drawn conditionally: with I = int_0^dt exp(-k (dt - s)) dW(s)

  X <- .5 + exp(-k dt) (X - .5) + sigma I
  I | dW ~ N(a dW / dt, v - a^2 / dt)
  a = (1 - exp(-k dt)) / k,  v = (1 - exp(-2 k dt)) / (2 k)

Time is CPU time on one core, in one process, medians; memory is what the
compiled program reports of itself.
"""

import functools
import math
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import information, interfaces, noise, unroll
from bionet_core.cells import tissue

SEEDS = (0,)
_ROUNDS = 5
_RELAX, _SIGMA, _END, _START, _PATHS = 2.0, 0.05, 1.0, 0.6, 2000
_STEPS, _BATCH, _CELLS = 2000, 50, 7


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Rows: what was measured, and what theory or the issue asks for."""
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  seed, key = seeds[0], unroll.seed_key(seeds[0])
  measures = {
    'strong order': lambda: (_strong_order(key), '1 (additive noise)'),
    'noise, exponent of dt': lambda: (_noise_exponent(key), '.5'),
    'gradient memory, MiB, remat': lambda: (_memory(seed, True), '5 at most'),
    'gradient memory, MiB, plain': lambda: (_memory(seed, False), '-'),
    'CPU us a step, forward': lambda: (_time(_forward(key)), '-'),
    'CPU us a step, noise alone': lambda: (_time(_noise(key, ours=True)), '-'),
    "CPU us a step, the same by JAX's own functions": lambda: (
      _time(_noise(key, ours=False)),
      '-',
    ),
    'CPU us a step, gradient, remat': lambda: (_time(_slope(seed, True)), '-'),
    'CPU us a step, gradient, plain': lambda: (_time(_slope(seed, False)), '-'),
  }
  rows = []
  for name, measure in measures.items():
    if only in name:
      value, wanted = measure()
      rows.append({'measure': name, 'value': value, 'expected': wanted})
  return rows


def _strong_order(key: jax.Array) -> float:
  numbers = [8, 16, 32, 64, 128]
  errors = [_strong_error(key, n) for n in numbers]
  return float(-np.polyfit(np.log(numbers), np.log(errors), 1)[0])


def _strong_error(key: jax.Array, num_steps: int) -> float:
  """Mean |cell - exact solution| at the end, over paths."""
  dt = _END / num_steps
  cell = tissue.cell_from_rate(
    tissue.fixed_rate(lambda x: -_RELAX * (x - 0.5)), 1, remat=False
  )
  inputs = jnp.broadcast_to(jnp.array([[dt, _SIGMA]]), (_PATHS, 2))
  keys = unroll.trial_keys(key, jnp.arange(_PATHS))
  rest_key = jax.random.fold_in(key, 1)
  decay = math.exp(-_RELAX * dt)
  a, v = (1 - decay) / _RELAX, (1 - decay**2) / (2 * _RELAX)
  rest = math.sqrt(v - a**2 / dt)

  def advance(states, step):
    state, exact = states
    step_keys = unroll.step_keys(keys, jnp.full(_PATHS, step))
    # The very draw of the cell's step.
    drawn = noise.normal(step_keys, 1)
    unseen = jax.random.normal(jax.random.fold_in(rest_key, step), (_PATHS, 1))
    integral = a / math.sqrt(dt) * drawn + rest * unseen
    exact = 0.5 + decay * (exact - 0.5) + _SIGMA * integral
    state, _ = cell.step({}, {}, state, step_keys, inputs)
    return (state, exact), None

  start = jnp.full((_PATHS, 1), _START)
  (state, exact), _ = jax.jit(
    lambda s: jax.lax.scan(advance, s, jnp.arange(num_steps))
  )((start, start))
  return float(jnp.mean(jnp.abs(state - exact)))


def _noise_exponent(key: jax.Array) -> float:
  """The slope of log(deviation of one step) over log(dt), without drift."""
  cell = tissue.cell_from_rate(tissue.fixed_rate(lambda x: 0 * x), _CELLS)
  keys = unroll.trial_keys(key, jnp.arange(_PATHS))
  state = jnp.full((_PATHS, _CELLS), 0.5)
  dts = [0.04, 0.02, 0.01, 0.005, 0.0025]
  deviations = [
    np.std(
      cell.step(
        {},
        {},
        state,
        unroll.step_keys(keys, jnp.full(_PATHS, i)),
        jnp.broadcast_to(jnp.array([[dt, _SIGMA]]), (_PATHS, 2)),
      )[0]
    )
    for i, dt in enumerate(dts)
  ]
  return float(np.polyfit(np.log(dts), np.log(deviations), 1)[0])


def _trials() -> interfaces.Trials:
  shape = (_STEPS, _BATCH)
  last = jnp.arange(_STEPS)[:, None] == _STEPS - 1
  return interfaces.Trials(
    inputs=jnp.broadcast_to(jnp.array([0.01, 0.1]), (*shape, 2)),
    targets=jnp.zeros((*shape, 1)),
    mask=jnp.broadcast_to(jnp.where(last, 1.0, 0.0), shape),
    index=jnp.arange(_BATCH),
  )


def _loss(outputs, targets, mask):
  del targets
  measured = information.exact_soft_utility(outputs)
  return -measured.utility * jnp.mean(mask), {}


def _objective(key: jax.Array, remat: bool):
  rate = tissue.regulatory_network((8, 8))
  cell = tissue.cell_from_rate(rate, _CELLS, remat=remat)
  trials = _trials()
  keys, steps = unroll.trial_keys(key, trials.index), jnp.zeros(_BATCH, int)

  def objective(params):
    state = unroll.initial_state(cell, {}, key, trials.index)
    return unroll.unroll(
      cell, _loss, params, {}, state, keys, steps, trials, remat=remat
    )[0]

  return objective, rate.init(key)


@functools.cache
def _gradient(seed: int, remat: bool):
  key = unroll.seed_key(seed)
  objective, params = _objective(key, remat)
  return jax.jit(jax.grad(objective)).lower(params).compile(), params


def _memory(seed: int, remat: bool) -> float:
  compiled, _ = _gradient(seed, remat)
  return compiled.memory_analysis().temp_size_in_bytes / 2**20


def _slope(seed: int, remat: bool):
  compiled, params = _gradient(seed, remat)
  return lambda: compiled(params)


def _forward(key: jax.Array):
  objective, params = _objective(key, True)
  compiled = jax.jit(objective)
  return lambda: compiled(params)


def _noise(key: jax.Array, *, ours: bool):
  keys = unroll.trial_keys(key, jnp.arange(_BATCH))
  fold_in, normal = noise.fold_in, noise.normal
  if not ours:
    fold_in = jax.vmap(jax.random.fold_in)
    normal = lambda keys, num: jax.vmap(  # noqa: E731
      lambda k: jax.random.normal(k, (num,))
    )(keys)

  def advance(total, step):
    step_keys = fold_in(keys, jnp.full(_BATCH, step))
    return total + normal(step_keys, _CELLS), None

  start = jnp.zeros((_BATCH, _CELLS))
  drawn = jax.jit(lambda: jax.lax.scan(advance, start, jnp.arange(_STEPS))[0])
  return drawn


def _time(subject) -> float:
  """CPU microseconds per step."""
  times = []
  for round_ in range(_ROUNDS + 1):
    began = time.process_time()
    jax.block_until_ready(subject())
    if round_:  # the first one may compile
      times.append((time.process_time() - began) / _STEPS * 1e6)
  return statistics.median(times)
