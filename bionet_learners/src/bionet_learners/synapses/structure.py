# SPDX-License-Identifier: Apache-2.0
"""The structure of a cell's step: synapses, groups of units, cuts.

A synapse is a line of the step in which a value that depends on parameters
alone meets one that depends on data. The leaves of the state that act on each
other elementwise are the variables of one group of units. `structure` reads all
this off the step's program, in passes that each return their table:

  kinds       what each value depends on: nothing, parameters, data
  carriers    which leaves of the state any parameter ever reaches
  places      from which element of which leaf or synapse each element comes
  groups      which leaves are variables of the same units
  cuts        which groups lose their credit at which line
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces
from bionet_learners.synapses import axes, places, products, program

FIXED, LEARNED, DATA = range(3)

ADVICE = 'Rules that need no such structure: rtrl, snap, bptt, truncated_bptt.'

OPAQUE = program.CUSTOM | {'scan'}
"""Lines with a program inside that may be elementwise as a whole."""

Source = tuple[str, int]
"""What an element comes from: ('state', leaf) or ('synapse', its number)."""

Table = list[dict[Source, places.Places]]
"""The places of each value, by source."""


class Layout(NamedTuple):
  """Which values of a step's program are its arguments and its results.

  Attributes:
    params: of each leaf of the parameters.
    constants: of each leaf of the constants.
    states: of each leaf of the state before the step.
    data: of each leaf of state, keys and inputs.
    emission: the emission.
    after: each leaf of the state after the step.
    names: the path of each leaf of the state.
    tree: the tree of the state.
    batch: B.
  """

  params: list[int]
  constants: list[int]
  states: list[int]
  data: list[int]
  emission: program.Atom
  after: list[program.Atom]
  names: list[str]
  tree: Any
  batch: int


class Synapse(NamedTuple):
  """A place where parameters meet data.

  The synapse's variable is its output, `[B, G P, n]`, for a product in its
  normal form, and for elementwise operations the parameter itself, as it is
  broadcast to `[B, ...]`.

  Attributes:
    line: its line in the body.
    operand: which operand of the line is learned.
    weight: which of the prelude's learned values that is.
    operation: the primitive's name.
    product: the product's normal form; None if it is elementwise, or has none.
    obstacle: the operation of which no normal form is known; None otherwise.
    shape: a trial's variable: `(G P, n)`, or the parameter's broadcast shape.
    drives: `{leaf: int of shape}`: the unit of the leaf that each element
      drives without passing another product; -1 for none.
    through: bool of shape: which elements reach a state through a product,
      within the step or by way of a state at the next one: credit that no trace
      carries.
    emits: whether it reaches the emission.
  """

  line: int
  operand: int
  weight: int
  operation: str
  product: products.Product | None
  obstacle: str | None
  shape: tuple[int, ...]
  drives: dict[int, np.ndarray]
  through: np.ndarray
  emits: bool


class Structure(NamedTuple):
  """All that the rules on synapses know of a cell's step.

  Attributes:
    steps: the step's program.
    layout: its arguments and results.
    prelude: the lines that depend on no data.
    body: the others.
    learned: the values of the prelude that the body reads and parameters reach.
    fixed: the values of the prelude that the body reads and none reaches.
    sources: of each learned value, the leaves of the parameters behind it.
    synapses: the synapses.
    groups: of each leaf of the state, its group; -1 for what carries no credit
      (integers, keys, and floats that no parameter reaches).
    mixes: of each line of the body, whether it is a product of data with what
      is none.
    cuts: of each line of the body, the groups that lose their credit there.
    cut_ahead: of each value, the groups that are cut at a line behind it.
    alive: the leaves whose past reaches a later state or emission uncut: those
      whose traces are needed.
    hears: `{group: operation}`, the groups that hear other units, uncut, by a
      product.
  """

  steps: program.Program
  layout: Layout
  prelude: list[program.Line]
  body: list[program.Line]
  learned: list[int]
  fixed: list[int]
  sources: list[list[int]]
  synapses: list[Synapse]
  groups: list[int]
  mixes: list[bool]
  cuts: list[frozenset[int]]
  cut_ahead: list[frozenset[int]]
  alive: list[int]
  hears: dict[int, str]

  def members(self, group: int) -> list[int]:
    """The leaves of the state that are variables of a group's units."""
    return [leaf for leaf, g in enumerate(self.groups) if g == group]

  def group_of(self, synapse: Synapse) -> list[int]:
    """The groups that a synapse drives."""
    return sorted({self.groups[leaf] for leaf in synapse.drives})


class _Kinds(NamedTuple):
  """What each value depends on.

  Attributes:
    of: FIXED, LEARNED or DATA, per value.
    sources: the leaves of the parameters behind it, per value.
  """

  of: list[int]
  sources: list[frozenset[int]]

  def atom(self, atom: program.Atom) -> int:
    return self.of[atom] if isinstance(atom, int) else FIXED


def structure(
  cell: interfaces.Cell,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  state: interfaces.ArrayTree,
  keys: jax.Array,
  inputs: jax.Array,
) -> Structure:
  """Reads the structure of one step; arrays may be tracers or shapes.

  Cost: one trace of the step, and integer arrays of the size of its values.

  Raises:
    TypeError: if a state changes its shape or type in a step, or is complex.
    ValueError: if units meet outside of synapses in the recurrence.
  """
  args = (params, constants, state, keys, inputs)
  steps, layout = _read(cell, args)
  kinds = _kinds(steps, layout)
  if any(kinds.atom(o) == LEARNED for o in layout.after):
    # A new state of parameters alone meets no data. It is made to, so that it
    # is a synapse like others and its credit reaches the next step.
    steps, layout = _read(_met_by_data(cell, layout, kinds), args)
    kinds = _kinds(steps, layout)
  body = [ln for ln in steps.lines if kinds.of[ln.outs[0]] == DATA]
  prelude = [ln for ln in steps.lines if kinds.of[ln.outs[0]] != DATA]
  read = {i for line in body for i in line.ins if isinstance(i, int)}
  read |= {o for o in (layout.emission, *layout.after) if isinstance(o, int)}
  learned = sorted(i for i in read if kinds.of[i] == LEARNED)
  fixed = sorted(i for i in read if kinds.of[i] == FIXED)
  mixes = [
    line.name in products.PRIMITIVES
    and min(kinds.atom(i) for i in line.ins) < DATA
    for line in body
  ]
  trials = axes.of_trials(steps, body, layout.data, layout.batch)
  synapses = _synapses(steps, body, kinds, mixes, trials, learned)
  carriers = _carriers(steps, layout, body, kinds)
  table = _places(steps, layout, body, mixes, synapses, carriers)
  groups = _groups(steps, layout, table, carriers, body, synapses)
  cuts, ahead, cut_ahead = _cuts(steps, layout, body, mixes, groups)
  leaks = _leaking(body, mixes, groups, cuts, table, ahead)
  emits = _reaching(body, [layout.emission], steps)
  synapses = [
    synapse._replace(
      drives=_drives(number, synapse, layout, table, groups),
      emits=any(emits[o] for o in body[synapse.line].outs),
    )
    for number, synapse in enumerate(synapses)
  ]
  synapses = [
    synapse._replace(
      through=_through(number, synapse, body, mixes, ahead, table)
      | _leaves(synapse, leaks, groups)
    )
    for number, synapse in enumerate(synapses)
  ]
  return Structure(
    steps=steps,
    layout=layout,
    prelude=prelude,
    body=body,
    learned=learned,
    fixed=fixed,
    sources=[sorted(kinds.sources[i]) for i in learned],
    synapses=synapses,
    groups=groups,
    cuts=cuts,
    cut_ahead=cut_ahead,
    alive=_alive(layout, body, mixes, groups, cuts, table),
    hears=_hears(body, mixes, groups, cuts, table, ahead),
    mixes=mixes,
  )


# Reading ----------------------------------------------------------------------


def _read(cell, args) -> tuple[program.Program, Layout]:
  steps, out = program.read(cell.step, *args)
  state, inputs = args[2], args[4]
  check_state(state, out[1])
  borders = np.cumsum([0, *(len(jax.tree.leaves(arg)) for arg in args)])
  params, constants, states, _, _ = (
    steps.ins[a:b] for a, b in itertools.pairwise(borders)
  )
  names = [
    jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)
  ]
  return steps, Layout(
    params=params,
    constants=constants,
    states=states,
    data=steps.ins[borders[2] :],
    emission=steps.outs[0],
    after=steps.outs[1:],
    names=names,
    tree=jax.tree.structure(state),
    batch=inputs.shape[0],
  )


def _met_by_data(cell, layout, kinds) -> interfaces.Cell:
  """The cell in which new states of parameters alone pass by the old ones."""
  alone = [kinds.atom(o) == LEARNED for o in layout.after]

  def step(params, constants, state, keys, inputs):
    emission, after = cell.step(params, constants, state, keys, inputs)
    new = [
      jnp.where(old == old, x, x) if meet else x
      for x, old, meet in zip(
        jax.tree.leaves(after), jax.tree.leaves(state), alone, strict=True
      )
    ]
    return emission, jax.tree.unflatten(layout.tree, new)

  return cell._replace(step=step)


def check_state(
  before: interfaces.ArrayTree, after: interfaces.ArrayTree
) -> None:
  """Raises TypeError unless a step keeps the tree, shapes and types of a state.

  Complex leaves are refused: traces and influences are real.
  """
  if jax.tree.structure(before) != jax.tree.structure(after):
    raise TypeError(
      'a step changes the tree of the state, from '
      f'{jax.tree.structure(before)} to {jax.tree.structure(after)}.'
    )
  pairs = zip(
    jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
  )
  for (path, old), new in pairs:
    name = f'state{jax.tree_util.keystr(path)}'
    if (old.shape, old.dtype) != (new.shape, new.dtype):
      raise TypeError(
        f'a step changes {name} from {old.dtype}{list(old.shape)} to '
        f'{new.dtype}{list(new.shape)}; a state keeps its shape and type.'
      )
    if jnp.issubdtype(old.dtype, jnp.complexfloating):
      raise TypeError(
        f'{name} is complex; this rule is for real states. Keep the real and '
        'the imaginary part as two leaves of the state.'
      )


def _kinds(steps, layout) -> _Kinds:
  """What each value depends on: nothing, parameters alone, or data."""
  kinds = _Kinds(
    [FIXED] * len(steps.shapes), [frozenset[int]()] * len(steps.shapes)
  )
  for leaf, number in enumerate(layout.params):
    kinds.of[number] = LEARNED
    kinds.sources[number] = frozenset((leaf,))
  for number in layout.data:
    kinds.of[number] = DATA
  for line in steps.lines:
    ins = [i for i in line.ins if isinstance(i, int)]
    for number in line.outs:
      kinds.of[number] = max((kinds.of[i] for i in ins), default=FIXED)
      kinds.sources[number] = frozenset().union(
        *(kinds.sources[i] for i in ins)
      )
  return kinds


def _carries(steps, line, number) -> bool:
  """Whether a result of a line carries a derivative."""
  return steps.floating(number) and line.name not in places.NO_DERIVATIVE


def _synapses(steps, body, kinds, mixes, trials, learned) -> list[Synapse]:
  """Where learned values meet data; what they drive is filled in later."""
  synapses = []
  for at, line in enumerate(body):
    for operand, number in enumerate(line.ins):
      if kinds.atom(number) != LEARNED or not steps.floating(number):
        continue
      product, obstacle = None, None
      if mixes[at]:
        data = line.ins[1 - operand]
        product, obstacle = products.normal_form(
          line.name,
          line.settings,
          operand,
          [steps.shape(i) for i in line.ins],
          steps.shapes[line.outs[0]],
          trials[data] if isinstance(data, int) else None,
        )
        shape = product.shape if product is not None else ()
      elif line.name in places.STRUCTURAL:
        shape = steps.shape(number)[1:]
      elif line.name in places.ELEMENTWISE or line.name in OPAQUE:
        shape = steps.shapes[line.outs[0]][1:]
      else:
        obstacle, shape = line.name, ()
      synapses.append(
        Synapse(
          line=at,
          operand=operand,
          weight=learned.index(number),
          operation=line.name,
          product=product,
          obstacle=obstacle,
          shape=shape,
          drives={},
          through=np.zeros(shape, bool),
          emits=False,
        )
      )
  return synapses


def _carriers(steps, layout, body, kinds) -> set[int]:
  """The leaves of the state that a parameter reaches, in any number of steps.

  A clock or a filtered input carries no credit, and is data like the inputs.
  """
  none: frozenset[int] = frozenset()
  reached = [none] * len(steps.shapes)  # -1 stands for the parameters
  for leaf, number in enumerate(layout.states):
    if steps.floating(number):
      reached[number] = frozenset((leaf,))
  for line in body:
    through = none.union(
      *(
        frozenset((-1,)) if kinds.of[i] == LEARNED else reached[i]
        for i in line.ins
        if isinstance(i, int) and steps.floating(i)
      )
    )
    for number in line.outs:
      if _carries(steps, line, number):
        reached[number] = through
  carriers: set[int] = {-1}
  while True:
    grown = {
      leaf
      for leaf, number in enumerate(layout.after)
      if isinstance(number, int) and reached[number] & carriers
    }
    if grown <= carriers:
      return carriers - {-1}
    carriers |= grown


def _places(steps, layout, body, mixes, synapses, carriers) -> Table:
  """Which element of each source each element comes from."""
  table: Table = [{} for _ in steps.shapes]
  for leaf in carriers:
    number = layout.states[leaf]
    itself = places.Places([places.identity(steps.shapes[number])])
    table[number]['state', leaf] = itself
  by_line: dict[int, list[int]] = {}
  for number, synapse in enumerate(synapses):
    by_line.setdefault(synapse.line, []).append(number)
  for at, line in enumerate(body):
    if mixes[at]:
      for number in by_line.get(at, ()):
        product = synapses[number].product
        table[line.outs[0]]['synapse', number] = (
          places.Places(mixed=synapses[number].obstacle)
          if product is None
          else places.Places([product.places()])
        )
      continue
    operands = [dict(table[i]) if isinstance(i, int) else {} for i in line.ins]
    ins = [steps.shape(i) for i in line.ins]
    outs = [steps.shapes[o] for o in line.outs]
    for number in by_line.get(at, ()):
      operand = synapses[number].operand
      shape = outs[0] if line.name in places.ELEMENTWISE else ins[operand]
      operands[operand]['synapse', number] = places.Places(
        [places.identity(shape)]
      )
      ins[operand] = shape
    sources = sorted({source for operand in operands for source in operand})
    for source in sources:
      results = places.spread(
        line, [o.get(source, places.NOWHERE) for o in operands], ins, outs
      )
      if source[0] == 'synapse' and line.name in OPAQUE:
        results = _broadcast_inside(line, synapses, source[1], at, results, ins)
      for number, result in zip(line.outs, results, strict=True):
        if result and _carries(steps, line, number):
          table[number][source] = result
  return table


def _broadcast_inside(line, synapses, number, at, results, ins):
  """The places of a synapse that begins at a line with a program inside.

  Its operand may be broadcast there. If every element of the results comes from
  the element of the parameter that broadcasting would give it, the variable is
  the result's own element, per trial.
  """
  synapse = synapses[number]
  if synapse.line != at:
    return results
  shape = ins[synapse.operand]
  checked = []
  for result in results:
    if not result or result.mixed:
      checked.append(result)
      continue
    wide = result.maps[0].shape
    try:
      plain = np.broadcast_to(places.identity(shape), wide)
    except ValueError:
      checked.append(places.Places(mixed=line.name))
      continue
    fits = len(result.maps) == 1 and np.all(
      (result.maps[0] == plain) | (result.maps[0] < 0)
    )
    whole = np.where(result.maps[0] >= 0, places.identity(wide), -1)
    fits = fits and wide == (wide[0], *synapse.shape)
    checked.append(
      places.Places([whole]) if fits else places.Places(mixed=line.name)
    )
  return checked


# Groups of units --------------------------------------------------------------


def _groups(steps, layout, table, carriers, body, synapses) -> list[int]:
  """Unites the leaves of the state that act on each other elementwise.

  Leaves whose elements one synapse drives alike are variables of the same
  units, too.
  """
  parent = list(range(len(layout.states)))

  def root(leaf):
    while parent[leaf] != leaf:
      leaf = parent[leaf]
    return leaf

  driven: dict[Source, list[tuple[int, np.ndarray]]] = {}
  for leaf in sorted(carriers):
    number = layout.after[leaf]
    for source, several in _of(table, number).items():
      if source[0] == 'state':
        parent[root(leaf)] = root(source[1])
        continue
      elements = np.unique([m for m in several.maps])
      elements = elements[elements >= 0]
      for other, shared in driven.setdefault(source, []):
        if np.intersect1d(shared, elements).size:
          parent[root(leaf)] = root(other)
      driven[source].append((leaf, elements))
  order = sorted({root(leaf) for leaf in carriers})
  groups = [
    order.index(root(leaf)) if leaf in carriers else -1
    for leaf in range(len(layout.states))
  ]
  _check_units(steps, layout, table, groups, body, synapses)
  return groups


def _of(table: Table, atom: program.Atom) -> dict[Source, places.Places]:
  return table[atom] if isinstance(atom, int) else {}


def _check_units(steps, layout, table, groups, body, synapses) -> None:
  """Raises ValueError where the state's own paths leave the unit."""
  for leaf, number in enumerate(layout.after):
    if not isinstance(number, int) or groups[leaf] < 0:
      continue
    for source, several in table[number].items():
      if several.mixed:
        raise ValueError(_across(layout, synapses, source, leaf, several.mixed))
      if source[0] != 'state':
        continue
      itself = places.identity(steps.shapes[layout.states[source[1]]])
      for one in several.maps:
        if one.shape != itself.shape or not np.all((one == itself) | (one < 0)):
          raise ValueError(
            _across(
              layout, synapses, source, leaf, 'an operation that moves units'
            )
            + ' A leaf that packs several variables of a unit would do as one '
            'leaf per variable.'
          )


def _across(layout, synapses, source, leaf, operation) -> str:
  kind, number = source
  begin = (
    f'state{layout.names[number]}'
    if kind == 'state'
    else f'the synapse of {synapses[number].operation}'
  )
  return (
    f'units meet outside of synapses in the recurrence: from {begin} to '
    f'state{layout.names[leaf]}, {operation} reaches several units, so there '
    f'is no trace unit by unit. {ADVICE}'
  )


def _drives(number, synapse, layout, table, groups):
  """The one unit of each leaf that each element of a variable drives."""
  size = math.prod(synapse.shape)
  drives, taken = {}, {}
  for leaf, after in enumerate(layout.after):
    several = (
      table[after].get(('synapse', number)) if isinstance(after, int) else None
    )
    if not several or groups[leaf] < 0:
      continue
    drive = np.full(size, -1, np.int64)
    for one in several.maps:
      by_trial = one.reshape(layout.batch, -1)
      first = by_trial[0]
      shifts = size * np.arange(layout.batch)[:, None]
      units = np.flatnonzero(first >= 0)
      same = np.where(first >= 0, first + shifts, -1)
      # Each trial drives its own units, and each element one unit of a group.
      seen = taken.setdefault(groups[leaf], np.full(size, -1, np.int64))
      clash = (seen[first[units]] >= 0) & (seen[first[units]] != units)
      repeated = len(np.unique(first[units])) < len(units)
      if not np.array_equal(same, by_trial) or repeated or clash.any():
        raise ValueError(
          f'the synapse of {synapse.operation} drives several units of '
          f'state{layout.names[leaf]} by one element, so there is no trace '
          f'unit by unit. {ADVICE}'
        )
      seen[first[units]] = units
      drive[first[units]] = units
    drives[leaf] = drive.reshape(synapse.shape)
  return drives


# Cuts -------------------------------------------------------------------------


def _cuts(steps, layout, body, mixes, groups):
  """Which groups each product detaches: those that its output comes back to.

  Returns:
    The groups cut at each line; of each value, the groups whose new state it
    reaches; and of each value, the groups that are cut at a line behind it.
  """
  none: frozenset[int] = frozenset()
  ahead = [none] * len(steps.shapes)
  for leaf, number in enumerate(layout.after):
    if isinstance(number, int) and groups[leaf] >= 0:
      ahead[number] = ahead[number] | {groups[leaf]}
  for line in reversed(body):
    reached = none.union(
      *(ahead[o] for o in line.outs if _carries(steps, line, o))
    )
    for i in line.ins:
      if isinstance(i, int) and steps.floating(i):
        ahead[i] = ahead[i] | reached
  live = [none] * len(steps.shapes)
  for leaf, number in enumerate(layout.states):
    if groups[leaf] >= 0:
      live[number] = frozenset((groups[leaf],))
  cuts = [none] * len(body)
  for at, line in enumerate(body):
    arriving = none.union(*(live[i] for i in line.ins if isinstance(i, int)))
    if mixes[at]:
      cuts[at] = arriving & none.union(*(ahead[o] for o in line.outs))
    for o in line.outs:
      if _carries(steps, line, o):
        live[o] = arriving - cuts[at]
  cut_ahead = [none] * len(steps.shapes)
  for at, line in reversed(list(enumerate(body))):
    behind = cuts[at].union(
      *(cut_ahead[o] for o in line.outs if _carries(steps, line, o))
    )
    for i in line.ins:
      if isinstance(i, int):
        cut_ahead[i] = cut_ahead[i] | behind
  return cuts, ahead, cut_ahead


def _reaching(body, ends: Sequence[program.Atom], steps) -> list[bool]:
  """Which values reach one of these, by a path that carries a derivative."""
  reaches = [False] * len(steps.shapes)
  for end in ends:
    if isinstance(end, int):
      reaches[end] = True
  for line in reversed(body):
    if any(reaches[o] for o in line.outs if _carries(steps, line, o)):
      for i in line.ins:
        if isinstance(i, int):
          reaches[i] = True
  return reaches


def _entering(body, mixes, groups, cuts, table):
  """The leaves that enter each product uncut: `(line, leaf)`."""
  for at, line in enumerate(body):
    for i in line.ins:
      if mixes[at] and isinstance(i, int):
        for kind, leaf in table[i]:
          if kind == 'state' and groups[leaf] not in cuts[at]:
            yield at, leaf


def _alive(layout, body, mixes, groups, cuts, table) -> list[int]:
  """The leaves whose past reaches a later state or emission uncut."""
  ends = {n for n in (layout.emission, *layout.after) if isinstance(n, int)}
  direct = {leaf for n in ends for kind, leaf in table[n] if kind == 'state'}
  entering = {leaf for _, leaf in _entering(body, mixes, groups, cuts, table)}
  return sorted(leaf for leaf in direct | entering if groups[leaf] >= 0)


def _leaking(body, mixes, groups, cuts, table, ahead) -> set[int]:
  """The leaves that reach another group's state by an uncut product.

  At the next step, that is: a layer that hears another at the step before. The
  other group keeps no trace of it.
  """
  return {
    leaf
    for at, leaf in _entering(body, mixes, groups, cuts, table)
    if any(ahead[o] for o in body[at].outs)
  }


def _leaves(synapse: Synapse, leaves: set[int], groups: list[int]):
  """Which elements of a synapse drive a unit of which a leaf is among these."""
  leaking = {groups[leaf] for leaf in leaves}
  which = np.zeros(synapse.shape, bool)
  for leaf, units in synapse.drives.items():
    if groups[leaf] in leaking:
      which |= units >= 0
  return which


def _through(number, synapse, body, mixes, ahead, table) -> np.ndarray:
  """Which elements enter a product that leads on to a state."""
  size = math.prod(synapse.shape)
  entered = np.zeros(size, bool)
  for at, line in enumerate(body):
    if not mixes[at] or not ahead[line.outs[0]]:
      continue
    for i in line.ins:
      several = (
        table[i].get(('synapse', number)) if isinstance(i, int) else None
      )
      if not several:
        continue
      if several.mixed:
        entered[:] = True
      for one in several.maps:
        entered[one[(one >= 0) & (one < size)]] = True
  return entered.reshape(synapse.shape)


def _hears(body, mixes, groups, cuts, table, ahead) -> dict[int, str]:
  """The groups that hear other units by a product, within the step."""
  hears: dict[int, str] = {}
  for at, line in enumerate(body):
    if not mixes[at]:
      continue
    sources = {s for i in line.ins if isinstance(i, int) for s in table[i]}
    if any(
      kind == 'synapse' or groups[number] not in cuts[at]
      for kind, number in sources
    ):
      hears.update(dict.fromkeys(ahead[line.outs[0]], line.name))
  return hears
