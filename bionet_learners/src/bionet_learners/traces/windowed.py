# SPDX-License-Identifier: Apache-2.0
"""The gradient of a cut cell, in windows with traces or in one pass.

Inside a window the loss is differentiated in reverse; what came before acts
through the traces. D and c, of which the traces are made, come from the step's
local derivative, in which nothing passes a product.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, platforms, unroll
from bionet_learners import base, over_time, windows
from bionet_learners.synapses import cut_step, slopes
from bionet_learners.traces import advance, placement


class Settings(NamedTuple):
  """How traces are kept.

  Attributes:
    window: K, steps of a window; None: all the steps that are given.
    exact: full reverse mode inside a window, traces beyond; else the cut cell.
    leak: replaces D by this number; None: the cell's D.
    trace_dtype: the type that traces of products are stored in.
  """

  window: int | None
  exact: bool = False
  leak: float | None = None
  trace_dtype: Any = jnp.float32


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
  sites = placement.sites_of(
    transition.structure,
    every_leaf=every_leaf or settings.exact or settings.leak is not None,
  )
  learned, fixed = transition.prelude(params, constants)

  def step(both, constants, state, keys, inputs):
    del constants
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
  floats = [
    x.dtype
    for x in jax.tree.leaves(state)
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.result_type(*floats) if floats else jnp.float32


def reverse(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  settings: Settings,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  memory: over_time.Memory,
  keys: jax.Array,
  trials: interfaces.Trials,
) -> tuple[base.Estimate, over_time.Memory]:
  """The gradient through the cut cell in one pass, without traces."""

  def objective(params):
    opened = open_cell(
      cell, settings, params, constants, memory.state, keys, trials.inputs[0]
    )
    return unroll.unroll(
      opened.cell,
      loss,
      (params, opened.learned),
      constants,
      memory.state,
      keys,
      memory.steps,
      trials,
    )

  (total, (metrics, state)), gradient = jax.value_and_grad(
    objective, has_aux=True
  )(params)
  steps = memory.steps + trials.mask.shape[0]
  after = over_time.Memory(state, steps, memory.traces)
  return base.Estimate(gradient, total, metrics), after


def forward(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  settings: Settings,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  memory: over_time.Memory,
  keys: jax.Array,
  trials: interfaces.Trials,
) -> tuple[base.Estimate, over_time.Memory]:
  """The gradient in windows, with what traces bring across their borders."""
  opened = open_cell(
    cell, settings, params, constants, memory.state, keys, trials.inputs[0]
  )
  sites, learned = opened.sites, opened.learned

  def objective(params, learned, state, steps, window):
    # The exact derivative inside of a window needs no cut step at all.
    inside = (
      (cell, params) if settings.exact else (opened.cell, (params, learned))
    )
    total, (metrics, _) = unroll.unroll(
      inside[0], loss, inside[1], constants, state, keys, steps, window
    )
    return total, metrics

  def learn(result, state, steps, window):
    (total, metrics), (by_params, by_learned, signal) = jax.value_and_grad(
      objective, argnums=(0, 1, 2), has_aux=True, allow_int=True
    )(params, learned, state, steps, window)
    more = by_params, by_learned, total, metrics
    result = jax.tree.map(jnp.add, result, more)
    return result, without_float0(signal, state)

  def of_window(carry, window):
    memory, sums, result = carry
    result, signal = platforms.if_asked(
      window.mask,
      learn,
      result,
      memory.state,
      memory.steps,
      window,
      otherwise=lambda result, state, *_: (
        result,
        jax.tree.map(jnp.zeros_like, state),
      ),
    )
    # The signal is of the state before the window, and so are these traces.
    traces, sums = advance.add_past(
      sites, memory.traces, signal, window.mask, sums
    )

    def move(state, data):
      step, inputs = data
      noise = unroll.step_keys(keys, step)
      return opened.move(state, noise, inputs, settings.leak)

    num_steps = window.mask.shape[0]
    # Noise is numbered from the first step of the trial, not of the window.
    steps = memory.steps[None] + jnp.arange(num_steps)[:, None]
    state, moved = platforms.scan(move, memory.state, (steps, window.inputs))
    traces = advance.advance_all(sites, traces, moved)
    after = over_time.Memory(state, memory.steps + num_steps, traces)
    return (after, sums, result), None

  # Of the gradient the shapes are known: tracing it for them would take half of
  # the time that tracing the rule takes.
  first = windows.first_window(trials, settings.window)
  scores = platforms.zeros_of(
    objective, params, learned, memory.state, memory.steps, first
  )
  gradients = jax.tree.map(jnp.zeros_like, (params, learned))
  batch = trials.index.shape[0]
  dtype = jnp.result_type(float_type(memory.state), settings.trace_dtype)
  sums = placement.no_sums(sites, batch, dtype)
  (memory, sums, result), _ = windows.scan_windows(
    of_window,
    (memory, sums, (*gradients, *scores)),
    trials,
    settings.window,
  )
  by_params, by_learned, total, metrics = result
  # Once per estimate: what is linear in the sums is not done per window.
  gradient = opened.gradient(params, constants, by_params, by_learned, sums)
  return base.Estimate(gradient, total, metrics), memory


def without_float0(signal, state):
  """The gradient on a state, with zeros for what carries none."""
  return jax.tree.map(
    lambda g, x: jnp.zeros_like(x) if g.dtype == jax.dtypes.float0 else g,
    signal,
    state,
  )
