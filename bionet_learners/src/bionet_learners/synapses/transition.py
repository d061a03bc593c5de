# SPDX-License-Identifier: Apache-2.0
"""The cut transition of a cell: its values, and the credit that units keep.

  s_t = F(s_{t-1}, y_t),   y_t = W x_t,   x_t = G(s_{t-1}, inputs_t)
  D_t = dF/ds_{t-1} at fixed y_t          kept: elementwise, unit by unit
  dF/dy_t W dG/ds_{t-1}                   cut

The step is run line by line. Its derivative carries one tangent per group of
units, and one for the rest (parameters, layers that are past their last cut):

  values advance as ever;   tangent[v] = {group: dv}
  line                      d_out[g] = jvp(line)(d_in[g]), for each g that
                            arrives at the line and is not cut there

Reverse mode follows by transposition. Parameters keep all they do within the
step (a GRU's reset gate acts through a second synapse), and synapses that lead
on to another layer stay whole.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from bionet_core import interfaces
from bionet_learners.synapses import places, program
from bionet_learners.synapses import structure as structures

_REST = -1  # the tangent of what no further line cuts

stop = jax.lax.stop_gradient


class Local(NamedTuple):
  """A step's local derivative.

  Attributes:
    inputs: of each traced synapse, a product's inputs `[B, G P, m]`; None for
      an elementwise one.
    drive: c: of each traced synapse and leaf, `[B, *shape]` of its variable.
    decay: D: `{(to, from): [B, units]}` of the leaves of a group.
  """

  inputs: list[jax.Array | None]
  drive: list[dict[int, jax.Array]]
  decay: dict[tuple[int, int], jax.Array]


class Transition:
  """A cell's step, run by its structure."""

  def __init__(self, structure: structures.Structure):
    """Takes a structure; see the head of this module."""
    self.structure = structure
    layout = structure.layout
    self._numbers = [*structure.learned, *structure.fixed, *layout.data]
    # Where each new state is made. Two leaves that hold one value are renewed
    # once: they are equal for ever.
    self._renewed: dict[int, int] = {}
    for leaf, number in enumerate(layout.after):
      if isinstance(number, int) and structure.groups[leaf] >= 0:
        self._renewed.setdefault(number, leaf)

  def prelude(
    self, params: interfaces.ArrayTree, constants: interfaces.ArrayTree
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    """What of a step depends on no data: its learned and its fixed values."""
    layout = self.structure.layout
    values = dict(self.structure.steps.closed)
    values.update(zip(layout.params, jax.tree.leaves(params), strict=True))
    values.update(
      zip(layout.constants, jax.tree.leaves(constants), strict=True)
    )
    for line in self.structure.prelude:
      values.update(
        zip(line.outs, line.bind(_values(values, line.ins)), strict=True)
      )
    learned = [values[i] for i in self.structure.learned]
    return learned, [values[i] for i in self.structure.fixed]

  def step(
    self,
    learned: list[jax.Array],
    fixed: list[jax.Array],
    state: interfaces.ArrayTree,
    keys: jax.Array,
    inputs: jax.Array,
    *,
    leak: float | None = None,
    probes: list[jax.Array] | None = None,
  ) -> tuple[jax.Array, interfaces.ArrayTree]:
    """The cut step: the cell's values, and what is kept of its derivative.

    Args:
      learned: values of `prelude`.
      fixed: values of `prelude`.
      state: the state before.
      keys: `[B]`.
      inputs: `[B, *I]`.
      leak: replaces D by this number; None: the cell's D.
      probes: zeros like the leaves of the state, added to the new state, which
        then carries no credit of the old one: their gradient is dL/d new state.

    Returns:
      The emission and the new state.
    """
    values = [*learned, *fixed, *jax.tree.leaves((state, keys, inputs))]
    emission, *after = self._run(leak, probes is not None)(values, probes or [])
    return emission, jax.tree.unflatten(self.structure.layout.tree, after)

  def _run(self, leak, probed):
    """The step as a function of the numbered values, with its own jvp."""
    structure, layout = self.structure, self.structure.layout
    ends = [layout.emission, *layout.after]

    @jax.custom_jvp
    def run(values, probes):
      del probes  # they have derivatives and no values
      known = dict(zip(self._numbers, values, strict=True))
      for line in structure.body:
        known.update(
          zip(line.outs, line.bind(_values(known, line.ins)), strict=True)
        )
      return _values(known, ends)

    @functools.partial(run.defjvp, symbolic_zeros=True)
    def _(primals, tangents):
      known = dict(zip(self._numbers, primals[0], strict=True))
      credit = _Credit(structure, self._renewed, leak, probed, tangents)
      for number in self._numbers:
        credit.seed(number)
      for at, line in enumerate(structure.body):
        ins = _values(known, line.ins)
        known.update(zip(line.outs, line.bind(ins), strict=True))
        credit.push(at, line, ins)
      outs = _values(known, ends)
      return outs, [credit.total(n, x) for n, x in zip(ends, outs, strict=True)]

    return run

  def local(
    self,
    learned: list[jax.Array],
    fixed: list[jax.Array],
    state: interfaces.ArrayTree,
    keys: jax.Array,
    inputs: jax.Array,
    traced: list[int],
    leak: float | None = None,
  ) -> tuple[jax.Array, interfaces.ArrayTree, Local]:
    """A step forward with its local derivative: nothing passes a product.

    Args:
      learned: values of `prelude`.
      fixed: values of `prelude`.
      state: the state before.
      keys: `[B]`.
      inputs: `[B, *I]`.
      traced: the numbers of the synapses whose drive is wanted.
      leak: replaces D by this number; None: the cell's D.

    Returns:
      The emission, the new state, and the Local.
    """
    structure, layout = self.structure, self.structure.layout
    leaves = jax.tree.leaves(state)
    kept = [leaf for leaf, group in enumerate(structure.groups) if group >= 0]
    by_line: dict[int, list[int]] = {}
    for number in traced:
      line = structure.synapses[number].line
      by_line.setdefault(line, []).append(number)
    outside = jax.tree.leaves((keys, inputs))

    def run(nudges, floats):
      full = [stop(x) for x in leaves]
      for leaf, value in zip(kept, floats, strict=True):
        full[leaf] = value
      known = dict(
        zip(self._numbers, [*learned, *fixed, *full, *outside], strict=True)
      )
      received = {}
      for at, line in enumerate(structure.body):
        ins = _values(known, line.ins)
        here = [structure.synapses[n] for n in by_line.get(at, ())]
        if structure.mixes[at]:
          ins = [stop(x) for x in ins]
        outs = self._nudged(line, ins, here, by_line.get(at, ()), nudges)
        for number, synapse in zip(by_line.get(at, ()), here, strict=True):
          if synapse.product is not None:
            data = ins[1 - synapse.operand]
            received[number] = synapse.product.data(data)
        known.update(zip(line.outs, outs, strict=True))
      after = _values(known, layout.after)
      emission = _values(known, [layout.emission])[0]
      return [after[leaf] for leaf in kept], (emission, after, received)

    nudges = self._no_nudges(traced)
    floats = [leaves[leaf] for leaf in kept]
    if leak is not None:
      new, pull, aux = jax.vjp(lambda n: run(n, floats), nudges, has_aux=True)
    else:
      new, pull, aux = jax.vjp(run, nudges, floats, has_aux=True)
    drive = [{} for _ in traced]
    decay: dict[tuple[int, int], jax.Array] = {}
    # Groups never act on each other here, so that one backward pass serves a
    # leaf of every group.
    for to in _one_leaf_per_group(structure, kept):
      along = [
        jnp.ones_like(x) if leaf in to else jnp.zeros_like(x)
        for leaf, x in zip(kept, new, strict=True)
      ]
      by_nudge, *by_state = pull(along)
      by_leaf = dict(zip(kept, by_state[0], strict=True)) if by_state else {}
      for leaf in to:
        for at, number in enumerate(traced):
          if leaf in structure.synapses[number].drives:
            drive[at][leaf] = by_nudge[number]
        for other in structure.members(structure.groups[leaf]):
          if leak is None:
            d = by_leaf[other]
          else:
            d = jnp.full_like(leaves[leaf], leak if other == leaf else 0)
          decay[leaf, other] = d.reshape(d.shape[0], -1)
    emission, after, received = aux
    return (
      emission,
      jax.tree.unflatten(layout.tree, after),
      Local([received.get(n) for n in traced], drive, decay),
    )

  def _no_nudges(self, traced) -> dict[int, jax.Array]:
    """Zeros like the variables of the traced synapses."""
    structure = self.structure
    zeros = {}
    for number in traced:
      synapse = structure.synapses[number]
      line = structure.body[synapse.line]
      dtype = structure.steps.dtypes[line.ins[synapse.operand]]
      if synapse.product is not None:
        dtype = structure.steps.dtypes[line.outs[0]]
      zeros[number] = jnp.zeros((structure.layout.batch, *synapse.shape), dtype)
    return zeros

  def _nudged(self, line, ins, synapses, numbers, nudges) -> list[jax.Array]:
    """The results of a line with nudges on the variables of its synapses."""
    if not synapses:
      return line.bind(ins)
    product = synapses[0].product
    if product is not None:
      outs = line.bind(ins)
      outs[0] = stop(outs[0]) + product.output(nudges[numbers[0]])
      return outs
    ins, inside = list(ins), []
    for number, synapse in zip(numbers, synapses, strict=True):
      wide = (self.structure.layout.batch, *synapse.shape)
      if line.name in structures.OPAQUE and ins[synapse.operand].shape != wide:
        inside.append((synapse, nudges[number]))
      else:
        value = jnp.broadcast_to(ins[synapse.operand], wide)
        ins[synapse.operand] = value + nudges[number]
    outs = line.bind(ins)
    for synapse, nudge in inside:
      # The operand is broadcast inside. Each result has the element's slope.
      slopes = _slopes(line, ins, synapse.operand)
      outs = [x + stop(s) * nudge for x, s in zip(outs, slopes, strict=True)]
    return outs

  def flat_gradient(
    self, synapse: int, gradient: jax.Array, value: jax.Array
  ) -> jax.Array:
    """The gradient of a learned value, from that of its normal form.

    Args:
      synapse: the synapse's number.
      gradient: float `[G, m, n]` for a product; `[B, ...]`, by trial,
        otherwise.
      value: the learned value.
    """
    product = self.structure.synapses[synapse].product
    if product is not None:
      normal = product.weights
    else:
      normal = functools.partial(jnp.broadcast_to, shape=gradient.shape)
    (back,) = jax.linear_transpose(normal, value)(gradient.astype(value.dtype))
    return back


class _Credit:
  """The tangents of a step's values, one per group that reaches each."""

  def __init__(self, structure, renewed, leak, probed, tangents):
    self._structure, self._renewed = structure, renewed
    self._leak, self._probed = leak, probed
    values, probes = tangents
    numbers = [
      *structure.learned,
      *structure.fixed,
      *structure.layout.data,
    ]
    self._given = dict(zip(numbers, values, strict=True))
    self._probes = probes
    self._group = {
      number: group
      for number, group in zip(
        structure.layout.states, structure.groups, strict=True
      )
      if group >= 0
    }
    self._streams: dict[int, dict[int, jax.Array]] = {}

  def seed(self, number) -> None:
    """Takes the tangent of an argument of the step."""
    tangent = self._given[number]
    carries = (
      number not in self._structure.layout.states or number in self._group
    )
    if carries and _moves(tangent):
      self._add(number, self._group.get(number, _REST), tangent)
    self._renew(number)

  def push(self, at, line, ins) -> None:
    """Takes the tangents of a line's operands to its results."""
    if line.name in places.NO_DERIVATIVE:
      return
    arriving = {
      g for i in line.ins if isinstance(i, int) for g in self._of(i)
    } - self._structure.cuts[at]
    for group in sorted(arriving):
      along = {
        k: self._of(i)[group]
        for k, i in enumerate(line.ins)
        if isinstance(i, int) and group in self._of(i)
      }
      for number, tangent in zip(
        line.outs, _jvp(line, ins, along), strict=True
      ):
        if tangent.dtype != jax.dtypes.float0:
          self._add(number, group, tangent)
    for number in line.outs:
      self._renew(number)

  def total(self, atom, value):
    """The tangent of a result of the step."""
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
      return np.zeros(np.shape(value), jax.dtypes.float0)
    tangents = list(self._of(atom).values()) if isinstance(atom, int) else []
    if not tangents:
      return jnp.zeros_like(value)
    return functools.reduce(jnp.add, tangents)

  def _of(self, number) -> dict[int, jax.Array]:
    return self._streams.get(number, {})

  def _add(self, number, group, tangent) -> None:
    """Adds a tangent; behind a group's last cut it joins the rest."""
    ahead = self._structure.cut_ahead[number]
    keeps = self._leak is not None or self._probed
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
    stream = self._streams.setdefault(number, {})
    stream.pop(self._structure.groups[leaf], None)
    old = self._given[self._structure.layout.states[leaf]]
    if self._leak is not None and _moves(old):
      stream[self._structure.groups[leaf]] = self._leak * old
    if self._probed and _moves(self._probes[leaf]):
      probe = self._probes[leaf]
      stream[_REST] = stream[_REST] + probe if _REST in stream else probe


def _moves(tangent: Any) -> bool:
  """Whether a tangent may be other than zero."""
  return not isinstance(tangent, SymbolicZero) and (
    tangent.dtype != jax.dtypes.float0
  )


def _jvp(line: program.Line, ins: list[Any], along: dict[int, jax.Array]):
  """The tangents of a line's results, where these operands move."""

  def moved(*some):
    full = list(ins)
    for k, x in zip(along, some, strict=True):
      full[k] = x
    return line.bind(full)

  at = [ins[k] for k in along]
  return jax.jvp(moved, at, list(along.values()))[1]


def _slopes(line: program.Line, ins: list[Any], operand: int):
  """Of each result of an elementwise line, the slope along one operand."""
  return _jvp(line, ins, {operand: jnp.ones_like(ins[operand])})


def _values(known: dict[int, Any], atoms) -> list[Any]:
  return [known[a] if isinstance(a, int) else a.val for a in atoms]


def _advance(known: dict[int, Any], line: program.Line) -> None:
  outs = line.bind(_values(known, line.ins))
  known.update(zip(line.outs, outs, strict=True))


def _one_leaf_per_group(structure, kept) -> list[set[int]]:
  """The leaves in sets that hold one of each group at most."""
  ranks: dict[int, set[int]] = {}
  for group in {structure.groups[leaf] for leaf in kept}:
    for rank, leaf in enumerate(structure.members(group)):
      ranks.setdefault(rank, set()).add(leaf)
  return list(ranks.values())


def open_transition(
  cell: interfaces.Cell,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  state: interfaces.ArrayTree,
  keys: jax.Array,
  inputs: jax.Array,
) -> Transition:
  """The transition of a cell for arguments of these shapes.

  Raises:
    TypeError, ValueError: as `structure`.
  """
  return Transition(
    structures.structure(cell, params, constants, state, keys, inputs)
  )


def cut(cell: interfaces.Cell) -> interfaces.Cell:
  """The cell whose step has the same values and the cut derivative.

  `bptt(cut(cell), loss)` is D-RTRL in reverse. What is cut is said at the head
  of this module.

  Args:
    cell: any Cell.

  Returns:
    A Cell. Tracing its step raises what `structure` raises.
  """

  def step(params, constants, state, keys, inputs):
    transition = open_transition(cell, params, constants, state, keys, inputs)
    learned, fixed = transition.prelude(params, constants)
    return transition.step(learned, fixed, state, keys, inputs)

  return cell._replace(step=step)
