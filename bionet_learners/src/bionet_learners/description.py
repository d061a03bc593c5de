# SPDX-License-Identifier: Apache-2.0
"""What credit an online rule can give each parameter of a cell."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.synapses import cut_step, program, reading


class Row(NamedTuple):
  """The credit of one leaf of the parameters, in numbers of its elements.

  An element may count twice: in a stack it has a trace in its own layer, and
  what it leaves in the state of a later one has none.

  Attributes:
    name: the leaf's path.
    size: its elements.
    temporal: those with a trace, which crosses the borders of windows.
    within_window: those with credit that no trace carries: it reaches back over
      a window's steps, and no further.
    instantaneous: those with the exact gradient of the same step, alone.
    silent: those that change no state and no output.
    reason: why, in words.
  """

  name: str
  size: int
  temporal: int
  within_window: int
  instantaneous: int
  silent: int
  reason: str


class Description(tuple[Row, ...]):
  """A Row per leaf of the parameters; printed as a table."""

  def __str__(self) -> str:
    """The rows as text, one per line, under a header."""
    head = (
      'parameter', 'size', 'temporal', 'window', 'instant', 'silent', 'why'
    )  # fmt: skip
    lines = [head, *(tuple(str(x) for x in row) for row in self)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return '\n'.join(
      '  '.join(x.ljust(w) for x, w in zip(line, widths, strict=True)).rstrip()
      for line in lines
    )


def describe(cell: interfaces.Cell, inputs: jax.Array) -> Description:
  """Tells what credit each parameter gets from rules that cut (`d_rtrl` ...).

  Args:
    cell: the cell.
    inputs: float `[B, *I]`, inputs of one step; their shape alone matters.

  Returns:
    A Description: a row per leaf of the parameters, which prints as a table.

  Raises:
    TypeError: if `cell` is not a Cell, or its state changes in a step.
    ValueError: if units meet outside of synapses in the recurrence.
  """
  base.require_kind('describe', cell, interfaces.Cell)
  key = unroll.seed_key(0)
  inputs = jnp.zeros(inputs.shape, inputs.dtype)
  keys = jax.random.split(key, inputs.shape[0])
  params, constants = cell.init(key, inputs)
  state = cell.initial_state(constants, keys)
  transition = cut_step.open_transition(
    cell, params, constants, state, keys, inputs
  )
  structure = transition.structure
  learned, _ = transition.prelude(params, constants)
  _, pull = jax.vjp(lambda p: transition.prelude(p, constants)[0], params)
  by_kind = {'temporal': [], 'within': [], 'instant': []}
  for number, synapse in enumerate(structure.synapses):
    traced, driven = (
      np.any(
        [units >= 0 for leaf, units in synapse.drives.items() if leaf in leaves]
        or [np.zeros(synapse.shape, bool)],
        axis=0,
      )
      for leaves in (structure.alive, synapse.drives)
    )
    heard = synapse.emits | driven
    which = {
      'temporal': traced,
      'within': synapse.through,
      'instant': heard & ~traced & ~synapse.through,
    }
    for kind, elements in which.items():
      by_kind[kind].append((number, synapse, elements))

  def touched(parts):
    cotangent = [jnp.zeros_like(w) for w in learned]
    for at, (number, synapse, elements) in enumerate(parts):
      value = learned[synapse.weight]
      if synapse.obstacle is not None:  # no normal form: all or nothing
        cotangent[synapse.weight] += jnp.full_like(value, bool(elements.any()))
        continue
      weights = _weights(synapse, elements, inputs.shape[0], at)
      cotangent[synapse.weight] += transition.flat_gradient(
        number, weights.astype(value.dtype), value
      )
    return [np.asarray(g) != 0 for g in jax.tree.leaves(pull(cotangent)[0])]

  temporal, within, instant = (touched(parts) for parts in by_kind.values())
  read = _read(cell, params, constants, state, keys, inputs)
  layout = structure.read.layout
  emission = layout.emission
  if isinstance(emission, int):
    if structure.read.kinds[emission] == reading.LEARNED:
      # Of parameters alone it meets no data, and is exact at each step.
      for leaf in structure.read.sources[emission]:
        read[leaf][...] = True
  rows = []
  for leaf, (path, value) in enumerate(jax.tree.leaves_with_path(params)):
    at_once = (instant[leaf] | read[leaf]) & ~temporal[leaf] & ~within[leaf]
    silent = ~(temporal[leaf] | within[leaf] | at_once)
    traced, inside, same, none = (
      int(np.sum(x)) for x in (temporal[leaf], within[leaf], at_once, silent)
    )
    rows.append(
      Row(
        name=jax.tree_util.keystr(path),
        size=value.size,
        temporal=traced,
        within_window=inside,
        instantaneous=same,
        silent=none,
        reason=_reason(traced, inside, same, bool(read[leaf].any()), none),
      )
    )
  return Description(rows)


def _weights(synapse, elements, batch, seed):
  """A cotangent of a synapse's weights that is zero at other elements."""
  size = (batch, *synapse.shape)
  product = synapse.product
  if product is not None:
    size = (product.blocks, product.inputs, product.outputs)
    elements = elements.reshape(size[0], product.positions, size[2])
    elements = np.any(elements, axis=1)[:, None]
  drawn = np.random.default_rng(seed).uniform(1, 2, size)
  return jnp.asarray(np.where(elements, drawn, 0))


def _read(cell, params, constants, state, keys, inputs) -> list[np.ndarray]:
  """Which leaves the readout reads; all their elements count."""
  emission, _ = jax.eval_shape(
    cell.step, params, constants, state, keys, inputs
  )
  readout, _ = program.read(
    lambda p: cell.readout(p, constants, jnp.zeros(emission.shape)), params
  )
  return [
    np.full(leaf.shape, used)
    for leaf, used in zip(
      jax.tree.leaves(params), program.used_inputs(readout), strict=True
    )
  ]


def _reason(temporal, within, instant, read, silent) -> str:
  reasons = []
  if temporal:
    reasons.append("drives a unit's state, which keeps a trace of it")
  if within:
    reasons.append(
      'reaches a state through a further synapse (a gate, a layer)'
    )
  if instant:
    reasons.append(
      'readout: exact at each step'
      if read
      else 'nothing of it outlives the step (D = 0, or no state)'
    )
  if silent:
    reasons.append('changes no state and no output')
  return '; '.join(reasons)
