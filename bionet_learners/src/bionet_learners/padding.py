# SPDX-License-Identifier: Apache-2.0
"""What comes into a trial after its last asked step."""

import dataclasses

import jax.numpy as jnp

from bionet_core import interfaces


def without_padding(
  trials: interfaces.Trials, *, keep_unasked: bool = False
) -> interfaces.Trials:
  """Whole trials, their inputs zero after the last step that is asked.

  Such inputs have no part in any answer that is judged. But padding may be
  anything, and a NaN in it would reach every gradient as 0 * NaN.

  Args:
    trials: whole trials. In a window of steps nobody knows whether a later
      window asks.
    keep_unasked: show a trial that is asked at no step as it is, for
      predictions that nobody judges; else all its inputs are zero.
  """
  is_asked = trials.mask != 0
  steps = jnp.arange(is_asked.shape[0])[:, None]
  last = jnp.max(jnp.where(is_asked, steps, -1), axis=0, keepdims=True)
  needed = steps <= last
  if keep_unasked:
    needed |= last < 0
  needed = jnp.expand_dims(needed, tuple(range(2, trials.inputs.ndim)))
  inputs = jnp.where(needed, trials.inputs, 0)
  return dataclasses.replace(trials, inputs=inputs)
