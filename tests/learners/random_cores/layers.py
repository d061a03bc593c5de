# SPDX-License-Identifier: Apache-2.0
"""The layers of random cores: what drives a layer, and how it keeps its state.

Layer i has the state variable `h{i}`, which is its output, and up to two more.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.learners.random_cores import functions

RANDOM_KINDS = ('leaky', 'vanilla', 'pair', 'spike', 'delay', 'rotate', 'reset')
RANDOM_SPELLINGS = (
  'fused',
  'left',
  'low_rank',
  'masked',
  'normed',
  'gates_sliced',
  'rows_sliced',
  'reservoir',
)
_KIND_OF = {
  'emits_old_vanilla': 'vanilla',
  'emits_old': 'leaky',
  'custom_vjp': 'leaky',
  'custom_jvp': 'pair',
  'scalar_tau': 'leaky',
  'where': 'leaky',
  'mixing_vjp': 'leaky',
  'noise': 'leaky',
  'peephole': 'pair',
  'reset_gate': 'reset',
  'spike': 'spike',
  'delay': 'delay',
  'clock': 'clock',
  'parameter_leaf': 'parameter_leaf',
  'block': 'block',
  'float_clock': 'float_clock',
  'projected': 'projected',
  'positions': 'positions',
  'packed': 'packed',
  'tied_layers': 'leaky',
  'projects': 'pair',
}
_GATES = {'pair': 3, 'rotate': 2, 'reset': 3, 'projected': 3, 'packed': 3}
_CELLS = 3  # of a projected layer


class Draft:
  """What has been drawn of a core so far."""

  def __init__(self, rng, feature):
    self.rng, self.feature = rng, feature
    self.shapes, self.scales, self.constants, self.states = {}, {}, {}, {}
    self.unused, self.noisy = [], False

  def chance(self, probability):
    return bool(self.rng.random() < probability)

  def pick(self, choices):
    return choices[int(self.rng.integers(len(choices)))]

  def weight(self, name, *shape, scale=0.7):
    self.shapes[name], self.scales[name] = shape, scale
    return name

  def frozen(self, name, shape):
    self.constants[name] = self.rng.normal(size=shape) * 0.7
    return name

  def kind(self, feature, *, alone):
    del alone
    if feature in _KIND_OF:
      return _KIND_OF[feature]
    return self.pick(RANDOM_KINDS)

  def spelling(self, feature):
    return (
      feature if feature in RANDOM_SPELLINGS else self.pick(RANDOM_SPELLINGS)
    )

  def squash(self, feature):
    if feature == 'mixing_vjp':
      return functions.mixing_vjp
    names = sorted(functions.SQUASHES)
    name = feature if feature in functions.SQUASHES else self.pick(names)
    return functions.SQUASHES[name]


def old(ops, kind, i):
  """Layer i's output of the step before, `[B, n]`."""
  value = ops.old(f'h{i}')
  if kind == 'packed':
    size = value.shape[-1] // 2
    return ops.part(value, size, 2 * size)
  if kind == 'positions':
    return ops.reshape(value, (int(np.prod(value.shape[1:])),))
  return value


def drive(draft, i, kind, size, hears, spelling):
  """Layer i: a function of (ops, outs) that returns its output `[B, n]`."""
  if draft.feature == 'tied_layers':
    return _tied(draft, i, size)
  if kind in ('block', 'positions'):
    return _in_parts(draft, i, kind, size, hears)
  feature = draft.feature
  sources = list(hears)
  if i == 0 or draft.chance(0.4):
    sources.append((lambda ops, outs: ops.x, 3))
  recurrent = kind == 'vanilla' or draft.chance(0.85)
  if kind == 'delay' and recurrent and draft.chance(0.5):
    sources.append((lambda ops, outs: ops.old(f'd{i}'), size))
  elif recurrent and kind != 'reset':
    sources.append((lambda ops, outs: old(ops, kind, i), size))
  if kind == 'parameter_leaf' and draft.chance(0.5):
    sources.append((lambda ops, outs: ops.old(f'm{i}'), size))
  width = _CELLS if kind == 'projected' else size
  gates = _GATES.get(kind, 2 if kind == 'leaky' else 1)
  affine = _affine(draft, f'w{i}', spelling, sources, gates * width)
  for gate in range(gates):
    draft.weight(f'b{i}{gate}', width, scale=0.5)
  keep = _KINDS[kind](draft, i, width, size, draft.squash(feature))

  def run(ops, outs):
    values = [read(ops, outs) for read, _ in sources]
    y = affine(ops, values)
    gated = []
    for gate in range(gates):
      part = ops.part(y, gate * width, (gate + 1) * width) if gates > 1 else y
      gated.append(ops.map(jnp.add, part, ops.param(f'b{i}{gate}')))
    return keep(ops, gated)

  return run


def _affine(draft, name, spelling, sources, width):
  """A function of (ops, values) to `[B, width]`."""
  sizes = [n for _, n in sources]
  total = sum(sizes)
  if spelling == 'reservoir' and len(sources) < 2:
    spelling = 'fused'
  if spelling == 'left':
    draft.weight(name, width, total)
    return lambda ops, values: ops.product(
      'bi,ji->bj', ops.cat(values), ops.param(name)
    )
  if spelling == 'low_rank':
    draft.weight(f'{name}l', total, 2)
    draft.weight(f'{name}r', 2, width)
    return lambda ops, values: ops.product(
      'bi,ij->bj',
      ops.cat(values),
      ops.compose(ops.param(f'{name}l'), ops.param(f'{name}r')),
    )
  if spelling == 'rows_sliced':
    draft.weight(name, total, width)
    borders = np.cumsum([0, *sizes])

    def by_rows(ops, values):
      weight, y = ops.param(name), None
      for at, value in enumerate(values):
        rows = ops.part(weight, int(borders[at]), int(borders[at + 1]), 0)
        more = ops.product('bi,ij->bj', value, rows)
        y = more if y is None else ops.map(jnp.add, y, more)
      return y

    return by_rows
  if spelling == 'gates_sliced':
    draft.weight(name, total, width)
    borders = sorted({0, width // 2, width})

    def by_columns(ops, values):
      weight, data = ops.param(name), ops.cat(values)
      return ops.cat(
        [
          ops.product('bi,ij->bj', data, ops.part(weight, a, b))
          for a, b in zip(borders, borders[1:])
        ]
      )

    return by_columns
  if spelling == 'reservoir':  # the last source passes a constant matrix
    draft.weight(name, total - sizes[-1], width)
    draft.frozen(f'{name}fixed', (sizes[-1], width))

    def reservoir(ops, values):
      y = ops.product('bi,ij->bj', ops.cat(values[:-1]), ops.param(name))
      fixed = ops.constant(f'{name}fixed')
      more = ops.product('bi,ij->bj', values[-1], fixed)
      return ops.map(jnp.add, y, more)

    return reservoir
  draft.weight(name, total, width)
  mask = (draft.rng.random((total, width)) < 0.6).astype(np.float64)
  mask[draft.rng.integers(total, size=width), np.arange(width)] = 1

  def plain(ops, values):
    weight = ops.param(name)
    if spelling == 'masked':
      weight = ops.masked(weight, mask)
    if spelling == 'normed':
      weight = ops.normed(weight)
    return ops.product('bi,ij->bj', ops.cat(values), weight)

  return plain


def _tied(draft, i, size):
  """Layer 1 hears layer 0 through W, and layer 0 layer 1 through W.T."""
  draft.weight(f'b{i}', size)
  draft.states[f'h{i}'] = (size,)
  squash = draft.squash(None)
  if i == 0:
    draft.weight('v', 3, size)
  else:
    draft.weight('w', *draft.states['h0'], size)

  def run(ops, outs):
    w = ops.param('w')
    if i == 0:
      y = ops.product('bi,ij->bj', ops.x, ops.param('v'))
      more = ops.product('bi,ij->bj', ops.old('h1'), ops.transpose(w))
      y = ops.map(jnp.add, y, more)
    else:
      y = ops.product('bi,ij->bj', outs[0], w)
    return ops.new(
      f'h{i}',
      ops.map(
        lambda h, y, b: 0.7 * h + squash(y + b),
        ops.old(f'h{i}'),
        y,
        ops.param(f'b{i}'),
      ),
    )

  return run


def _in_parts(draft, i, kind, size, hears):
  """Recurrence by blocks, or by positions that share their weights."""
  parts, inner = 2, size // 2 if kind == 'block' else size
  width, squash = parts * inner, draft.squash(None)
  sources = [*hears, (lambda ops, outs: ops.x, 3)]
  affine = _affine(draft, f'w{i}', 'fused', sources, width)
  spec = 'bgi,gij->bgj' if kind == 'block' else 'bpi,ij->bpj'
  shape = (parts, inner, inner) if kind == 'block' else (inner, inner)
  draft.weight(f'u{i}', *shape)
  draft.weight(f's{i}', parts, inner)
  draft.states[f'h{i}'] = (width,) if kind == 'block' else (parts, inner)

  def run(ops, outs):
    y = affine(ops, [read(ops, outs) for read, _ in sources])
    h = ops.old(f'h{i}')
    wide = ops.reshape(h, (parts, inner))
    more = ops.product(spec, wide, ops.param(f'u{i}'))
    new = ops.map(
      lambda h, y, more, s: 0.6 * h * jax.nn.sigmoid(s) + squash(y + more),
      wide,
      ops.reshape(y, (parts, inner)),
      more,
      ops.param(f's{i}'),
    )
    if kind == 'block':
      return ops.new(f'h{i}', ops.reshape(new, (width,)))
    return ops.reshape(ops.new(f'h{i}', new), (width,))

  return run


# Kinds: from the drive of each gate to the new state variables. -------------


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


_KINDS = {
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
