# SPDX-License-Identifier: Apache-2.0
"""In what order a rule of traces takes the steps of trials.

Windows in which a trial is asked have K steps. Where nobody is asked nothing is
differentiated, and as many steps as a memory budget allows are taken at once:
traces are large, and each window passes over all of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bionet_core import interfaces, platforms
from bionet_learners import windows
from bionet_learners.traces import opening

Needed = bool | jax.Array
"""Whether traces will be read again, `[]`."""


def longest(
  step: Any, settings: opening.Settings, trials: interfaces.Trials
) -> int:
  """How many steps in which nobody is asked are taken at once.

  As many as fit in `silent_mib`, or as a window has if these are more; what is
  longer is divided evenly.

  Args:
    step: what is kept of a step, its shapes.
    settings: of the traces.
    trials: T steps.
  """
  num_steps = trials.mask.shape[0]
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(step))
  most = int(settings.silent_mib * 2**20) // max(size, 1)
  most = min(num_steps, max(most, settings.window or num_steps))
  return -(-num_steps // -(-num_steps // most))


def run(
  learn: Callable[[Any, interfaces.Trials, Needed], Any],
  listen: Callable[[Any, jax.Array, jax.Array], Any],
  carry: Any,
  trials: interfaces.Trials,
  *,
  size: int | None,
  longest: int,
  keep: bool,
) -> Any:
  """Takes a carry through trials.

  An accelerator would wait for the host wherever the order depends on what is
  asked. There every window is learned from, asked or not.

  Args:
    learn: `(carry, window, needed) -> carry`, a window that may be asked.
    listen: `(carry, start, count) -> carry`, `count` steps from `start` on in
      which nobody is asked, `longest` at most.
    carry: before the first step.
    trials: T steps of B trials.
    size: K, steps of a window, the last may be shorter; None: all at once.
    longest: steps in which nobody is asked that are taken at once.
    keep: whether the traces after the last step are needed; if not, the carry
      returned is that of the last step that is asked.
  """
  num_steps = trials.mask.shape[0]
  size = min(size or num_steps, num_steps)
  # Only a running program knows what is asked.
  if platforms.accelerated():
    return _all_alike(learn, carry, trials, size, keep)
  whole, rest = divmod(num_steps, size)
  count = whole + (rest > 0)
  asked = jnp.any(trials.mask != 0, axis=1)
  asked = jnp.pad(asked, (0, count * size - num_steps))
  asked = jnp.any(asked.reshape(count, size), axis=1)
  number = jnp.arange(count)
  # After the last window that is asked there is nothing to learn.
  end = count if keep else jnp.max(jnp.where(asked, number + 1, 0))
  ends_asked = (asked[-1] & (rest > 0)).astype(number.dtype)
  stop = end - ends_asked  # the shorter window comes after the loop

  def first(start, wanted):
    """The first window from `start` on that is asked, or that is not."""
    there = (number >= start) & (asked == wanted)
    return jnp.min(jnp.where(there, number, stop), initial=stop)

  def of_stretch(loop):
    """Windows that are not asked, then those that are."""
    at, carry = loop
    until = first(at, True)
    start, steps = at * size, jnp.minimum(until * size, num_steps) - at * size

    def of_listening(i, carry):
      here = jnp.minimum(longest, steps - i * longest)
      return listen(carry, start + i * longest, here)

    def of_learning(at, carry):
      window = windows.steps_of(trials, at * size, size)
      return learn(carry, window, keep | (at + 1 < end))

    carry = jax.lax.fori_loop(0, -(-steps // longest), of_listening, carry)
    at = first(until, False)
    return at, jax.lax.fori_loop(until, at, of_learning, carry)

  # Loops, though each goes round but a few times: conditionals would copy all
  # traces, while loops update them in place.
  start = jnp.zeros((), number.dtype), carry
  _, carry = jax.lax.while_loop(lambda loop: loop[0] < stop, of_stretch, start)
  if rest:
    last = windows.steps_of(trials, whole * size, rest)
    # One round or none, for the same reason.
    carry = jax.lax.fori_loop(
      0, ends_asked, lambda _, c: learn(c, last, keep), carry
    )
  return carry


def _all_alike(learn, carry, trials, size, keep):
  """Learns from every window, asked or not."""

  def body(carry, window):
    return learn(carry, window, True), None

  if keep:
    return windows.scan_windows(body, carry, trials, size)[0]
  num_steps = trials.mask.shape[0]
  # By itself, since it is known here and now that nobody reads its traces.
  last = (num_steps - 1) // size * size
  if last:
    before = windows.steps_of(trials, 0, last)
    carry, _ = windows.scan_windows(body, carry, before, size)
  return learn(carry, windows.steps_of(trials, last, num_steps - last), False)
