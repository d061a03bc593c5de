# SPDX-License-Identifier: Apache-2.0
"""Random cores: a program drawn by a number, and the cell that runs it.

Core `number` must have the feature `FEATURES[number]`; all else is drawn: kinds
of layers, spellings of products, functions, what a layer hears of itself and of
the others and when, what is emitted, and the container of the state.

Decisions of the reference where a rule's documentation leaves a choice:

* A group is a set of state variables that act on each other elementwise, at the
  same step or from step to step. A path that passes a product, an argmax, a
  comparison or a stop-gradient joins no groups.
* A product comes back to a group if its output reaches, within the step, a new
  state variable of the group along a path with a derivative. The paths from the
  group's old state into that product are cut. A product of data with constants
  is cut alike.
* Forward rules carry over a border the influence along paths that pass no
  product (parameters of a product act through its weights, not through its
  data). Inside a window the cut step is differentiated as it is.
* e_prop: the filter z joins no group: D is the D of `d_rtrl`, whatever kappa
  is. Past a border z holds what the emission hears of the traces.
* rflo: the leak replaces the whole of D: each state variable keeps `leak` of
  its trace and hears nothing of the other variables of its unit.
* pp_prop: L_t depends on the state of step t, and, where the emission or a
  later layer reads the state of step t - 1 itself, on that, too. The credit of
  the latter is the product of the filters of step t - 1, with their correction
  1 - decay^(t-1). A state variable that only stores an old one counts as old.
  An elementwise parameter, and one that alone makes up a state variable, is a
  synapse whose input is 1.
* snap: an operation makes its result depend on its operands, whatever their
  values; tests of `where`, argmax and stop-gradients make nothing depend on
  anything, and the zeros of a constant mask cut. Of a custom_vjp the operation
  is its backward pass.
"""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces
from tests.learners.random_cores import language, layers

I, O = 3, 2


class Core(NamedTuple):
  """A random core.

  Attributes:
    number: draws the core.
    feature: what it must have.
    cell: the Cell.
    program: `ops -> emission`.
    shapes: of the core's parameters, by name.
    states: the shape of each state variable of a trial, by name, in the order
      of the leaves of the cell's state; None for an integer.
    pack: from a dict of state variables to the cell's state.
    unpack: its inverse.
    constants: what `cell.init` returns as constants.
    unused: the parameters that change nothing.
    noisy: whether the step draws.
    smooth: whether each derivative is that of the values, without jumps.
  """

  number: int
  feature: str
  cell: interfaces.Cell
  program: Callable[[Any], Any]
  shapes: dict[str, tuple[int, ...]]
  states: dict[str, tuple[int, ...] | None]
  pack: Callable[[dict[str, Any]], Any]
  unpack: Callable[[Any], dict[str, Any]]
  constants: dict[str, np.ndarray]
  unused: tuple[str, ...]
  noisy: bool
  smooth: bool

  @property
  def floats(self) -> dict[str, tuple[int, ...]]:
    """The shapes of the state variables that are not integers."""
    return {n: s for n, s in self.states.items() if s is not None}


FEATURES = (
  'emits_old_vanilla',
  'low_rank',
  'masked',
  'tied_layers',
  'left',
  'gates_sliced',
  'rows_sliced',
  'scalar_tau',
  'where',
  'custom_vjp',
  'custom_jvp',
  'spike',
  'delay',
  'emits_old',
  'argmax_fed_back',
  'clock',
  'hears_top_down',
  'hears_each_other',
  'skip',
  'peephole',
  'parameter_leaf',
  'reset_gate',
  'block',
  'noise',
  'float_clock',
  'projected',
  'positions',
  'packed',
  'mixing_vjp',
  'projects',
)
"""What each core must have, by its number."""


def draw(number: int) -> Core:
  """The core of a number; the same core for the same number."""
  feature = FEATURES[number]
  draft = layers.Draft(np.random.default_rng([13, number]), feature)
  program = _stack(draft)
  if draft.chance(0.25):
    draft.weight('unused', 3)
    draft.unused.append('unused')
  container = draft.pick(('dict', 'tuple', 'named', 'nested'))
  pack, unpack, order = _container(container, draft.states)
  states = {name: draft.states[name] for name in order}
  cell = _cell(draft, program, states, pack, unpack)
  return Core(
    number=number,
    feature=feature,
    cell=cell,
    program=program,
    shapes=dict(draft.shapes),
    states=states,
    pack=pack,
    unpack=unpack,
    constants=dict(draft.constants),
    unused=tuple(draft.unused),
    noisy=draft.noisy,
    smooth=draft.smooth,
  )


def _stack(draft):
  """Layers that hear each other, and what they emit."""
  feature = draft.feature
  num = 1 + int(draft.rng.integers(2))
  num = {
    'tied_layers': 2,
    'hears_top_down': 2,
    'hears_each_other': 2,
    'skip': 3,
    'projects': 1,
  }.get(feature, num)
  sizes = [int(draft.rng.integers(2, 5)) for _ in range(num)]
  forced = int(draft.rng.integers(num))  # the layer that has the feature
  if feature.startswith('emits'):
    forced = num - 1
  kinds = [draft.kind(feature if i == forced else None) for i in range(num)]
  sizes = [
    4 if kind == 'block' else n for n, kind in zip(sizes, kinds, strict=True)
  ]
  drives = []
  for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
    hears = _hears(draft, i, kinds, sizes)
    spelling = draft.spelling(feature if i == forced else None)
    drives.append(layers.drive(draft, i, kind, size, hears, spelling))
  emit = _emission(draft, kinds, sizes)

  def program(ops):
    outs = []
    ops.fed_back = emit.before(ops)
    for run in drives:
      outs.append(run(ops, outs))
    return emit.after(ops, outs)

  return program


def _hears(draft, i, kinds, sizes):
  """What layer i hears beside inputs and itself: functions of (ops, outs)."""
  feature, last = draft.feature, len(sizes) - 1
  heard = []

  def same(j, how):
    def read(ops, outs):
      return getattr(ops, how)(outs[j]) if how else outs[j]

    heard.append((read, sizes[j]))

  def before(j):
    heard.append((lambda ops, outs: layers.old(ops, kinds[j], j), sizes[j]))

  if feature == 'argmax_fed_back' and i == 0:
    heard.append((lambda ops, outs: ops.one_hot(ops.fed_back), O))
  if feature == 'hears_each_other':
    before(1 - i)
    return heard
  if feature == 'tied_layers':  # heard through W, in `layers.tied`
    return heard
  if i > 0:
    how = draft.pick((None, None, None, None, None, 'stop', 'one_hot'))
    if feature in ('hears_top_down', 'skip'):
      how = None
    late = how is not None or (draft.chance(0.3) and feature != 'skip')
    if late:  # what is heard without a derivative is heard a step later with it
      before(i - 1)
    if how is not None:
      draft.smooth = False
    if how is not None or not late:
      same(i - 1, how)
  if feature == 'skip' and i == 2:
    same(0, None)
  if i < last and (feature == 'hears_top_down' or draft.chance(0.3)):
    before(i + 1)
  return heard


class _Emission(NamedTuple):
  before: Callable
  after: Callable


def _emission(draft, kinds, sizes) -> _Emission:
  """What the program emits: new, old or projected state variables."""
  last, top = len(sizes) - 1, kinds[-1]
  style = {
    'emits_old_vanilla': 'old',
    'emits_old': 'old',
    'argmax_fed_back': 'argmax',
    'projects': 'projects',
  }.get(draft.feature)
  if style is None:
    styles = ['top', 'top', 'all', 'mixed']
    if draft.feature == 'packed':
      styles = ['top']
    style = draft.pick(styles)

  def nothing(ops):
    del ops

  def read_old(ops):
    return layers.old(ops, top, last)

  if style == 'old':
    return _Emission(nothing, lambda ops, outs: read_old(ops))
  if style == 'argmax':
    draft.weight('emit', sizes[-1], O)

    def logits(ops):
      return ops.product('bi,ij->bj', read_old(ops), ops.param('emit'))

    return _Emission(logits, lambda ops, outs: ops.fed_back)
  if style == 'projects':
    draft.weight('emit', sizes[-1], 5)
    draft.weight('emit_b', 5)

    def projected(ops, outs):
      y = ops.product('bi,ij->bj', outs[-1], ops.param('emit'))
      return ops.map(jnp.add, y, ops.param('emit_b'))

    return _Emission(nothing, projected)
  if style == 'mixed':

    def mixed(ops, outs):
      return ops.map(lambda h, o: jnp.sin(h) + 0.5 * o, outs[-1], read_old(ops))

    return _Emission(nothing, mixed)
  if style == 'all':
    return _Emission(nothing, lambda ops, outs: ops.cat(outs))
  return _Emission(nothing, lambda ops, outs: outs[-1])


def _container(kind, states):
  """How state variables are packed: pack, unpack, the order of the leaves."""
  names = list(states)
  if kind == 'dict':
    return dict, dict, sorted(names)
  if kind == 'named':
    record = collections.namedtuple('State', names)
    return (
      lambda values: record(**values),
      lambda state: state._asdict(),
      names,
    )
  if kind == 'nested':
    first, rest = names[0], names[1:]
    return (
      lambda values: (values[first], {n: values[n] for n in rest}),
      lambda state: {first: state[0], **state[1]},
      [first, *sorted(rest)],
    )
  return (
    lambda values: tuple(values[n] for n in names),
    lambda state: dict(zip(names, state, strict=True)),
    names,
  )


def _cell(draft, program, states, pack, unpack) -> interfaces.Cell:
  """The cell that runs a program as ordinary code."""
  shapes, scales = dict(draft.shapes), dict(draft.scales)
  frozen = dict(draft.constants)

  def init(key, inputs):
    dtype = inputs.dtype
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    core = {
      name: scales[name] * jax.random.normal(keys[name], shape, dtype)
      for name, shape in shapes.items()
    }
    constants = {name: jnp.asarray(x, dtype) for name, x in frozen.items()}

    def emitted(core):
      keys = jax.random.split(key, inputs.shape[0])
      state = initial_state(constants, keys)
      args = (core, constants, unpack(state), keys, inputs)
      return program(language.Plain(*args))

    size = jax.eval_shape(emitted, core).shape[-1]
    readout = {
      'w': jax.random.normal(jax.random.fold_in(key, 1), (size, O), dtype),
      'b': jnp.full((O,), 0.1, dtype),
    }
    return {'core': core, 'readout': readout}, constants

  def initial_state(constants, keys):
    del constants
    return pack(
      {
        name: jnp.zeros(keys.shape, jnp.int32)
        if shape is None
        else jnp.full((*keys.shape, *shape), 0.1)
        for name, shape in states.items()
      }
    )

  def step(params, constants, state, keys, inputs):
    ops = language.Plain(params['core'], constants, unpack(state), keys, inputs)
    emission = program(ops)
    return emission, pack(ops.after)

  def readout(params, constants, emission):
    del constants
    w, b = params['readout']['w'], params['readout']['b']
    return emission @ w + b[None]

  return interfaces.Cell(init, initial_state, step, readout)
