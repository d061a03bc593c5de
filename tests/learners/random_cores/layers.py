# SPDX-License-Identifier: Apache-2.0
"""The layers of random cores: what drives a layer, and how it keeps its state.

Layer i has the state variable `h{i}`, which is its output, and up to two more.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from tests.learners.random_cores import functions, kinds

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
    self.unused, self.noisy, self.smooth = [], False, True

  def chance(self, probability):
    """True with a probability."""
    return bool(self.rng.random() < probability)

  def pick(self, choices):
    """One of several choices."""
    return choices[int(self.rng.integers(len(choices)))]

  def weight(self, name, *shape, scale=0.7):
    """Announces a parameter, drawn with a standard deviation."""
    self.shapes[name], self.scales[name] = shape, scale
    return name

  def frozen(self, name, shape):
    """Announces a constant of the cell."""
    self.constants[name] = self.rng.normal(size=shape) * 0.7
    return name

  def kind(self, feature):
    """The kind of the layer that has the feature."""
    if feature in _KIND_OF:
      return _KIND_OF[feature]
    return self.pick(RANDOM_KINDS)

  def spelling(self, feature):
    """How the layer that has the feature spells its product."""
    return (
      feature if feature in RANDOM_SPELLINGS else self.pick(RANDOM_SPELLINGS)
    )

  def squash(self, feature):
    """An elementwise function."""
    if feature == 'mixing_vjp':
      self.smooth = False
      return functions.mixing_vjp
    names = sorted(functions.SQUASHES)
    name = feature if feature in functions.SQUASHES else self.pick(names)
    if name in ('where', 'custom_vjp', 'custom_jvp'):
      self.smooth = False
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
  keep = kinds.KINDS[kind](draft, i, width, size, draft.squash(feature))

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
          for a, b in itertools.pairwise(borders)
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
