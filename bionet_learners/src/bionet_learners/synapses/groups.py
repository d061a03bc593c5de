# SPDX-License-Identifier: Apache-2.0
"""Where the elements of a step come from, and which leaves are of one unit.

The leaves of the state that act on each other elementwise are the variables of
one group of units.
"""

import math

import numpy as np

from bionet_learners.synapses import contacts, places, program, reading

ADVICE = 'Rules that need no such structure: rtrl, snap, bptt, truncated_bptt.'

Source = tuple[str, int]
"""What an element comes from: ('state', leaf) or ('synapse', its number)."""

Table = list[dict[Source, places.Places]]
"""The places of each value, by source."""


def reached(read: reading.Reading) -> list[frozenset[int]]:
  """The leaves that reach each value with a derivative; -1: parameters do."""
  steps, layout = read.steps, read.layout
  none: frozenset[int] = frozenset()
  reached = [none] * len(steps.shapes)
  for leaf, number in enumerate(layout.states):
    if steps.floating(number):
      reached[number] = frozenset((leaf,))
  for line in read.body:
    through = none.union(
      *(
        frozenset((-1,)) if read.kinds[i] == reading.LEARNED else reached[i]
        for i in line.ins
        if isinstance(i, int) and steps.floating(i)
      )
    )
    for number in line.outs:
      if read.carries(line, number):
        reached[number] = through
  return reached


def carriers(read: reading.Reading) -> set[int]:
  """The leaves of the state that a parameter reaches, in any number of steps.

  A clock or a filtered input carries no credit, and is data like the inputs.
  """
  sources, layout = reached(read), read.layout
  # To a fixed point, since a leaf may hear a parameter by way of others, some
  # steps later.
  carry: set[int] = {-1}
  while True:
    grown = {
      leaf
      for leaf, number in enumerate(layout.after)
      if isinstance(number, int) and sources[number] & carry
    }
    if grown <= carry:
      return carry - {-1}
    carry |= grown


def origins(
  read: reading.Reading,
  synapses: list[contacts.Synapse],
  carriers: set[int],
) -> Table:
  """Which element of each source each element comes from."""
  steps, layout = read.steps, read.layout
  table: Table = [{} for _ in steps.shapes]
  for leaf in carriers:
    number = layout.states[leaf]
    itself = places.Places([places.identity(steps.shapes[number])])
    table[number]['state', leaf] = itself
  by_line: dict[int, list[int]] = {}
  for number, synapse in enumerate(synapses):
    by_line.setdefault(synapse.line, []).append(number)
  for at, line in enumerate(read.body):
    # A product adds up units, so that no place passes it; its own variable
    # begins there.
    if read.mixes[at]:
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
      # An elementwise operation broadcasts its parameter, and each trial then
      # has a variable of its own per element of the result.
      shape = outs[0] if line.name in places.ELEMENTWISE else ins[operand]
      begun = places.Places([places.identity(shape)])
      if synapses[number].obstacle is not None:
        begun = places.Places(mixed=synapses[number].obstacle)
      operands[operand]['synapse', number] = begun
      ins[operand] = shape
    sources = sorted({source for operand in operands for source in operand})
    for source in sources:
      results = places.spread(
        line, [o.get(source, places.NOWHERE) for o in operands], ins, outs
      )
      if source[0] == 'synapse' and line.name in contacts.OPAQUE:
        results = _broadcast_inside(line, synapses, source[1], at, results, ins)
      for number, result in zip(line.outs, results, strict=True):
        if result and read.carries(line, number):
          table[number][source] = result
  return table


def _broadcast_inside(line, synapses, number, at, results, ins):
  """The places of a synapse that begins at a line with a program inside.

  Its operand may be broadcast there. If every element of the results comes from
  the element of the parameter that broadcasting would give it, the variable is
  the result's own element, per trial.
  """
  begun = synapses[number]
  if begun.line != at:
    return results
  shape = ins[begun.operand]
  checked = []
  for result in results:
    if not result or result.mixed:
      checked.append(result)
      continue
    wide = result.maps[0].shape
    if line.name not in ('custom_jvp_call', 'scan') and wide != shape:
      checked.append(places.Places(mixed=line.name))  # has no slope forward
      continue
    try:
      plain = np.broadcast_to(places.identity(shape), wide)
    except ValueError:
      checked.append(places.Places(mixed=line.name))
      continue
    fits = len(result.maps) == 1 and np.all(
      (result.maps[0] == plain) | (result.maps[0] < 0)
    )
    whole = np.where(result.maps[0] >= 0, places.identity(wide), -1)
    fits = fits and wide == (wide[0], *begun.shape)
    checked.append(
      places.Places([whole]) if fits else places.Places(mixed=line.name)
    )
  return checked


def groups_of(
  read: reading.Reading,
  synapses: list[contacts.Synapse],
  carriers: set[int],
  sinks: set[int],
  table: Table,
) -> list[int]:
  """Unites the leaves of the state that act on each other elementwise.

  Leaves whose elements one synapse drives alike are variables of the same
  units, too. A sink stays alone.
  """
  layout = read.layout
  parent = list(range(len(layout.states)))

  def root(leaf):
    while parent[leaf] != leaf:
      leaf = parent[leaf]
    return leaf

  driven: dict[Source, list[tuple[int, np.ndarray]]] = {}
  for leaf in sorted(carriers - sinks):
    number = layout.after[leaf]
    for source, several in of_atom(table, number).items():
      # Whatever one leaf does to another without a product, they are of a unit.
      if source[0] == 'state':
        parent[root(leaf)] = root(source[1])
        continue
      elements = np.unique([m for m in several.maps])
      elements = elements[elements >= 0]
      for other, shared in driven.setdefault(source, []):
        # The same element drives both: they are two variables of one unit. Two
        # halves of one product drive different units.
        if np.intersect1d(shared, elements).size:
          parent[root(leaf)] = root(other)
      driven[source].append((leaf, elements))
  order = sorted({root(leaf) for leaf in carriers})
  groups = [
    order.index(root(leaf)) if leaf in carriers else -1
    for leaf in range(len(layout.states))
  ]
  _check_units(read, synapses, table, groups, sinks)
  return groups


def of_atom(table: Table, atom: program.Atom) -> dict[Source, places.Places]:
  """The places of an operand, by source."""
  return table[atom] if isinstance(atom, int) else {}


def _check_units(read, synapses, table, groups, sinks) -> None:
  """Raises ValueError where the state's own paths leave the unit."""
  steps, layout = read.steps, read.layout
  for leaf, number in enumerate(layout.after):
    if not isinstance(number, int) or groups[leaf] < 0:
      continue
    for source, several in table[number].items():
      # Several units in one value: there is no trace unit by unit of that.
      if several.mixed:
        raise ValueError(across(layout, synapses, source, leaf, several.mixed))
      if source[0] != 'state' or (leaf in sinks and source[1] != leaf):
        continue
      itself = places.identity(steps.shapes[layout.states[source[1]]])
      for elements in several.maps:
        if elements.shape != itself.shape or not np.all(
          (elements == itself) | (elements < 0)
        ):
          raise ValueError(
            across(
              layout, synapses, source, leaf, 'an operation that moves units'
            )
            + ' A leaf that packs several variables of a unit would do as one '
            'leaf per variable.'
          )


def across(layout, synapses, source, leaf, operation) -> str:
  """Says where units meet outside of synapses."""
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


def drives_of(
  number: int,
  source: contacts.Synapse,
  layout: reading.Layout,
  table: Table,
  groups: list[int],
) -> dict[int, np.ndarray]:
  """The one unit of each leaf that each element of a variable drives."""
  size = math.prod(source.shape)
  drives, taken = {}, {}
  for leaf, after in enumerate(layout.after):
    several = (
      table[after].get(('synapse', number)) if isinstance(after, int) else None
    )
    if not several or groups[leaf] < 0:
      continue
    drive = np.full(size, -1, np.int64)
    for elements in several.maps:
      # The first trial says which element drives which unit; the others must
      # say the same of their own elements.
      by_trial = elements.reshape(layout.batch, -1)
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
          f'the synapse of {source.operation} drives several units of '
          f'state{layout.names[leaf]} by one element, so there is no trace '
          f'unit by unit. {ADVICE}'
        )
      seen[first[units]] = units
      drive[first[units]] = units
    drives[leaf] = drive.reshape(source.shape)
  return drives
