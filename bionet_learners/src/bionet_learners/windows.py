# SPDX-License-Identifier: Apache-2.0
"""The one way to cut trials into windows of steps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bionet_core import interfaces, platforms, unroll


def scan_windows(
  body: Callable[[Any, interfaces.Trials], tuple[Any, Any]],
  carry: Any,
  trials: interfaces.Trials,
  size: int | None,
) -> tuple[Any, Any]:
  """Scans over windows of `size` steps; the last may be shorter.

  Args:
    body: `(carry, window) -> (carry, out)`; the window is Trials of its steps.
    carry: before the first window.
    trials: T steps of B trials.
    size: steps of a window; None, or more than T: one window.

  Returns:
    The carry after the last window, and the outs, each leaf `[W, ...]`.
  """
  num_steps = trials.mask.shape[0]
  size = min(size or num_steps, num_steps)
  whole, rest = divmod(num_steps, size)
  if whole == 1:  # a loop around a single window would only cost
    carry, outs = body(carry, steps_of(trials, 0, size))
    outs = jax.tree.map(lambda x: x[None], outs)
  else:

    def of_window(loop, _):
      start, carry = loop
      # Cut here: stacked before the loop, all trials would be copied for it.
      carry, out = body(carry, steps_of(trials, start, size))
      return (start + size, carry), out

    (_, carry), outs = platforms.scan(
      of_window, (jnp.int32(0), carry), None, length=whole, steps=size
    )
  if rest:
    carry, last = body(carry, steps_of(trials, whole * size, rest))
    outs = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), outs, last)
  return carry, outs


def first_window(
  trials: interfaces.Trials, size: int | None
) -> interfaces.Trials:
  """The first window of trials: the shapes of all but the last, shorter one."""
  num_steps = trials.mask.shape[0]
  return steps_of(trials, 0, min(size or num_steps, num_steps))


def steps_of(
  trials: interfaces.Trials, start: int | jax.Array, size: int
) -> interfaces.Trials:
  """So many steps of trials from `start` on."""
  timed = jax.tree.map(
    lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), unroll.timed(trials)
  )
  return dataclasses.replace(trials, **timed)


def check_window(window: int) -> None:
  """Raises ValueError unless a window has a step."""
  if window < 1:
    raise ValueError(f'window={window}: a window has at least 1 step.')
