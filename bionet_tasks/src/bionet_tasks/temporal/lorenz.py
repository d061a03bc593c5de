# SPDX-License-Identifier: Apache-2.0
"""Lorenz forecasting: where is a chaotic flow in h steps?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_tasks import base

_SIGMA, _RHO, _BETA = 10.0, 28.0, 8.0 / 3.0
_ORBIT = 2**16  # states of each precomputed orbit
_WARM_UP = 1000  # steps until an orbit is on the attractor


def flow(state: jax.Array) -> jax.Array:
  """The Lorenz system's velocity `[..., 3]`.

  dx/dt = 10 (y - x), dy/dt = x (28 - z) - y, dz/dt = x y - 8/3 z.

  Source: E. N. Lorenz, J. Atmos. Sci. 20, 130 (1963).
  """
  x, y, z = state[..., 0], state[..., 1], state[..., 2]
  return jnp.stack(
    [_SIGMA * (y - x), x * (_RHO - z) - y, x * y - _BETA * z], axis=-1
  )


def rk4(state: jax.Array, dt: float) -> jax.Array:
  """One classical Runge-Kutta step of `flow`: fourth order in dt."""
  k1 = flow(state)
  k2 = flow(state + dt / 2 * k1)
  k3 = flow(state + dt / 2 * k2)
  k4 = flow(state + dt * k3)
  return state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def lorenz(
  *,
  length: int = 100,
  horizon: int = 10,
  min_length: int | None = None,
  washout: int = 0,
  dt: float = 0.01,
  stream: bool = False,
  num_held_out: int = 200,
  seed: int = 0,
) -> base.Task:
  """The state of a Lorenz system, and the one h steps later.

    inputs_t = s_t,  targets_t = s_{t+h},  s z-scored by the training orbit

  asked at every step after `washout`. 'nrmse' is the root of the mean squared
  error over steps, trials and components, in standard deviations: 1 for the
  mean, .695 for persistence (the state now) at h = 10, 0 for a perfect
  forecast. The state now is a part of the question, and the system is Markov,
  so this asks for a nonlinear map rather than for memory: check it with
  `check_task(..., memory=False)`.

  Training cuts trials from one orbit of 65,536 steps at random places, the
  evaluation from another, from another start.

  As a stream without end (`stream`) row r of the batch has its own place p_r,
  and update u goes on where the last one ended:

    s of row r, update u, step t:  p_r + u length + t   (modulo the orbit)

  The trial's index is the row. The orbit's end is followed by its start: a jump
  once in 65,536 steps.

  Args:
    length: T.
    horizon: h, in steps of dt.
    min_length: the fewest steps of a trial; T is then the most, and its end
      uniform between the two. Not for a stream.
    washout: first steps that are not asked, fewer than a trial's. A stream is
      asked at every step, but for its evaluation, whose trials do begin.
    dt: a step of the integration.
    stream: whether batches go on where the last one ended.
    num_held_out: trials of the held-out evaluation.
    seed: of the two orbits.

  Raises:
    ValueError: for a setting out of range.
  """
  base.check_positive(length=length, horizon=horizon, num_held_out=num_held_out)
  shortest = length if min_length is None else min_length
  if not 0 <= washout < shortest:
    raise ValueError(
      f'washout={washout}: must be from 0 to less than {shortest} steps.'
    )
  if not 0 < dt <= 0.02:
    raise ValueError(f'dt={dt}: must be above 0 and at most 0.02.')
  if stream and min_length is not None:
    raise ValueError(
      f'min_length={min_length}: must be None; a stream has no trial that ends.'
    )
  if length + horizon >= _ORBIT:
    raise ValueError(
      f'length={length}: must be less than {_ORBIT - horizon}; an orbit has '
      f'{_ORBIT} steps in all.'
    )
  raw = _orbits(seed, dt)
  mean, deviation = raw[0].mean(axis=0), raw[0].std(axis=0)
  orbits = jnp.asarray((raw - mean) / deviation, dtype=float)

  def cut(orbit, start, trial_length, washout):
    """A trial of an orbit `[L, 3]` from a place on."""
    places = start + jnp.arange(length + horizon)
    states = orbit[places % _ORBIT]
    step = jnp.arange(length)
    is_asked = (step >= washout) & (step < trial_length)
    mask = jnp.where(is_asked, 1 / (trial_length - washout), 0.0)
    return states[:length], states[horizon:], mask

  def trial(key, orbit):
    keys = jax.random.split(key)
    trial_length = base.drawn_length(keys[0], 'length', min_length, length)
    last = _ORBIT - length - horizon
    start = jax.random.randint(keys[1], (), 0, last)
    return cut(orbit, start, trial_length, washout)

  sample = base.drawn_anew(functools.partial(trial, orbit=orbits[0]))
  judged = base.drawn_anew(functools.partial(trial, orbit=orbits[1]))
  jax.eval_shape(judged, unroll.seed_key(0), jnp.arange(1))

  def sample_stream(key, index, batch_size=None):
    unroll.check_key(key)
    batch_size = batch_size or index.shape[0]
    row, update = index % batch_size, index // batch_size
    keys = jax.vmap(lambda r: jax.random.fold_in(key, r))(row)
    places = jax.vmap(lambda k: jax.random.randint(k, (), 0, _ORBIT))(keys)
    # What 32 bits lose of the product is a multiple of the orbit's length.
    start = (places + update * length) % _ORBIT
    inputs, targets, mask = jax.vmap(
      lambda s: cut(orbits[0], s, jnp.asarray(length), 0), out_axes=1
    )(start)
    return interfaces.Trials(
      inputs=inputs, targets=targets, mask=mask, index=row
    )

  of_steps = base.sum_over_steps(base.squared_error)

  def metrics(outputs, trials):
    scores = of_steps(outputs, trials)
    return {**scores, 'nrmse': jnp.sqrt(scores['mse'])}

  return base.Task(
    spec=base.TaskSpec(
      name='lorenz',
      input_shape=(3,),
      num_outputs=3,
      num_steps=length,
      metric='nrmse',
      chance={'nrmse': 1.0, 'loss': 1.0},
      ceiling={'nrmse': 0.0, 'loss': 0.0},
      measures={
        **base.SQUARED_ERROR,
        'nrmse': base.Measure(
          '', 'root of the mse, over the standard deviation of the targets'
        ),
      },
    ),
    sample=sample_stream if stream else sample,
    evaluations={'held_out': base.Evaluation(num_held_out, judged)},
    loss=base.squared_error,
    metrics=metrics,
  )


@functools.lru_cache(maxsize=4)
def _orbits(seed: int, dt: float) -> np.ndarray:
  """Two orbits `[2, L, 3]` on the attractor, from two starts."""
  start = 10 * jax.random.normal(base.instance_key(seed), (2, 3))
  start = start + jnp.array([[0.0, 0.0, 25.0]])

  @jax.jit
  def integrate(start):
    def advance(state, _):
      return rk4(state, dt), state

    return jax.lax.scan(advance, start, None, length=_WARM_UP + _ORBIT)[1]

  return np.asarray(integrate(start)[_WARM_UP:]).swapaxes(0, 1)
