# SPDX-License-Identifier: Apache-2.0
"""Where credit ends: cuts, and what no trace carries across a border."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bionet_learners.synapses import contacts, groups, reading

_NONE: frozenset[int] = frozenset()


class Cuts(NamedTuple):
  """Where credit ends.

  Attributes:
    at: of each line of the body, the groups that lose their credit there.
    ahead: of each value, the groups whose new state it reaches.
    behind: of each value, the groups that are cut at a line that it reaches.
  """

  at: list[frozenset[int]]
  ahead: list[frozenset[int]]
  behind: list[frozenset[int]]


def cuts_of(read: reading.Reading, of_leaves: list[int]) -> Cuts:
  """A product cuts the groups that it hears and that its output comes back to.

  What carries no derivative is no way back: an argmax that is fed back cuts
  nothing.
  """
  size, body = len(read.steps.shapes), read.body
  # Backward first: a product is cut for a group only if it leads back to it
  # within the step. One that leads on to the next layer stays whole.
  ahead = [_NONE] * size
  for leaf, number in enumerate(read.layout.after):
    if isinstance(number, int) and of_leaves[leaf] >= 0:
      ahead[number] = ahead[number] | {of_leaves[leaf]}
  for line in reversed(body):
    reached = _NONE.union(
      *(ahead[o] for o in line.outs if read.carries(line, o))
    )
    for i in line.ins:
      if isinstance(i, int) and read.steps.floating(i):
        ahead[i] = ahead[i] | reached
  # Forward, what of which group is still uncut decides where it is cut.
  live = [_NONE] * size
  for leaf, number in enumerate(read.layout.states):
    if of_leaves[leaf] >= 0:
      live[number] = frozenset((of_leaves[leaf],))
  at = [_NONE] * len(body)
  for k, line in enumerate(body):
    arriving = _NONE.union(*(live[i] for i in line.ins if isinstance(i, int)))
    # Products alone are cut: elementwise paths are what a unit keeps.
    if read.mixes[k]:
      at[k] = arriving & _NONE.union(*(ahead[o] for o in line.outs))
    for o in line.outs:
      if read.carries(line, o):
        live[o] = arriving - at[k]
  # A group whose last cut is behind a value needs no tangent of its own there.
  behind = [_NONE] * size
  for k, line in reversed(list(enumerate(body))):
    cut = at[k].union(*(behind[o] for o in line.outs if read.carries(line, o)))
    for i in line.ins:
      if isinstance(i, int):
        behind[i] = behind[i] | cut
  return Cuts(at, ahead, behind)


def emitting(read: reading.Reading) -> list[bool]:
  """Which values reach the emission, by a path that carries a derivative."""
  reaches = [False] * len(read.steps.shapes)
  if isinstance(read.layout.emission, int):
    reaches[read.layout.emission] = True
  for line in reversed(read.body):
    if any(reaches[o] for o in line.outs if read.carries(line, o)):
      for i in line.ins:
        if isinstance(i, int):
          reaches[i] = True
  return reaches


def _entering(
  read: reading.Reading, of_leaves: list[int], cuts: Cuts, table: groups.Table
) -> Iterator[tuple[int, int]]:
  """The leaves that enter each product uncut: `(line, leaf)`."""
  for at, line in enumerate(read.body):
    for i in line.ins if read.mixes[at] else ():
      for kind, leaf in groups.of_atom(table, i):
        if kind == 'state' and of_leaves[leaf] not in cuts.at[at]:
          yield at, leaf


def alive(
  read: reading.Reading, of_leaves: list[int], cuts: Cuts, table: groups.Table
) -> list[int]:
  """The leaves whose past reaches a later state or emission uncut."""
  # The emission counts: a state may be read out and do nothing else.
  ends = (read.layout.emission, *read.layout.after)
  direct = {
    leaf
    for end in ends
    for kind, leaf in groups.of_atom(table, end)
    if kind == 'state'
  }
  # A layer below is felt through the product that reads it, and its past with
  # it: without its traces the credit of earlier steps would be lost.
  entering = {leaf for _, leaf in _entering(read, of_leaves, cuts, table)}
  return sorted(leaf for leaf in direct | entering if of_leaves[leaf] >= 0)


def leaking(
  read: reading.Reading, of_leaves: list[int], cuts: Cuts, table: groups.Table
) -> set[int]:
  """The groups that reach another group's state by an uncut product.

  At the next step, that is: a layer that is heard by another at the step after.
  The other group keeps no trace of it.
  """
  return {
    of_leaves[leaf]
    for at, leaf in _entering(read, of_leaves, cuts, table)
    if any(cuts.ahead[o] for o in read.body[at].outs)
  }


def through(
  number: int,
  source: contacts.Synapse,
  read: reading.Reading,
  cuts: Cuts,
  table: groups.Table,
) -> np.ndarray:
  """Which elements of a synapse enter a product that leads on to a state."""
  size = math.prod(source.shape)
  entered = np.zeros(size, bool)
  for at, line in enumerate(read.body):
    if not read.mixes[at] or not cuts.ahead[line.outs[0]]:
      continue
    for i in line.ins:
      places = groups.of_atom(table, i).get(('synapse', number))
      if not places:
        continue
      # Of a mixed value it is only known that some element enters.
      if places.mixed:
        entered[:] = True
      for elements in places.maps:
        entered[elements[(elements >= 0) & (elements < size)]] = True
  return entered.reshape(source.shape)


def hears(
  read: reading.Reading, of_leaves: list[int], cuts: Cuts, table: groups.Table
) -> dict[int, str]:
  """The groups that hear other units by a product that leads to them alone."""
  heard: dict[int, str] = {}
  for at, line in enumerate(read.body):
    if not read.mixes[at]:
      continue
    ahead = cuts.ahead[line.outs[0]]
    # What leads on by way of another group is that group's to hold.
    if len(ahead) != 1:
      continue
    sources = {s for i in line.ins for s in groups.of_atom(table, i)}
    # What has been cut is not heard: its credit ends at this very line.
    if any(
      kind == 'synapse' or of_leaves[number] not in cuts.at[at]
      for kind, number in sources
    ):
      heard.update(dict.fromkeys(ahead, line.name))
  return heard
