# SPDX-License-Identifier: Apache-2.0
"""Leaves that only gather: what hears units elementwise and is heard by none.

  z_t = f(z_{t-1}, s_t)       elementwise; z reaches no other leaf

A filter of the emission is one, and so is a leaky readout in the cell. Such a
leaf may read the units of several groups next to each other. It joins none of
them, or it would join them to each other: it is a variable of each.
"""

import numpy as np

from bionet_learners.synapses import groups, places, program, reading

Sinks = dict[int, dict[int, np.ndarray]]
"""`{leaf: {group: [units]}}`: the element of the leaf that each unit of a group
reaches, -1 for none."""


def leaves(
  read: reading.Reading, carriers: set[int], table: groups.Table
) -> set[int]:
  """The leaves of the state that are sinks."""
  layout = read.layout
  reached = groups.reached(read)
  gathering = set()
  for leaf in carriers:
    number = layout.after[leaf]
    heard = {
      other
      for kind, other in groups.of_atom(table, number)
      if kind == 'state' and other != leaf
    }
    others = carriers - {leaf}
    felt = any(leaf in _of(reached, layout.after[o]) for o in others)
    if heard and not felt and not _hears_itself_by_a_product(read, leaf, table):
      gathering.add(leaf)
  return gathering


def _of(reached, atom: program.Atom) -> frozenset[int]:
  return reached[atom] if isinstance(atom, int) else frozenset()


def _hears_itself_by_a_product(read, leaf, table) -> bool:
  """Whether a product of the leaf comes back to it: it has a cut, then."""
  leads = {read.layout.after[leaf]}
  for at, line in reversed(list(enumerate(read.body))):
    if not any(o in leads and read.carries(line, o) for o in line.outs):
      continue
    leads.update(i for i in line.ins if isinstance(i, int))
    if read.mixes[at] and any(
      ('state', leaf) in groups.of_atom(table, i) for i in line.ins
    ):
      return True
  return False


def elements(
  read: reading.Reading,
  of_leaves: list[int],
  sinks: set[int],
  table: groups.Table,
) -> Sinks:
  """The element of each sink that each unit reaches.

  Raises:
    ValueError: if one unit reaches several.
  """
  layout = read.layout
  by_leaf: Sinks = {}
  for leaf in sorted(sinks):
    by_leaf[leaf] = {}
    for (kind, other), several in groups.of_atom(
      table, layout.after[leaf]
    ).items():
      if kind != 'state' or other == leaf:
        continue
      shape = read.steps.shapes[layout.states[other]]
      size = places.identity(shape[1:]).size
      units = by_leaf[leaf].setdefault(
        of_leaves[other], np.full(size, -1, np.int64)
      )
      for element_of in several.maps:
        if not _take(units, element_of.reshape(layout.batch, -1)):
          raise ValueError(
            groups.across(
              layout, [], (kind, other), leaf, 'an operation that repeats units'
            )
          )
  return by_leaf


def _take(units: np.ndarray, by_trial: np.ndarray) -> bool:
  """Writes a map into the elements of the units; False where it cannot be."""
  first = by_trial[0]
  shifts = units.size * np.arange(len(by_trial))[:, None]
  # Each trial has its own units, and does with them what the first one does.
  if not np.array_equal(np.where(first >= 0, first + shifts, -1), by_trial):
    return False
  reached = np.flatnonzero(first >= 0)
  heard = first[reached]
  taken = units[heard]
  if np.any((taken >= 0) & (taken != reached)):
    return False
  units[heard] = reached
  # One unit in two elements of one map: the second has overwritten the first.
  return bool(np.all(units[heard] == reached))
