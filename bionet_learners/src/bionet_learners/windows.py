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
  whole, timed = num_steps // size, unroll.timed(trials)
  if whole == 1:  # a loop around a single window would only cost
    carry, outs = body(carry, steps_of(trials, 0, size))
    outs = jax.tree.map(lambda x: x[None], outs)
  else:
    stacked = jax.tree.map(
      lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), timed
    )
    carry, outs = platforms.scan(
      lambda carry, steps: body(carry, dataclasses.replace(trials, **steps)),
      carry,
      stacked,
      steps=size,
    )
  if num_steps % size:
    carry, last = body(carry, steps_of(trials, whole * size, num_steps))
    outs = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), outs, last)
  return carry, outs


def first_window(
  trials: interfaces.Trials, size: int | None
) -> interfaces.Trials:
  """The first window of trials: the shapes of all but the last, shorter one."""
  num_steps = trials.mask.shape[0]
  return steps_of(trials, 0, min(size or num_steps, num_steps))


def steps_of(
  trials: interfaces.Trials, start: int, end: int
) -> interfaces.Trials:
  """The steps of trials from `start` to `end`."""
  timed = jax.tree.map(lambda x: x[start:end], unroll.timed(trials))
  return dataclasses.replace(trials, **timed)


def check_window(window: int) -> None:
  """Raises ValueError unless a window has a step."""
  if window < 1:
    raise ValueError(f'window={window}: a window has at least 1 step.')
