# SPDX-License-Identifier: Apache-2.0
"""The structure of a cell's step: synapses, groups of units, cuts.

A synapse is a line of the step in which a value that depends on parameters
alone meets one that depends on data. The leaves of the state that act on each
other elementwise are the variables of one group of units. `structure` reads all
this off the step's program, in passes that each return their table:

  reading     what each value depends on: nothing, parameters, data
  synapse     where the two meet
  carriers    which leaves of the state any parameter ever reaches
  origins     from which element of which leaf or synapse each element comes
  sinks       which leaves only gather, and from which units
  groups      which leaves are variables of the same units
  cuts        which groups lose their credit at which line
"""

from typing import NamedTuple

import jax

from bionet_core import interfaces
from bionet_learners.synapses import contacts, cuts, groups, reading, sinks


class Structure(NamedTuple):
  """All that the rules on synapses know of a cell's step.

  Attributes:
    read: the step, read.
    synapses: the synapses.
    groups: of each leaf of the state, its group; -1 for what carries no credit
      (integers, keys, and floats that no parameter reaches).
    sinks: the leaves that only gather; each has a group of its own, and the
      element that each unit of the groups which it hears reaches.
    cuts: where credit ends.
    alive: the leaves whose past reaches a later state or emission uncut: those
      whose traces are needed.
    hears: `{group: operation}`, the groups that hear other units, uncut, by a
      product that leads to no other group.
  """

  read: reading.Reading
  synapses: list[contacts.Synapse]
  groups: list[int]
  sinks: sinks.Sinks
  cuts: cuts.Cuts
  alive: list[int]
  hears: dict[int, str]

  @property
  def numbers(self) -> list[int]:
    """The values that a step is run from: the prelude's, then its data."""
    return [*self.read.learned, *self.read.fixed, *self.read.layout.data]

  def members(self, group: int) -> list[int]:
    """The leaves of the state that are variables of a group's units."""
    return [leaf for leaf, g in enumerate(self.groups) if g == group]

  def heard_by(self, leaf: int) -> list[int]:
    """The groups whose past a leaf may hear elementwise: its own first."""
    return [self.groups[leaf], *self.sinks.get(leaf, ())]


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
  read = reading.read(cell, params, constants, state, keys, inputs)
  synapses = contacts.find(read)
  carriers = groups.carriers(read)
  table = groups.origins(read, synapses, carriers)
  gathering = sinks.leaves(read, carriers, table)
  of_leaves = groups.groups_of(read, synapses, carriers, gathering, table)
  where = cuts.cuts_of(read, of_leaves)
  leaking = cuts.leaking(read, of_leaves, where, table)
  emits = cuts.emitting(read)
  known = []
  for number, synapse in enumerate(synapses):
    drives = groups.drives_of(number, synapse, read.layout, table, of_leaves)
    beyond = [leaf for leaf in drives if of_leaves[leaf] in leaking]
    through = cuts.through(number, synapse, read, where, table)
    # What another layer hears at the next step no trace of a unit carries.
    for leaf in beyond:
      through = through | (drives[leaf] >= 0)
    known.append(
      synapse._replace(
        drives=drives,
        through=through,
        emits=any(emits[o] for o in read.body[synapse.line].outs),
      )
    )
  return Structure(
    read=read,
    synapses=known,
    groups=of_leaves,
    sinks=sinks.elements(read, of_leaves, gathering, table),
    cuts=where,
    alive=cuts.alive(read, of_leaves, where, table),
    hears=cuts.hears(read, of_leaves, where, table),
  )
