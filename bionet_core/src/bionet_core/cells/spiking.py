# SPDX-License-Identifier: Apache-2.0
"""Leaky integrate-and-fire units, adaptive ones among them."""

import math
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from bionet_core import interfaces, surrogate
from bionet_core.cells import stack

_SURROGATES = tuple(surrogate.SURROGATES)  # a setting has the module's name


class Membrane(NamedTuple):
  """The state of spiking units after a step.

  Attributes:
    voltage: v, float `[B, N]`, before the reset that a spike brings.
    adaptation: a, float `[B, N]`, the leaky count of a unit's spikes.
    spikes: z, float `[B, N]`, 0 or 1.
    filtered: float `[B, N]`, spikes as the readout sees them.
    rest: int `[B, N]`, steps for which a unit still cannot fire.
    count: float `[B, N]`, spikes so far; None where rates cost nothing.
    age: int `[B]`, steps so far; likewise.
  """

  voltage: jax.Array
  adaptation: jax.Array
  spikes: jax.Array
  filtered: jax.Array
  rest: jax.Array
  count: jax.Array | None = None
  age: jax.Array | None = None


class Dynamics(NamedTuple):
  """What does not learn in spiking units, in steps and thresholds.

  Attributes:
    decay: alpha, what is left of the voltage after a step.
    adaptation_decay: rho, likewise of the adaptation.
    readout_decay: kappa, likewise of a filtered spike.
    rise: beta of each unit, `[N]`: by how much a spike lifts its threshold.
    credit_adaptation: whether credit flows through the thresholds.
    refractory: steps without a spike after one.
    reset: 'subtract' the threshold, or go to 'zero'.
    surrogate: name of the spike's derivative, and its two numbers.
    dampening: its height.
    steepness: its narrowness.
    counted: whether spikes are counted, for what rates cost.
  """

  decay: float
  adaptation_decay: float
  readout_decay: float
  rise: tuple[float, ...]
  credit_adaptation: bool
  refractory: int
  reset: str
  surrogate: str
  dampening: float
  steepness: float
  counted: bool


class SpikingCore(hk.RNNCore):
  """Leaky integrate-and-fire units with adaptive thresholds.

    v_t = alpha v_{t-1} + x_t W_in + z_{t-1} W_r - z_{t-1}        (subtract)
    v_t = alpha (1 - z_{t-1}) v_{t-1} + x_t W_in + z_{t-1} W_r    (zero)
    z_t = 1{v_t >= A_t}, unless the unit is refractory
    A_t = 1 + beta a_{t-1},    a_t = rho a_{t-1} + z_t
    f_t = kappa f_{t-1} + z_t

  The threshold is 1 and sets the units of v. A spike's derivative is the
  surrogate's at v_t - A_t, 0 where the unit is refractory; the reset's z is
  detached (nothing is learned through it), the one of the recurrent current is
  not. Without `credit_adaptation` A_t is detached, too: an adaptive unit keeps
  its dynamics and learns as if its threshold were given. No unit drives itself:
  the diagonal of W_r is 0. The emission is f, so a linear readout of it is the
  leaky readout y_t = kappa y_{t-1} + z_t W_out, and its time constant is a part
  of the state. While refractory a unit integrates.

  Source: G. Bellec et al., Nature Communications 11, 3625 (2020), the LIF and
  ALIF units of its methods; departs in the two choices of reset.
  """

  def __init__(
    self,
    hidden: int,
    dynamics: Dynamics,
    scale_in: float,
    scale_recurrent: float,
    name: str = 'spiking',
  ):
    """Weights start normal, with deviation scale / sqrt(fan-in)."""
    super().__init__(name=name)
    self._hidden, self._dynamics = hidden, dynamics
    self._scales = scale_in, scale_recurrent

  def __call__(self, inputs, prev_state):
    """One step; emits the filtered spikes."""
    old, dynamics = prev_state, self._dynamics
    w_in = self._weights('w_in', inputs, inputs.shape[-1], self._scales[0])
    w_r = self._weights('w_recurrent', inputs, self._hidden, self._scales[1])
    w_r = w_r * (1 - jnp.eye(self._hidden, dtype=w_r.dtype))
    current = inputs @ w_in + old.spikes @ w_r
    fired = jax.lax.stop_gradient(old.spikes)
    if dynamics.reset == 'subtract':
      voltage = dynamics.decay * old.voltage + current - fired
    else:
      voltage = dynamics.decay * (1 - fired) * old.voltage + current
    rise = jnp.asarray(dynamics.rise, voltage.dtype)[None]
    adaptation = old.adaptation
    if not dynamics.credit_adaptation:
      adaptation = jax.lax.stop_gradient(adaptation)
    spikes = surrogate.spike(
      voltage - 1 - rise * adaptation,
      dynamics.surrogate,
      dampening=dynamics.dampening,
      steepness=dynamics.steepness,
    )
    spikes = jnp.where(old.rest > 0, 0.0, spikes)
    state = Membrane(
      voltage=voltage,
      adaptation=dynamics.adaptation_decay * old.adaptation + spikes,
      spikes=spikes,
      filtered=dynamics.readout_decay * old.filtered + spikes,
      rest=jnp.where(
        spikes > 0, dynamics.refractory, jnp.maximum(old.rest - 1, 0)
      ).astype(old.rest.dtype),
    )
    if dynamics.counted:
      state = state._replace(count=old.count + spikes, age=old.age + 1)
    return state.filtered, state

  def initial_state(self, batch_size):
    """Rest: no voltage, no spike behind."""
    zeros = jnp.zeros((batch_size, self._hidden))
    rest = jnp.zeros((batch_size, self._hidden), jnp.int32)
    state = Membrane(zeros, zeros, zeros, zeros, rest)
    if self._dynamics.counted:
      state = state._replace(count=zeros, age=jnp.zeros(batch_size, jnp.int32))
    return state

  def _weights(self, name, inputs, size, scale):
    normal = hk.initializers.RandomNormal(scale / math.sqrt(size))
    return hk.get_parameter(name, (size, self._hidden), inputs.dtype, normal)


def spiking(
  spec: interfaces.Sizes,
  *,
  hidden: int = 100,
  adaptive: float = 0.0,
  dt: float = 1.0,
  tau: float = 20.0,
  tau_adaptation: float = 200.0,
  tau_readout: float = 20.0,
  rise: float = 0.1,
  credit_adaptation: bool = True,
  refractory: int = 0,
  reset: str = 'subtract',
  surrogate: str = 'triangular',
  dampening: float = 0.3,
  steepness: float = 1.0,
  scale_in: float = 1.0,
  scale_recurrent: float = 1.0,
  rate_weight: float = 0.0,
  rate_target: float = 10.0,
  num_layers: int = 1,
) -> interfaces.Cell:
  """Spiking units with a leaky readout of `spec.num_outputs`.

  A constant current I (1 - alpha) makes a unit that resets to zero fire every n
  = ceil(tau ln(I / (I - 1)) / dt) steps: the rate 1 / (n dt).

  With a `rate_weight` rates have a cost, the cell's penalty at a step that is
  asked, with F_j the spikes of unit j a second since the trial began:

    rate_weight mean_j (F_j / rate_target - 1)^2

  Of a trial by itself, so that a batch is the mean of its trials; the source
  takes the rates of a batch. Its derivative comes through the count of spikes,
  a state like any other, with a trace like any other. The loss of training has
  it, the held-out one does not. In a stream that is carried on, F counts from
  the beginning.

  Args:
    spec: sizes of the task.
    hidden: units of a layer.
    adaptive: share of units whose threshold adapts, 0 to 1: the last ones.
    dt: a step's length in ms.
    tau: membrane time constant in ms.
    tau_adaptation: time constant of the thresholds in ms.
    tau_readout: time constant of the readout in ms; 0: it sees bare spikes.
    rise: beta, by how much a spike lifts the threshold of an adaptive unit.
    credit_adaptation: whether credit flows through the thresholds: False drops
      this part of every rule's gradient or trace, e-prop's slow one.
    refractory: steps without a spike after one.
    reset: 'subtract' (the threshold, 1) or 'zero'.
    surrogate: the spike's derivative: 'triangular', 'fast_sigmoid', 'sigmoid'.
    dampening: the derivative at the threshold.
    steepness: how closely it keeps to the threshold.
    scale_in: input weights start with deviation scale_in / sqrt(inputs).
    scale_recurrent: likewise the recurrent ones.
    rate_weight: what rates cost; 0: nothing, and no spikes are counted.
    rate_target: the rate in Hz that costs nothing.
    num_layers: layers, each driven by the filtered spikes of the one below.

  Raises:
    ValueError: for a setting out of range.
  """
  stack.check_at_least_one(hidden=hidden, num_layers=num_layers)
  for name, value in (
    ('dt', dt),
    ('tau', tau),
    ('tau_adaptation', tau_adaptation),
    ('steepness', steepness),
    ('rate_target', rate_target),
  ):
    if not value > 0:
      raise ValueError(f'{name}={value}: must be above 0.')
  for name, value in (
    ('tau_readout', tau_readout),
    ('rise', rise),
    ('refractory', refractory),
    ('dampening', dampening),
    ('scale_in', scale_in),
    ('scale_recurrent', scale_recurrent),
    ('rate_weight', rate_weight),
  ):
    if not value >= 0:
      raise ValueError(f'{name}={value}: must be 0 or more.')
  if not 0 <= adaptive <= 1:
    raise ValueError(f'adaptive={adaptive}: must be from 0 to 1.')
  _check_choice('reset', reset, ('subtract', 'zero'))
  _check_choice('surrogate', surrogate, _SURROGATES)
  num_adaptive = round(adaptive * hidden)
  dynamics = Dynamics(
    decay=math.exp(-dt / tau),
    adaptation_decay=math.exp(-dt / tau_adaptation),
    readout_decay=math.exp(-dt / tau_readout) if tau_readout else 0.0,
    rise=(0.0,) * (hidden - num_adaptive) + (rise,) * num_adaptive,
    credit_adaptation=credit_adaptation,
    refractory=refractory,
    reset=reset,
    surrogate=surrogate,
    dampening=dampening,
    steepness=steepness,
    counted=rate_weight > 0,
  )
  cell = stack.layered(
    lambda: SpikingCore(hidden, dynamics, scale_in, scale_recurrent),
    lambda: hk.Linear(spec.num_outputs, name='readout'),
    num_layers,
  )
  if not rate_weight:
    return cell

  def penalty(constants, state):
    del constants
    layers = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Membrane))
    count = jnp.concatenate([layer.count for layer in layers], axis=-1)
    seconds = jnp.maximum(layers[0].age, 1)[:, None] * (dt / 1000)
    off = count / seconds / rate_target - 1
    return rate_weight * jnp.mean(jnp.square(off), axis=-1)

  return cell._replace(penalty=penalty)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f'{name}={value!r}: must be one of {", ".join(choices)}.')
