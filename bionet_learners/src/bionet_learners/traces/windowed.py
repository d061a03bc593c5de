# SPDX-License-Identifier: Apache-2.0
"""The gradient of a cut cell, in windows with traces or in one pass.

Inside a window the loss is differentiated in reverse; what came before acts
through the traces.
"""

import jax
import jax.numpy as jnp

from bionet_core import interfaces, platforms, unroll
from bionet_learners import base, over_time, windows
from bionet_learners.traces import advance, opening, parts, placement, schedule


def reverse(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  settings: opening.Settings,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  memory: over_time.Memory,
  keys: jax.Array,
  trials: interfaces.Trials,
) -> tuple[base.Estimate, over_time.Memory]:
  """The gradient through the cut cell in one pass, without traces."""

  def objective(params):
    opened = opening.open_cell(
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
  settings: opening.Settings,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  memory: over_time.Memory,
  keys: jax.Array,
  trials: interfaces.Trials,
  *,
  keep: bool = True,
) -> tuple[base.Estimate, over_time.Memory]:
  """The gradient in windows, with what traces bring across their borders.

  Where `keep` is False nobody reads the memory after the last step, and what is
  returned may be that of an earlier step.
  """
  opened = opening.open_cell(
    cell, settings, params, constants, memory.state, keys, trials.inputs[0]
  )
  sites, learned = opened.sites, opened.learned
  exact = settings.exact
  # The exact derivative inside of a window needs no cut step at all.
  inside = cell if exact else opened.cell

  @jax.jit  # traced once, for windows that are asked and for those that are not
  def moved_from(learned, fixed, state, noise, inputs):
    here = opened._replace(learned=learned, fixed=fixed)
    return here.move(state, noise, inputs, settings.leak)

  def move(state, noise, inputs):
    return moved_from(opened.learned, opened.fixed, state, noise, inputs)

  def local(state, noise, inputs):
    # What traces need of a step is data to the derivative of the loss.
    return move(jax.lax.stop_gradient(state), noise, inputs)[1]

  def objective(params, learned, state, steps, window):
    both = params if exact else (params, learned)
    total, (metrics, state, moved) = unroll.watched(
      inside, loss, both, constants, state, keys, steps, window, local
    )
    return total, (metrics, state, moved)

  def learn(carry, window, needed):
    memory, sums, result = carry
    (total, (metrics, state, moved)), (by_params, by_learned, signal) = (
      jax.value_and_grad(
        objective, argnums=(0, 1, 2), has_aux=True, allow_int=True
      )(params, learned, memory.state, memory.steps, window)
    )
    signal = opening.without_float0(signal, memory.state)
    more = by_params, by_learned, total, metrics
    if platforms.accelerated():
      # Where nobody is asked, 0 times a slope that is infinite would be NaN.
      more, signal = platforms.if_asked(window.mask, lambda *x: x, more, signal)
    result = jax.tree.map(jnp.add, result, more)
    # The signal is of the state before the window, and so are these traces.
    sums = advance.add_past(sites, memory.traces, signal, sums)
    traces = advance.advance_all(
      sites, memory.traces, moved, needed, after=advance.one_of(sums)
    )
    steps = memory.steps + window.mask.shape[0]
    return over_time.Memory(state, steps, traces), sums, result

  of_a_step = jax.eval_shape(local, memory.state, keys, trials.inputs[0])
  longest = schedule.longest(of_a_step, settings, trials)

  def listen(carry, start, count):
    memory, sums, result = carry

    def step(k, carry):
      state, moved = carry
      noise = unroll.step_keys(keys, memory.steps + k)
      state, here = move(state, noise, trials.inputs[start + k])
      return state, jax.tree.map(lambda all, x: all.at[k].set(x), moved, here)

    begin = memory.state, advance.silence(of_a_step, longest)
    state, moved = jax.lax.fori_loop(0, count, step, begin)
    traces = advance.advance_all(sites, memory.traces, moved)
    steps = memory.steps + count.astype(memory.steps.dtype)
    return over_time.Memory(state, steps, traces), sums, result

  # Of the gradient the shapes are known: tracing it for them would take half of
  # the time that tracing the rule takes.
  total, (metrics, _) = platforms.zeros_of(
    lambda *args: unroll.unroll(cell, loss, params, constants, *args),
    *(memory.state, keys, memory.steps, windows.first_window(trials, 1)),
  )
  gradients = jax.tree.map(jnp.zeros_like, (params, learned))
  dtype = jnp.result_type(
    opening.float_type(memory.state), settings.trace_dtype
  )
  sums = placement.no_sums(sites, trials.index.shape[0], dtype)
  memory, sums, result = schedule.run(
    learn,
    listen,
    (
      memory._replace(traces=parts.packed(memory.traces)),
      sums,
      (*gradients, total, metrics),
    ),
    trials,
    size=settings.window,
    longest=longest,
    keep=keep,
  )
  by_params, by_learned, total, metrics = result
  # Once per estimate: what is linear in the sums is not done per window.
  gradient = opened.gradient(params, constants, by_params, by_learned, sums)
  memory = memory._replace(traces=parts.unpacked(memory.traces))
  return base.Estimate(gradient, total, metrics), memory
