# SPDX-License-Identifier: Apache-2.0
"""The local derivative of a step: what units keep while no product is passed.

  D = dF/ds_{t-1},   c = dF/dy_t         of s_t = F(s_{t-1}, y_t), elementwise

Both come from backward passes through the step in which the outputs of products
are held fixed: one pass per state variable of a unit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners.synapses import anatomy, contacts, credit, program

stop = jax.lax.stop_gradient


class Local(NamedTuple):
  """A step's local derivative.

  Attributes:
    inputs: of each traced synapse, a product's inputs `[B, G P, m]`; None for
      an elementwise one.
    drive: c: of each traced synapse and leaf, `[B, *shape]` of its variable.
    decay: D: `{(to, from): [B, units]}` of the leaves of a group, and of a sink
      and the leaves that it hears; the units are those of `from`.
  """

  inputs: list[jax.Array | None]
  drive: list[dict[int, jax.Array]]
  decay: dict[tuple[int, int], jax.Array]


def local_derivative(
  structure: anatomy.Structure,
  learned: list[jax.Array],
  fixed: list[jax.Array],
  state: interfaces.ArrayTree,
  keys: jax.Array,
  inputs: jax.Array,
  traced: list[int],
  leak: float | None = None,
) -> tuple[jax.Array, interfaces.ArrayTree, Local]:
  """A step forward, with its local derivative.

  Args:
    structure: the step's.
    learned: values of `Transition.prelude`.
    fixed: values of `Transition.prelude`.
    state: the state before.
    keys: `[B]`.
    inputs: `[B, *I]`.
    traced: the numbers of the synapses whose drive is wanted.
    leak: replaces D by this number; None: the cell's D.

  Returns:
    The emission, the new state, and the Local.
  """
  layout = structure.read.layout
  numbers = structure.numbers
  leaves = jax.tree.leaves(state)
  carriers = [leaf for leaf, group in enumerate(structure.groups) if group >= 0]
  by_line: dict[int, list[int]] = {}
  for number in traced:
    line = structure.synapses[number].line
    by_line.setdefault(line, []).append(number)
  outside = jax.tree.leaves((keys, inputs))

  def run(nudges, floats):
    # Leaves without credit are data; their derivative is not even traced.
    full = [stop(x) for x in leaves]
    for leaf, value in zip(carriers, floats, strict=True):
      full[leaf] = value
    known = dict(zip(numbers, [*learned, *fixed, *full, *outside], strict=True))
    received = {}
    for at, line in enumerate(structure.read.body):
      ins = credit.values_of(known, line.ins)
      here = {n: structure.synapses[n] for n in by_line.get(at, ())}
      # Held fixed: what passes a product is no part of D or c.
      if structure.read.mixes[at]:
        ins = [stop(x) for x in ins]
      outs = _nudged(layout.batch, line, ins, here, nudges)
      for number, synapse in here.items():
        if synapse.product is not None:
          received[number] = synapse.product.data(ins[1 - synapse.operand])
      known.update(zip(line.outs, outs, strict=True))
    after = credit.values_of(known, layout.after)
    emission = credit.values_of(known, [layout.emission])[0]
    return [after[leaf] for leaf in carriers], (emission, after, received)

  nudges = _no_nudges(structure, traced)
  floats = [leaves[leaf] for leaf in carriers]
  # The leak replaces D, so that only the drive is to be differentiated.
  if leak is not None:
    new, pull, aux = jax.vjp(lambda n: run(n, floats), nudges, has_aux=True)
  else:
    new, pull, aux = jax.vjp(run, nudges, floats, has_aux=True)
  drive = [{} for _ in traced]
  decay: dict[tuple[int, int], jax.Array] = {}
  for to in _passes(structure, carriers):
    along = [
      jnp.ones_like(x) if leaf in to else jnp.zeros_like(x)
      for leaf, x in zip(carriers, new, strict=True)
    ]
    by_nudge, *by_state = pull(along)
    by_leaf = dict(zip(carriers, by_state[0], strict=True)) if by_state else {}
    for leaf in to:
      for at, number in enumerate(traced):
        # Leaves that a synapse does not drive have a drive of zero.
        if leaf in structure.synapses[number].drives:
          drive[at][leaf] = by_nudge[number]
      heard = structure.heard_by(leaf)
      for other in (o for g in heard for o in structure.members(g)):
        if leak is None:
          d = by_leaf[other]
        else:
          d = jnp.full_like(leaves[other], leak if other == leaf else 0)
        decay[leaf, other] = d.reshape(d.shape[0], -1)
  emission, after, received = aux
  return (
    emission,
    jax.tree.unflatten(layout.tree, after),
    Local([received.get(n) for n in traced], drive, decay),
  )


def _no_nudges(structure, traced) -> dict[int, jax.Array]:
  """Zeros like the variables of the traced synapses."""
  zeros = {}
  for number in traced:
    synapse = structure.synapses[number]
    line = structure.read.body[synapse.line]
    dtype = structure.read.steps.dtypes[line.ins[synapse.operand]]
    if synapse.product is not None:
      dtype = structure.read.steps.dtypes[line.outs[0]]
    zeros[number] = jnp.zeros(
      (structure.read.layout.batch, *synapse.shape), dtype
    )
  return zeros


def _nudged(
  batch: int,
  line: program.Line,
  ins: list[jax.Array],
  here: dict[int, contacts.Synapse],
  nudges: dict[int, jax.Array],
) -> list[jax.Array]:
  """The results of a line with nudges on the variables of its synapses."""
  ins, inside = list(ins), {}
  for number, synapse in here.items():
    if synapse.product is not None:  # the only synapse of its line
      outs = line.bind(ins)
      outs[0] = stop(outs[0]) + synapse.product.output(nudges[number])
      return outs
    wide = (batch, *synapse.shape)
    if line.name in contacts.OPAQUE and ins[synapse.operand].shape != wide:
      inside[number] = synapse
    else:
      # Per trial, so that the nudge's gradient is not summed over trials.
      value = jnp.broadcast_to(ins[synapse.operand], wide)
      ins[synapse.operand] = value + nudges[number]
  outs = line.bind(ins)
  for number, synapse in inside.items():
    # The parameter is broadcast inside the line, where no nudge can reach it;
    # being elementwise, the line moves each result by its slope.
    slopes = credit.jvp(
      line, ins, {synapse.operand: jnp.ones_like(ins[synapse.operand])}
    )
    outs = [
      x
      if slope.dtype == jax.dtypes.float0
      else x + stop(slope) * nudges[number]
      for x, slope in zip(outs, slopes, strict=True)
    ]
  return outs


def _passes(structure, carriers) -> list[set[int]]:
  """The leaves in sets that one backward pass serves.

  Groups never act on each other here, so that a set holds one leaf of each; a
  sink hears several groups, and what drives them may drive it, too.
  """
  sinks = structure.sinks
  ranks: dict[int, set[int]] = {}
  for group in {
    structure.groups[leaf] for leaf in carriers if leaf not in sinks
  }:
    for rank, leaf in enumerate(structure.members(group)):
      ranks.setdefault(rank, set()).add(leaf)
  return [*ranks.values(), *({leaf} for leaf in sinks)]
