# SPDX-License-Identifier: Apache-2.0
"""A cell taken apart: its cut step, and what the traces need of each step.

D and c, of which the traces are made, come from the step's local derivative, in
which nothing passes a product.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners.synapses import cut_step, slopes
from bionet_learners.traces import advance, placement

SILENT_MIB = 10.0
"""What rules take for `silent_mib` where they are told nothing."""


class Settings(NamedTuple):
  """How traces are kept.

  Attributes:
    window: K, steps of a window; None: all the steps that are given.
    exact: full reverse mode inside a window, traces beyond; else the cut cell.
    leak: replaces D by this number; None: the cell's D.
    trace_dtype: the type that traces of products are stored in.
    silent_mib: MiB that may be kept of steps in which nobody is asked.
  """

  window: int | None
  exact: bool = False
  leak: float | None = None
  trace_dtype: Any = jnp.float32
  silent_mib: float = SILENT_MIB


class Opened(NamedTuple):
  """A cell taken apart for some parameters.

  Attributes:
    transition: its transition.
    sites: where traces are kept.
    learned: values of the prelude.
    fixed: values of the prelude.
    cell: a cell whose parameters are `(params, learned)`, so that the prelude
      runs once and not at each step; its step is the cut one.
  """

  transition: cut_step.Transition
  sites: list[placement.Site]
  learned: list[jax.Array]
  fixed: list[jax.Array]
  cell: interfaces.Cell

  def move(
    self,
    state: interfaces.ArrayTree,
    keys: jax.Array,
    inputs: jax.Array,
    leak: float | None = None,
  ) -> tuple[interfaces.ArrayTree, advance.Window]:
    """A step forward: the new state, and what the traces need of the step."""
    # The emission is the loss's affair, and no trace needs it.
    _, after, local = slopes.local_derivative(
      self.transition.structure,
      self.learned,
      self.fixed,
      state,
      keys,
      inputs,
      advance.traced(self.sites),
      leak,
    )
    return after, advance.of_sites(self.sites, local)

  def gradient(
    self,
    params: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    by_params: interfaces.ArrayTree,
    by_learned: list[jax.Array],
    sums: list[jax.Array],
  ) -> interfaces.ArrayTree:
    """The gradient of the parameters.

    Args:
      params: the parameters.
      constants: the constants.
      by_params: the gradient of what is done with them beside the prelude.
      by_learned: that of the learned values.
      sums: what traces credit to each site.
    """
    by_learned = placement.to_learned(
      self.transition, self.sites, self.learned, sums, by_learned
    )
    # Weights that are tied, sliced or scaled before a step get theirs here.
    prelude = self.transition.prelude
    _, pull = jax.vjp(lambda p: prelude(p, constants)[0], params)
    return jax.tree.map(jnp.add, by_params, pull(by_learned)[0])


def open_cell(
  cell: interfaces.Cell,
  settings: Settings,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  state: interfaces.ArrayTree,
  keys: jax.Array,
  inputs: jax.Array,
  *,
  every_leaf: bool = False,
) -> Opened:
  """Takes a cell apart; see `Opened`.

  `every_leaf` keeps traces of the state's leaves that no later step feels: a
  rule needs them whose traces reach further than the cut cell's own credit.
  """
  transition = cut_step.open_transition(
    cell, params, constants, state, keys, inputs
  )
  # Full reverse mode and a leak reach further than the cut cell's own credit.
  sites = placement.sites_of(
    transition.structure,
    every_leaf=every_leaf or settings.exact or settings.leak is not None,
  )
  learned, fixed = transition.prelude(params, constants)

  def step(both, constants, state, keys, inputs):
    del constants  # they are among the fixed values
    return transition.step(
      both[1], fixed, state, keys, inputs, leak=settings.leak
    )

  def readout(both, constants, emission):
    return cell.readout(both[0], constants, emission)

  opened = cell._replace(step=step, readout=readout)
  return Opened(transition, sites, learned, fixed, opened)


def no_traces(
  opened: Opened, state: interfaces.ArrayTree, settings: Settings
) -> interfaces.ArrayTree:
  """The traces of trials that have no past."""
  structure = opened.transition.structure
  return placement.no_traces(
    opened.sites,
    structure.read.layout.batch,
    float_type(state),
    settings.trace_dtype,
  )


def float_type(state: interfaces.ArrayTree) -> Any:
  """The type of the floats of a state."""
  # Integers and booleans are clocks and flags, and have no traces.
  floats = [
    x.dtype
    for x in jax.tree.leaves(state)
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.result_type(*floats) if floats else jnp.float32


def without_float0(signal, state):
  """The gradient on a state, with zeros for what carries none."""
  # JAX's float0 has no values, and a loop could not carry it.
  return jax.tree.map(
    lambda g, x: jnp.zeros_like(x) if g.dtype == jax.dtypes.float0 else g,
    signal,
    state,
  )
