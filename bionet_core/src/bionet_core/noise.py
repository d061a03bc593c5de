# SPDX-License-Identifier: Apache-2.0
"""JAX's own random numbers under many keys at once, quicker on a CPU.

Stochastic dynamics fold every step into every trial's key and draw a few
numbers from each, and on a CPU that takes longer than the dynamics: JAX keeps
the rounds of its generator in a loop, through which nothing is fused, and XLA's
inverse error function is not vectorized. Here both are written out, elementwise
on `[B, N]`, so that the draws fuse with the step that uses them: a fifth of the
time (`python -m experiments.bench --suite=sde`). The keys and the bits are
JAX's, a normal number is JAX's up to rounding.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA

# Of the inverse error function over x, in w - 2.5 and in sqrt(w) - 3.
_CENTRE = (
  2.81022636e-08,
  3.43273939e-07,
  -3.5233877e-06,
  -4.39150654e-06,
  0.00021858087,
  -0.00125372503,
  -0.00417768164,
  0.246640727,
  1.50140941,
)
_TAILS = (
  -0.000200214257,
  0.000100950558,
  0.00134934322,
  -0.00367342844,
  0.00573950773,
  -0.0076224613,
  0.00943887047,
  1.00167406,
  2.83297682,
)


def fold_in(keys: jax.Array, data: jax.Array) -> jax.Array:
  """`jax.random.fold_in` of each key: the same keys, bit for bit.

  Args:
    keys: keys `[B]`. Those of another generator than Threefry are folded by
      JAX.
    data: int `[B]`.

  Returns:
    Keys `[B]`.
  """
  chex.assert_equal_shape((keys, data))
  if not _is_threefry(keys):
    return jax.vmap(jax.random.fold_in)(keys, data)
  first, second = _threefry(
    keys, jnp.uint32(0), data.astype(jnp.uint32)[:, None]
  )
  # Both words twice, and one of each chosen: a stack would not be vectorized.
  words = jnp.where(jnp.arange(2)[None] == 0, first, second)
  return jax.random.wrap_key_data(words, impl=jax.random.key_impl(keys))


def normal(keys: jax.Array, num: int) -> jax.Array:
  """`jax.random.normal(key, (num,))` of each key.

    u_i = uniform in (-1, 1) from the bits of Threefry(key, (0, i))
    xi_i = sqrt(2) erfinv(u_i)

  The bits are JAX's; the normal number differs from JAX's by rounding, since
  log(1 - u^2) is taken of (1 - u)(1 + u), which is the more accurate of the
  two: within 1e-6 of the true one, relatively.

  Args:
    keys: keys `[B]`. Under another generator than Threefry, without JAX's
      `jax_threefry_partitionable` (it is on by default), and where floats are
      float64, JAX draws.
    num: numbers of each key, N.

  Returns:
    float `[B, N]`, float32 unless 64-bit types are enabled.

  Sources: J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, SC 2011
  (Threefry 2x32, 20 rounds); M. Giles, "Approximating the erfinv function",
  GPU Computing Gems Jade Edition (2012), the single-precision polynomials.
  """
  chex.assert_rank(keys, 1)
  if not (
    _is_threefry(keys)
    and jax.config.jax_threefry_partitionable  # pyright: ignore
    and jnp.result_type(float) == jnp.float32
  ):
    return jax.vmap(lambda key: jax.random.normal(key, (num,)))(keys)
  numbers = jnp.arange(num, dtype=jnp.uint32)[None]
  first, second = _threefry(keys, jnp.uint32(0), numbers)
  # The mantissa of a number in [1, 2).
  mantissa = ((first ^ second) >> 9) | jnp.uint32(0x3F800000)
  share = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1
  low = np.nextafter(np.float32(-1), np.float32(0))
  uniform = jnp.maximum(low, share * (1 - low) + low)
  return np.float32(np.sqrt(2)) * _erfinv(uniform)


def _is_threefry(keys: jax.Array) -> bool:
  typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
  return typed and str(jax.random.key_impl(keys)) == 'threefry2x32'


@jax.jit
def _threefry(keys, high, low) -> tuple[jax.Array, jax.Array]:
  """The two words uint32 `[B, N]` of keys `[B]` and a count `[*, N]`."""
  data = jax.random.key_data(keys)
  k0, k1 = data[:, :1], data[:, 1:]
  schedule = (k0, k1, k0 ^ k1 ^ jnp.uint32(_PARITY))
  x0, x1 = high + k0, low + k1
  rotations = itertools.cycle(_ROTATIONS)
  for injection in range(1, 6):
    for rotation in itertools.islice(rotations, 4):
      x0 = x0 + x1
      x1 = ((x1 << rotation) | (x1 >> (32 - rotation))) ^ x0
    x0 = x0 + schedule[injection % 3]
    x1 = x1 + schedule[(injection + 1) % 3] + jnp.uint32(injection)
  return x0, x1


@jax.jit
def _erfinv(x: jax.Array) -> jax.Array:
  w = -jnp.log((1 - x) * (1 + x))
  return x * jnp.where(
    w < 5, _horner(_CENTRE, w - 2.5), _horner(_TAILS, jnp.sqrt(w) - 3)
  )


def _horner(coefficients, x: jax.Array) -> jax.Array:
  total = jnp.full_like(x, coefficients[0])
  for coefficient in coefficients[1:]:
    total = total * x + coefficient
  return total
