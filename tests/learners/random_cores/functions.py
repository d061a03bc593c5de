# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions of random cores, in the spellings that people use."""

import jax
import jax.numpy as jnp
from jax.scipy import special


@jax.custom_vjp
def triangle_spike(v):
  """1 above zero; backward a triangle of width 1."""
  return (v > 0).astype(v.dtype)


triangle_spike.defvjp(
  lambda v: (triangle_spike(v), v),
  lambda v, g: (g * jnp.maximum(0.1, 1 - jnp.abs(v)),),
)


@jax.custom_jvp
def sigmoid_spike(v):
  """1 above zero; its derivative is that of a sigmoid."""
  return (v > 0).astype(v.dtype)


@sigmoid_spike.defjvp
def _(primals, tangents):
  (v,), (dv,) = primals, tangents
  slope = jax.nn.sigmoid(2 * v)
  return sigmoid_spike(v), 2 * slope * (1 - slope) * dv


@jax.custom_vjp
def tanh_vjp(x):
  """Tanh whose backward pass is a wider bell."""
  return jnp.tanh(x)


tanh_vjp.defvjp(
  lambda x: (jnp.tanh(x), x),
  lambda x, g: (g / (1 + x**2),),
)


@jax.custom_jvp
def clip_jvp(x):
  """Clip to [-1, 1] whose derivative does not vanish outside."""
  return jnp.clip(x, -1, 1)


@clip_jvp.defjvp
def _(primals, tangents):
  (x,), (dx,) = primals, tangents
  return clip_jvp(x), jnp.where(jnp.abs(x) < 1, 1.0, 0.3) * dx


@jax.custom_vjp
def mixing_vjp(x):
  """Elementwise forward; backward each unit hears the mean of all."""
  return jnp.tanh(x)


mixing_vjp.defvjp(
  lambda x: (jnp.tanh(x), x),
  lambda x, g: (
    0.7 * g * (1 - jnp.tanh(x) ** 2) + 0.3 * jnp.mean(g, -1, keepdims=True),
  ),
)


def clipped(x):
  return jnp.clip(x, -1.5, 1.5) + 0.2 * x


def bent(x):
  return jnp.where(x > 0.1, x, 0.3 * jnp.sin(x))


def in_small_steps(x):
  """Three steps of dv/dt = x - v^3, by an elementwise scan."""

  def advance(v, _):
    return v + 0.3 * (x - v**3), None

  return jax.lax.scan(advance, 0.1 * x, None, length=3)[0]


def called(x):
  """A jitted function inside a checkpoint."""
  return jax.checkpoint(jax.jit(lambda y: y / (1 + y**2)))(x)


SQUASHES = {
  'tanh': jnp.tanh,
  'softplus': jax.nn.softplus,
  'sin': jnp.sin,
  'soft': lambda x: x / (1 + jnp.abs(x)),
  'erf': special.erf,
  'log2': lambda x: jnp.log2(1.5 + jnp.tanh(x)),
  'gelu': jax.nn.gelu,
  'hypot': lambda x: jnp.hypot(x, 0.5),
  'expm1': lambda x: jnp.expm1(0.5 * jnp.tanh(x)),
  'clip': clipped,
  'where': bent,
  'custom_vjp': tanh_vjp,
  'custom_jvp': clip_jvp,
  'scan': in_small_steps,
  'called': called,
}
"""Elementwise functions; any core may draw one."""
