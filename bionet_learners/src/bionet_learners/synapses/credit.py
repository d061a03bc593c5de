# SPDX-License-Identifier: Apache-2.0
"""The tangents of a cut step: one per group of units, and one for the rest.

  line      d_out[g] = jvp(line)(d_in[g]), for each group g that arrives at the
            line and is not cut there

What no further line cuts needs no tangent of its own and joins the rest, so
that a stack of layers costs little more than its plain derivative.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from bionet_learners.synapses import places, program

_REST = -1  # what no further line cuts: parameters, past layers


class Credit:
  """The tangents of a step's values, one per group that reaches each."""

  def __init__(self, structure, renewed, leak, probed, tangents):
    self._structure, self._renewed = structure, renewed
    self._leak, self._probed = leak, probed
    values, probes = tangents
    self._given = dict(zip(structure.numbers, values, strict=True))
    self._probes = probes
    self._group = {
      number: group
      for number, group in zip(
        structure.read.layout.states, structure.groups, strict=True
      )
      if group >= 0
    }
    self._streams: dict[int, dict[int, jax.Array]] = {}

  def seed(self, number) -> None:
    """Takes the tangent of an argument of the step."""
    tangent = self._given[number]
    # A leaf that no parameter ever reaches is data, and its tangent is dropped
    # here, so that a rule never differentiates a clock.
    carries = (
      number not in self._structure.read.layout.states or number in self._group
    )
    if carries and moves(tangent):
      self._add(number, self._group.get(number, _REST), tangent)
    self._renew(number)

  def push(self, at, line, ins) -> None:
    """Takes the tangents of a line's operands to its results."""
    if line.name in places.NO_DERIVATIVE:
      return
    # The union over operands: a product with two uncut operands needs both
    # tangents of a group at once, or the product rule would lose a term.
    arriving = {
      g for i in line.ins if isinstance(i, int) for g in self._of(i)
    } - self._structure.cuts.at[at]
    for group in sorted(arriving):
      # An operand that the group does not reach stays a constant of the jvp.
      along = {
        k: self._of(i)[group]
        for k, i in enumerate(line.ins)
        if isinstance(i, int) and group in self._of(i)
      }
      for number, tangent in zip(line.outs, jvp(line, ins, along), strict=True):
        if tangent.dtype != jax.dtypes.float0:
          self._add(number, group, tangent)
    for number in line.outs:
      self._renew(number)

  def total(self, atom, value):
    """The tangent of a result of the step."""
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
      return np.zeros(np.shape(value), jax.dtypes.float0)
    tangents = list(self._of(atom).values()) if isinstance(atom, int) else []
    # The emission of a cell may be data alone; reverse mode wants zeros.
    if not tangents:
      return jnp.zeros_like(value)
    return functools.reduce(jnp.add, tangents)

  def _of(self, number) -> dict[int, jax.Array]:
    return self._streams.get(number, {})

  def _add(self, number, group, tangent) -> None:
    """Adds a tangent; behind a group's last cut it joins the rest."""
    ahead = self._structure.cuts.behind[number]
    keeps = self._leak is not None or self._probed
    # A leak or a probe replaces the tangent of a new state, so that the group
    # must still be told from the rest there, though no product cuts it.
    if group not in ahead and not keeps:
      group = _REST
    stream = self._streams.setdefault(number, {})
    old = stream.get(group)
    stream[group] = tangent if old is None else old + tangent

  def _renew(self, number) -> None:
    """Where a value is a new state: its credit of the old one, by the rule."""
    leaf = self._renewed.get(number)
    if leaf is None or not (self._probed or self._leak is not None):
      return
    group, *heard = self._structure.heard_by(leaf)
    stream = self._streams.setdefault(number, {})
    # What other variables of the unit do to this one within the step is a part
    # of its own trace, and ends here with the rest of the group's credit.
    for ended in (group, *heard):
      stream.pop(ended, None)
    old = self._given[self._structure.read.layout.states[leaf]]
    if self._leak is not None and moves(old):
      stream[group] = self._leak * old
    if self._probed and moves(self._probes[leaf]):
      stream[group] = self._probes[leaf]


def moves(tangent: Any) -> bool:
  """Whether a tangent may be other than zero."""
  return not isinstance(tangent, SymbolicZero) and (
    tangent.dtype != jax.dtypes.float0
  )


def jvp(line: program.Line, ins: list[Any], along: dict[int, jax.Array]):
  """The tangents of a line's results, where these operands move."""

  def moved(*moving):
    full = list(ins)
    for k, x in zip(along, moving, strict=True):
      full[k] = x
    return line.bind(full)

  at = [ins[k] for k in along]
  return jax.jvp(moved, at, list(along.values()))[1]


def slopes(line: program.Line, ins: list[Any], operand: int):
  """Of each result of an elementwise line, the slope along one operand."""
  return jvp(line, ins, {operand: jnp.ones_like(ins[operand])})


def values_of(
  known: dict[int, Any], atoms: Sequence[program.Atom]
) -> list[Any]:
  """The values of operands; literals stand for themselves."""
  return [known[a] if isinstance(a, int) else a.val for a in atoms]


def advance(known: dict[int, Any], line: program.Line) -> None:
  """Runs a line, and adds its results to the known values."""
  outs = line.bind(values_of(known, line.ins))
  known.update(zip(line.outs, outs, strict=True))
