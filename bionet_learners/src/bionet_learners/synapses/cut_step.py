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

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners.synapses import anatomy, credit


class Transition:
  """A cell's step, run by its structure."""

  def __init__(self, structure: anatomy.Structure):
    """Takes a structure; see the head of this module."""
    self.structure = structure
    layout = structure.read.layout
    self._renewed: dict[int, int] = {  # where each new state is made
      number: leaf
      for leaf, number in enumerate(layout.after)
      if isinstance(number, int) and structure.groups[leaf] >= 0
    }

  def prelude(
    self, params: interfaces.ArrayTree, constants: interfaces.ArrayTree
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    """What of a step depends on no data: its learned and its fixed values."""
    layout = self.structure.read.layout
    # Arrays of the step itself may be tracers of the caller: they are bound
    # anew at every call, and never kept.
    values = dict(self.structure.read.steps.closed)
    values.update(zip(layout.params, jax.tree.leaves(params), strict=True))
    values.update(
      zip(layout.constants, jax.tree.leaves(constants), strict=True)
    )
    for line in self.structure.read.prelude:
      credit.advance(values, line)
    learned = [values[i] for i in self.structure.read.learned]
    return learned, [values[i] for i in self.structure.read.fixed]

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
    return emission, jax.tree.unflatten(self.structure.read.layout.tree, after)

  def _run(self, leak, probed):
    """The step as a function of the numbered values, with its own jvp."""
    structure = self.structure
    layout = structure.read.layout
    ends = [layout.emission, *layout.after]

    @jax.custom_jvp
    def run(values, probes):
      del probes  # they have derivatives and no values
      known = dict(zip(self.structure.numbers, values, strict=True))
      for line in structure.read.body:
        credit.advance(known, line)
      return credit.values_of(known, ends)

    @functools.partial(run.defjvp, symbolic_zeros=True)
    def _(primals, tangents):
      known = dict(zip(self.structure.numbers, primals[0], strict=True))
      tangent = credit.Credit(structure, self._renewed, leak, probed, tangents)
      for number in self.structure.numbers:
        tangent.seed(number)
      for at, line in enumerate(structure.read.body):
        ins = credit.values_of(known, line.ins)
        known.update(zip(line.outs, line.bind(ins), strict=True))
        # The value is computed once, for itself and for its tangents.
        tangent.push(at, line, ins)
      outs = credit.values_of(known, ends)
      return outs, [
        tangent.total(n, x) for n, x in zip(ends, outs, strict=True)
      ]

    return run

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
    anatomy.structure(cell, params, constants, state, keys, inputs)
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
