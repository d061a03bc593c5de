# SPDX-License-Identifier: Apache-2.0
"""The one rule of traces: what d_rtrl, e_prop, rflo and three_factor share."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, unroll
from bionet_learners import base, over_time, windows
from bionet_learners.traces import opening, windowed

Execution = Literal['forward', 'reverse', 'auto']

_SHORT = 100  # steps that 'auto' takes as one window
_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


class Teaching(NamedTuple):
  """How the error comes to the units.

  Attributes:
    draw: `(params, constants, key, trials) -> shared`, drawn once.
    teach: `(cell, params, constants, shared, emission) -> (cell, loss,
      learned)`: the cell and the loss whose exact derivative is what units are
      taught, and the parameters of that cell; of the emission the shape alone.
    learn: `(shared, estimate, trials) -> (estimate, shared)`: the gradient of
      the parameters out of that of `learned`, and what is shared from now on.
    signal: `GradientRule.learning_signal`.
  """

  draw: Callable[..., interfaces.ArrayTree]
  teach: Callable[..., tuple[interfaces.Cell, Any, interfaces.ArrayTree]]
  learn: Callable[..., tuple[base.Estimate, interfaces.ArrayTree]]
  signal: Callable[..., jax.Array] | None = None


def exactly(loss: interfaces.StepLoss) -> Teaching:
  """The readout's own derivative of the loss."""
  return Teaching(
    draw=lambda *_: (),
    teach=lambda cell, params, constants, shared, emission: (
      cell,
      loss,
      params,
    ),
    learn=lambda shared, estimate, trials: (estimate, shared),
  )


def traced_rule(
  cell: interfaces.Cell,
  settings: opening.Settings,
  teaching: Teaching,
  *,
  kappa: float = 0.0,
  execution: Execution = 'forward',
  claim: base.Claim,
) -> base.GradientRule:
  """The rule of traces per synapse.

  Args:
    cell: the cell.
    settings: of the traces.
    teaching: what units are taught.
    kappa: of the filter on the emission; 0 for none.
    execution: as in `d_rtrl`.
    claim: as in `GradientRule`.
  """

  def emission_of(params, constants, state, keys, trials):
    return jax.eval_shape(
      cell.step, params, constants, state, keys, trials.inputs[0]
    )[0]

  def felt(cell, state, emission):
    """The cell whose emission is filtered, and its state."""
    if not kappa:
      return cell, state
    # The filter's value is never felt, only its trace is: it may start anew.
    z = jnp.zeros(emission.shape, emission.dtype)
    return filtered(cell, kappa), (state, z)

  def traces(params, constants, state, keys, trials):
    check_trials(trials)
    emission = emission_of(params, constants, state, keys, trials)
    filtering, state = felt(cell, state, emission)
    opened = opening.open_cell(
      filtering, settings, params, constants, state, keys, trials.inputs[0]
    )
    if kappa:
      _check_filter(opened, kappa)
    if execution == 'reverse':  # the cell was checked all the same
      return ()
    return opening.no_traces(opened, state, settings)

  def estimate(params, constants, shared, memory, key, trials, keep=True):
    keys = unroll.trial_keys(key, trials.index)
    emission = emission_of(params, constants, memory.state, keys, trials)
    taught, loss, learned = teaching.teach(
      cell, params, constants, shared, emission
    )
    taught, state = felt(taught, memory.state, emission)
    # The filter joins the cell's state for as long as the estimate runs.
    start = memory._replace(state=state)
    args = learned, constants, start, keys, trials
    if execution == 'reverse':
      result, after = windowed.reverse(taught, loss, settings, *args)
    else:
      here = settings
      # One window has no traces to advance but at its end.
      if execution == 'auto' and trials.mask.shape[0] <= _SHORT:
        here = settings._replace(window=None)
      result, after = windowed.forward(taught, loss, here, *args, keep=keep)
    if kappa:
      after = after._replace(state=after.state[0])
    result, shared = teaching.learn(shared, result, trials)
    return result, shared, after

  return over_time.over_time(
    cell,
    estimate,
    last=functools.partial(estimate, keep=False),
    traces=traces,
    shared=teaching.draw,
    learning_signal=teaching.signal,
    claim=claim,
  )


def filtered(cell: interfaces.Cell, kappa: float) -> interfaces.Cell:
  """The cell whose emission is felt through a low-pass filter.

    z_t = kappa z_{t-1} + emission_t

  Values stay as they are; derivatives go through z, which joins the state. It
  is what a leaky readout of time constant -1 / ln(kappa) does to credit.
  """
  stop = jax.lax.stop_gradient
  penalty = cell.penalty

  def step(params, constants, state, keys, inputs):
    emission, inner = cell.step(params, constants, state[0], keys, inputs)
    z = kappa * state[1] + emission
    return stop(emission) + (z - stop(z)), (inner, z)

  if penalty is None:
    return cell._replace(step=step)
  return cell._replace(
    step=step, penalty=lambda constants, state: penalty(constants, state[0])
  )


def _check_filter(opened: opening.Opened, kappa: float) -> None:
  """Raises ValueError where the filter hears what no trace of a unit holds."""
  structure = opened.transition.structure
  group = structure.groups[-1]  # the filter is the state's last leaf
  if group in structure.hears:
    raise ValueError(
      f'kappa={kappa}: the emission hears the units through a product '
      f'({structure.hears[group]}), and the filter would lose their credit at '
      'every border of windows. Set kappa to 0, or make that product a part of '
      'the readout.'
    )


def check_choice(setting: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless a setting is one of its choices."""
  if value not in choices:
    raise ValueError(
      f'{setting}={value!r}: choose one of {", ".join(choices)}.'
    )


def settings_of(
  window: int, trace_dtype: str, silent_mib: float, **more
) -> opening.Settings:
  """The settings of traces, checked.

  Raises:
    ValueError: if the window has no step, the budget is negative or no number,
      or the type is none that float32 can be added to: floating of 16 bits or
      more, and float64 in x64 alone.
  """
  windows.check_window(window)
  if not 0 <= silent_mib < math.inf:
    raise ValueError(
      f'silent_mib={silent_mib}: must be a finite number, 0 or more.'
    )
  try:
    dtype = jnp.dtype(trace_dtype or int)  # jnp.dtype(None) would be float64
  except TypeError:
    # Unknown names are refused with the same sentence as integers.
    dtype = jnp.dtype(int)
  if dtype not in (*_DTYPES, jnp.float64):
    names = ', '.join(kind.__name__ for kind in _DTYPES)
    raise ValueError(
      f'trace_dtype={trace_dtype!r}: traces are floating, of {names}, or '
      'float64 where JAX_ENABLE_X64 is set.'
    )
  if dtype == jnp.float64 and jnp.result_type(float) != jnp.float64:
    raise ValueError(
      f'trace_dtype={trace_dtype!r}: needs JAX_ENABLE_X64=1 in the '
      'environment; without it choose float32.'
    )
  return opening.Settings(
    window=window, trace_dtype=dtype, silent_mib=silent_mib, **more
  )


def check_trials(trials: interfaces.Trials) -> None:
  """Raises TypeError unless the inputs are floating."""
  if not jnp.issubdtype(trials.inputs.dtype, jnp.floating):
    raise TypeError(
      f'inputs are {trials.inputs.dtype}; rules with traces need floating '
      'inputs: make them one-hot, or cast them.'
    )
