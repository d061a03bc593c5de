# SPDX-License-Identifier: Apache-2.0
"""How the layers of random cores keep their state.

Each function announces the state variables and parameters of layer i, and
returns `keep(ops, y) -> output`, from the drive y of each gate `[B, width]` to
the layer's output `[B, size]`.
"""

import jax
import jax.numpy as jnp

from tests.learners.random_cores import functions


def _leaky(draft, i, width, size, squash):
  draft.states[f'h{i}'] = (size,)
  style = draft.pick(('number', 'gate', 'weight'))
  if draft.feature == 'scalar_tau':
    style = 'tau'
  if style == 'tau':
    draft.weight(f'tau{i}')
  if style == 'weight':
    draft.weight(f'd{i}', size)
  noisy = draft.feature == 'noise' or draft.chance(0.15)
  draft.noisy = draft.noisy or noisy

  def keep(ops, y):
    h = ops.old(f'h{i}')
    gain = ops.map(lambda y: 1.5 * jax.nn.sigmoid(y), y[1])
    if noisy:
      h = ops.map(jnp.multiply, h, ops.noise(i, size))
    if style == 'tau':
      h = ops.map(
        lambda h, t: h * jnp.exp(-jnp.exp(t - 1)), h, ops.param(f'tau{i}')
      )
    elif style == 'weight':
      h = ops.map(lambda h, d: h * jnp.tanh(d + 1), h, ops.param(f'd{i}'))
    elif style == 'gate':
      h = ops.map(lambda h, y: h * jax.nn.sigmoid(y + 1), h, y[1])
    else:
      h = ops.map(lambda h: 0.8 * h, h)
    return ops.new(
      f'h{i}', ops.map(lambda h, y, g: h + g * squash(y), h, y[0], gain)
    )

  return keep


def _vanilla(draft, i, width, size, squash):
  draft.states[f'h{i}'] = (size,)
  return lambda ops, y: ops.new(f'h{i}', ops.map(squash, y[0]))


def _pair(draft, i, width, size, squash):
  draft.states[f'c{i}'] = (size,)
  draft.states[f'h{i}'] = (size,)
  peephole = draft.feature == 'peephole' or draft.chance(0.2)
  if peephole:
    draft.weight(f'p{i}', size)
  leak = draft.pick((0.0, 0.3))

  def keep(ops, y):
    c, gate = ops.old(f'c{i}'), y[0]
    if peephole:
      gate = ops.map(lambda y, p, c: y + p * c, gate, ops.param(f'p{i}'), c)
    c = ops.new(
      f'c{i}',
      ops.map(
        lambda g, y, c: jax.nn.sigmoid(g) * c + jax.nn.sigmoid(-g) * squash(y),
        gate,
        y[1],
        c,
      ),
    )
    h = ops.map(lambda o, c: jax.nn.sigmoid(o) * jnp.tanh(c), y[2], c)
    if leak:
      h = ops.map(lambda h, old: h + leak * old, h, ops.old(f'h{i}'))
    return ops.new(f'h{i}', h)

  return keep


def _spike(draft, i, width, size, squash):
  del squash
  for leaf in ('v', 'a', 'h'):
    draft.states[f'{leaf}{i}'] = (size,)
  draft.smooth = False
  spike = draft.pick((functions.triangle_spike, functions.sigmoid_spike))
  if draft.feature == 'spike':
    spike = functions.triangle_spike
  stopped = draft.chance(0.5)

  def keep(ops, y):
    z = ops.old(f'h{i}')
    reset = ops.stop(z) if stopped else z
    v = ops.new(
      f'v{i}',
      ops.map(
        lambda v, y, z: 0.8 * v + y - 0.6 * z, ops.old(f'v{i}'), y[0], reset
      ),
    )
    a = ops.new(
      f'a{i}', ops.map(lambda a, z: 0.9 * a + 0.5 * z, ops.old(f'a{i}'), z)
    )
    return ops.new(
      f'h{i}', ops.map(lambda v, a: spike(v - 0.3 - 0.4 * a), v, a)
    )

  return keep


def _delay(draft, i, width, size, squash):
  draft.states[f'd{i}'] = (size,)
  draft.states[f'h{i}'] = (size,)
  draft.weight(f'q{i}', size, scale=0.5)

  def keep(ops, y):
    h, d = ops.old(f'h{i}'), ops.old(f'd{i}')
    ops.new(f'd{i}', h)
    return ops.new(
      f'h{i}',
      ops.map(
        lambda h, d, q, y: 0.5 * h + q * d + squash(y),
        h,
        d,
        ops.param(f'q{i}'),
        y[0],
      ),
    )

  return keep


def _rotate(draft, i, width, size, squash):
  draft.states[f'h{i}'] = (size,)
  draft.states[f'g{i}'] = (size,)
  draft.weight(f'turn{i}', size)

  def keep(ops, y):
    args = ops.old(f'h{i}'), ops.old(f'g{i}'), ops.param(f'turn{i}')

    def real(a, b, t, y):
      return 0.9 * (jnp.cos(t) * a - jnp.sin(t) * b) + squash(y)

    def imaginary(a, b, t, y):
      return 0.9 * (jnp.sin(t) * a + jnp.cos(t) * b) + jnp.tanh(y)

    h = ops.new(f'h{i}', ops.map(real, *args, y[0]))
    ops.new(f'g{i}', ops.map(imaginary, *args, y[1]))
    return h

  return keep


def _reset(draft, i, width, size, squash):
  draft.states[f'h{i}'] = (size,)
  draft.weight(f'rh{i}', size, size)
  draft.weight(f'u{i}', size, size)

  def keep(ops, y):
    h = ops.old(f'h{i}')
    more = ops.product('bi,ij->bj', h, ops.param(f'rh{i}'))
    reset = ops.map(lambda y, m: jax.nn.sigmoid(y + m), y[0], more)
    heard = ops.map(jnp.multiply, reset, h)
    more = ops.product('bi,ij->bj', heard, ops.param(f'u{i}'))
    return ops.new(
      f'h{i}',
      ops.map(
        lambda z, y, m, h: (
          jax.nn.sigmoid(z) * h + jax.nn.sigmoid(-z) * squash(y + m)
        ),
        y[1],
        y[2],
        more,
        h,
      ),
    )

  return keep


def _clock(draft, i, width, size, squash):
  draft.states[f'h{i}'] = (size,)
  draft.states[f'k{i}'] = None
  draft.weight(f'period{i}', size)

  def keep(ops, y):
    h, count = ops.old(f'h{i}'), ops.column(ops.tick(f'k{i}'))

    def advance(h, y, k, p):
      period = 2.3 + jnp.tanh(p)
      phase = (k % period) / period
      gate = jnp.where(phase < 0.7, jnp.sin(3 * phase + 0.3), 0.1 * phase)
      return h + gate * (squash(y) - h)

    return ops.new(
      f'h{i}', ops.map(advance, h, y[0], count, ops.param(f'period{i}'))
    )

  return keep


def _float_clock(draft, i, width, size, squash):
  draft.states[f'h{i}'] = (size,)
  draft.states[f't{i}'] = ()
  draft.weight(f'phase{i}', size)

  def keep(ops, y):
    h, t = ops.old(f'h{i}'), ops.old(f't{i}')
    ops.new(f't{i}', ops.map(lambda t: t + 0.4, t))

    def advance(h, y, t, p):
      gate = 0.5 + 0.4 * jnp.sin(t + p)
      return gate * h + squash(y)

    return ops.new(
      f'h{i}',
      ops.map(advance, h, y[0], ops.column(t), ops.param(f'phase{i}')),
    )

  return keep


def _parameter_leaf(draft, i, width, size, squash):
  draft.states[f'h{i}'] = (size,)
  draft.states[f'm{i}'] = (size,)
  draft.weight(f'theta{i}', size)

  def keep(ops, y):
    m = ops.old(f'm{i}')
    ops.new(f'm{i}', ops.spread(ops.map(jnp.tanh, ops.param(f'theta{i}'))))
    return ops.new(
      f'h{i}',
      ops.map(
        lambda h, y, m: 0.6 * h + (1 + m) * squash(y),
        ops.old(f'h{i}'),
        y[0],
        m,
      ),
    )

  return keep


def _projected(draft, i, width, size, squash):
  draft.states[f'c{i}'] = (width,)
  draft.states[f'h{i}'] = (size,)
  draft.weight(f'proj{i}', width, size)

  def keep(ops, y):
    c = ops.new(
      f'c{i}',
      ops.map(
        lambda g, y, c: jax.nn.sigmoid(g) * c + squash(y),
        y[0],
        y[1],
        ops.old(f'c{i}'),
      ),
    )
    h = ops.map(lambda o, c: jax.nn.sigmoid(o) * jnp.tanh(c), y[2], c)
    return ops.new(f'h{i}', ops.product('bi,ij->bj', h, ops.param(f'proj{i}')))

  return keep


def _packed(draft, i, width, size, squash):
  draft.states[f'h{i}'] = (2 * size,)

  def keep(ops, y):
    packed = ops.old(f'h{i}')
    c, h = ops.part(packed, 0, size), ops.part(packed, size, 2 * size)
    c = ops.map(
      lambda g, y, c: jax.nn.sigmoid(g) * c + squash(y), y[0], y[1], c
    )
    h = ops.map(
      lambda o, c, h: 0.3 * h + jax.nn.sigmoid(o) * jnp.tanh(c), y[2], c, h
    )
    packed = ops.new(f'h{i}', ops.cat([c, h]))
    return ops.part(packed, size, 2 * size)

  return keep


KINDS = {
  'leaky': _leaky,
  'vanilla': _vanilla,
  'pair': _pair,
  'spike': _spike,
  'delay': _delay,
  'rotate': _rotate,
  'reset': _reset,
  'clock': _clock,
  'float_clock': _float_clock,
  'parameter_leaf': _parameter_leaf,
  'projected': _projected,
  'packed': _packed,
}
