# SPDX-License-Identifier: Apache-2.0
"""The linear recurrent unit (LRU): a complex diagonal recurrence."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_core.cells import cores as haiku_cells
from bionet_core.cells import stack


class Complex(NamedTuple):
  """A complex state as two real arrays.

  Online rules keep traces of real states and differentiate real functions, so
  the pair is what they see: two state variables a unit, like an LSTM's.

  Attributes:
    real: float `[B, N]`.
    imaginary: float `[B, N]`.
  """

  real: jax.Array
  imaginary: jax.Array


class LinearRecurrentCore(hk.RNNCore):
  """A complex diagonal linear recurrence.

    h_t = lambda h_{t-1} + gamma (x_t B),    h, lambda complex [N]
    lambda = exp(-exp(nu) + i exp(theta))

  lambda keeps within the unit circle whatever nu is. At the start its radius
  |lambda| is uniform by area on a ring, its phase uniform, and gamma =
  sqrt(1 - |lambda|^2), so that white inputs make states of one size whatever
  the memory; exp(log gamma) learns from there. The step is exact in one layer
  for per-unit traces: nothing but the diagonal carries the state.

  It emits real and imaginary parts side by side, `[B, 2 N]`; or, as a layer
  below others (`mix`), N units gelu([h, x] W + b).

  Source: A. Orvieto et al., ICML (2023), arXiv 2303.06349, lemma 3.2 for the
  ring. Steps are those of a `lax.scan`; departs in a readout without a path
  from x_t (`mix` has it), and in layers without normalisation or residual path.
  """

  def __init__(
    self,
    hidden: int,
    radius: tuple[float, float],
    max_phase: float,
    mix: bool = False,
    name: str = 'lru',
  ):
    """The state is Complex; radius the ring's; max_phase in radians."""
    super().__init__(name=name)
    self._hidden, self._mix = hidden, mix
    self._radius, self._max_phase = radius, max_phase

  def __call__(self, inputs, prev_state):
    """One step; emits `[B, 2 N]`, or `[B, N]` where it mixes."""
    hidden, dtype = (self._hidden,), inputs.dtype
    nu = hk.get_parameter('nu', hidden, dtype, self._draw_nu)
    theta = hk.get_parameter('theta', hidden, dtype, self._draw_theta)
    radius, phase = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
    gamma = jnp.exp(
      hk.get_parameter(
        'log_gamma',
        hidden,
        dtype,
        lambda *_: 0.5 * jnp.log1p(-jnp.square(radius)),
      )
    )
    size = inputs.shape[-1]
    normal = hk.initializers.RandomNormal(1 / math.sqrt(2 * size))
    # Scaled before the product: of the parameters alone, once a sequence.
    w_real, w_imaginary = (
      gamma[None] * hk.get_parameter(name, (size, *hidden), dtype, normal)
      for name in ('w_real', 'w_imaginary')
    )
    cosine = (radius * jnp.cos(phase))[None]
    sine = (radius * jnp.sin(phase))[None]
    real, imaginary = prev_state
    state = Complex(
      cosine * real - sine * imaginary + inputs @ w_real,
      sine * real + cosine * imaginary + inputs @ w_imaginary,
    )
    emission = jnp.concatenate(state, axis=-1)
    if self._mix:
      both = jnp.concatenate([emission, inputs], axis=-1)
      emission = jax.nn.gelu(hk.Linear(self._hidden, name='mix')(both))
    return emission, state

  def initial_state(self, batch_size):
    """Zeros."""
    zeros = jnp.zeros((batch_size, self._hidden))
    return Complex(zeros, zeros)

  def _draw_nu(self, shape, dtype):
    inner, outer = self._radius
    area = jax.random.uniform(
      hk.next_rng_key(), shape, dtype, minval=inner**2, maxval=outer**2
    )
    return jnp.log(-0.5 * jnp.log(area))

  def _draw_theta(self, shape, dtype):
    share = jax.random.uniform(
      hk.next_rng_key(), shape, dtype, minval=1e-6, maxval=1.0
    )
    return jnp.log(self._max_phase * share)


def lru(
  spec: interfaces.Sizes,
  *,
  hidden: int = 64,
  radius: tuple[float, float] = (0.5, 0.8),
  max_phase: float = math.pi,
  readout: tuple[int, ...] = (),
  num_layers: int = 1,
) -> interfaces.Cell:
  """An LRU with a readout of `spec.num_outputs`.

  A radius near 1 remembers without learning to: with [.9, .999] a frozen cell
  solves copying at any lag, and nothing is said about credit in time.

  Args:
    spec: sizes of the task.
    hidden: N, complex units of a layer.
    radius: smallest and largest |lambda| at the start, 0 < r_min < r_max < 1.
    max_phase: largest angle of lambda at the start, in radians. Half the circle
      is all there is: readouts see both parts of h, to which lambda and its
      conjugate are the same; but theta is the angle's logarithm, and larger
      angles learn in larger steps.
    readout: hidden sizes of a tanh MLP as the readout; none: linear.
    num_layers: layers; those below the last one mix their units (gelu).

  Raises:
    ValueError: for a setting out of range.
  """
  stack.check_at_least_one(hidden=hidden, num_layers=num_layers)
  radius = _checked_ring(radius)
  if not 0 < max_phase <= 2 * math.pi:
    raise ValueError(
      f'max_phase={max_phase}: must be above 0 and at most 2 pi.'
    )

  def layer(mix, make_readout):
    return haiku_cells.cell_from_core(
      lambda: LinearRecurrentCore(hidden, radius, max_phase, mix), make_readout
    )

  below = layer(True, stack.without_readout)
  top = layer(False, stack.mlp_readout(spec.num_outputs, readout))
  return stack.stack([*[below] * (num_layers - 1), top])


def _checked_ring(radius: Sequence[float]) -> tuple[float, float]:
  if len(radius) != 2 or not 0 < radius[0] < radius[1] < 1:
    raise ValueError(
      f'radius={tuple(radius)}: must be two numbers with 0 < r_min < r_max < 1.'
    )
  return radius[0], radius[1]
