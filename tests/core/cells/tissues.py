# SPDX-License-Identifier: Apache-2.0
"""Small tissues and their trials."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import (
  CELLS,
  interfaces,
  plugins,
  unroll,
)
from bionet_core.cells import tissue

KEY = jax.random.key(6)


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (2,)
  num_outputs: int = 4


def make(**settings):
  return plugins.load('bionet.cells', 'tissue', CELLS)(Sizes(), **settings)


def lateral_inhibition(means):
  return -jnp.tanh(5 * (means - 0.5))


def fixed(function, num_cells, **settings):
  return tissue.cell_from_rate(
    tissue.fixed_rate(function), num_cells, **settings
  )


def row(dt, sigma, batch):
  """The inputs of a step: dt and sigma for each trial."""
  return jnp.broadcast_to(jnp.array([dt, sigma]), (batch, 2))


def trials(num_steps, batch, dt=0.01, sigma=0.1):
  return interfaces.Trials(
    inputs=jnp.broadcast_to(row(dt, sigma, batch), (num_steps, batch, 2)),
    targets=jnp.zeros((num_steps, batch, 1)),
    mask=jnp.zeros((num_steps, batch)).at[-1].set(1),
    index=jnp.arange(batch),
  )


def run(cell, params, num_steps, batch, key=KEY, **settings):
  """All states `[T, B, N]`."""
  predict = jax.jit(unroll.model_from_cell(cell).predict)
  return predict(params, {}, key, trials(num_steps, batch, **settings))
