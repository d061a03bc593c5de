# SPDX-License-Identifier: Apache-2.0
"""Functions with another derivative than their own."""

import types

import jax
import jax.numpy as jnp


def straight_through_threshold(
  values: jax.Array, threshold: float = 0.5
) -> jax.Array:
  """1 where `values >= threshold`, else 0; its derivative is that of `values`.

    forward:  z = 1{x >= threshold}        backward:  dz/dx = 1

  Not the gradient of anything: a descent along it may ascend.

  Source: Y. Bengio, N. Leonard and A. Courville, arXiv 1308.3432 (2013).
  """
  hard = (values >= threshold).astype(values.dtype)
  # x - x is 0 exactly, which x + (1 - x) = 1 is not in float32.
  return hard + (values - jax.lax.stop_gradient(values))


def fates(values: jax.Array, threshold: float = 0.5) -> jax.Array:
  """1.0 where `values >= threshold`, else 0.0: no derivative at all."""
  return jnp.where(values >= threshold, 1.0, 0.0).astype(values.dtype)


def triangular(x: jax.Array) -> jax.Array:
  """`max(0, 1 - |x|)`: nothing outside of (-1, 1); area 1."""
  return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def fast_sigmoid(x: jax.Array) -> jax.Array:
  """`1 / (1 + |x|)^2`, the slope of x / (1 + |x|): tails everywhere; area 2."""
  return 1.0 / jnp.square(1.0 + jnp.abs(x))


def sigmoid_slope(x: jax.Array) -> jax.Array:
  """`4 s(x) (1 - s(x))`, s the logistic function: thin tails; area 4."""
  return 1.0 - jnp.square(jnp.tanh(x / 2))


SURROGATES = types.MappingProxyType(
  {
    'triangular': triangular,
    'fast_sigmoid': fast_sigmoid,
    'sigmoid': sigmoid_slope,
  }
)
"""`{name: psi}`, derivatives for spikes, each 1 at the threshold."""


def spike(
  excess: jax.Array,
  surrogate: str = 'triangular',
  *,
  dampening: float = 0.3,
  steepness: float = 1.0,
) -> jax.Array:
  """A spike where the threshold is reached, with a derivative near it.

    forward:  z = 1{x >= 0}
    backward: dz/dx = dampening psi(steepness x)

  with x the distance of the membrane potential from its threshold, in units of
  the threshold. Both modes of differentiation see the same derivative; a second
  one is 0.

  Args:
    excess: x, any shape.
    surrogate: psi: 'triangular', 'fast_sigmoid' or 'sigmoid'.
    dampening: the derivative at the threshold.
    steepness: the larger, the closer to the threshold it lives.

  Raises:
    ValueError: for an unknown surrogate.

  Source: triangular with dampening .3, G. Bellec et al., NeurIPS 31 (2018);
  fast sigmoid, F. Zenke and S. Ganguli, Neural Computation 30, 1514 (2018).
  """
  if surrogate not in SURROGATES:
    raise ValueError(
      f'surrogate={surrogate!r}: must be one of {", ".join(SURROGATES)}.'
    )
  psi = SURROGATES[surrogate]
  still = jax.lax.stop_gradient(excess)
  slope = dampening * psi(steepness * still)
  return (still >= 0).astype(excess.dtype) + slope * (excess - still)
