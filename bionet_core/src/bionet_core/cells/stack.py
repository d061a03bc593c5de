# SPDX-License-Identifier: Apache-2.0
"""Cells on top of each other."""

from collections.abc import Callable, Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_core.cells import cores as haiku_cells


def stack(cells: Sequence[interfaces.Cell]) -> interfaces.Cell:
  """The cells in a column: each takes the emission of the one below.

    emission_k, state_k = step_k(state_k, inputs_k),  inputs_{k+1} = emission_k
    outputs = readout_K(emission_K)

  All layers step within one step of time, and their penalties add up.
  Parameters, constants and states are those of the layers under 'layer_0',
  'layer_1', ...; the noise of a layer is its own. Only the last readout is
  used, so give the others one without parameters (`without_readout` in
  `cell_from_core`); what a readout below would learn gets no gradient.

  Args:
    cells: from the inputs upwards; one is returned as it is.

  Raises:
    ValueError: for no cell.
  """
  if not cells:
    raise ValueError('cells=[]: must hold at least one cell.')
  if len(cells) == 1:
    return cells[0]
  names = [f'layer_{k}' for k in range(len(cells))]
  layers = dict(zip(names, cells, strict=True))

  def layer_keys(keys, k):
    return jax.vmap(lambda key: jax.random.fold_in(key, k))(keys)

  def init(key, inputs):
    params, constants = {}, {}
    keys = jax.random.split(key, inputs.shape[0])
    for k, (name, cell) in enumerate(layers.items()):
      drawn = cell.init(jax.random.fold_in(key, k), inputs)
      params[name], constants[name] = drawn
      state = cell.initial_state(constants[name], keys)
      emission, _ = jax.eval_shape(cell.step, *drawn, state, keys, inputs)
      inputs = jnp.zeros(emission.shape, emission.dtype)
    return params, constants

  def initial_state(constants, keys):
    return {
      name: cell.initial_state(constants[name], layer_keys(keys, k))
      for k, (name, cell) in enumerate(layers.items())
    }

  def step(params, constants, state, keys, inputs):
    after = {}
    for k, (name, cell) in enumerate(layers.items()):
      inputs, after[name] = cell.step(
        params[name], constants[name], state[name], layer_keys(keys, k), inputs
      )
    return inputs, after

  def readout(params, constants, emission):
    last = names[-1]
    return layers[last].readout(params[last], constants[last], emission)

  costs = {
    name: cell.penalty
    for name, cell in layers.items()
    if cell.penalty is not None
  }

  def penalty(constants, state):
    costs_of_layers = [
      cost(constants[name], state[name]) for name, cost in costs.items()
    ]
    return jnp.sum(jnp.stack(costs_of_layers), axis=0)

  return interfaces.Cell(
    init, initial_state, step, readout, penalty=penalty if costs else None
  )


def without_readout() -> Callable[[jax.Array], jax.Array]:
  """A `make_readout` with nothing to learn: the emission itself."""
  return lambda emission: emission


def mlp_readout(
  num_outputs: int, hidden: Sequence[int]
) -> Callable[[], Callable[[jax.Array], jax.Array]]:
  """A `make_readout` of a tanh MLP; without hidden layers it is linear.

  Raises:
    ValueError: for a layer of no units.
  """
  if hidden and min(hidden) < 1:
    raise ValueError(
      f'readout={tuple(hidden)}: each layer must have at least 1 unit.'
    )
  sizes = [*hidden, num_outputs]
  return lambda: hk.nets.MLP(sizes, activation=jnp.tanh, name='readout')


def layered(
  make_core: Callable[[], hk.RNNCore],
  make_readout: Callable[[], Callable[[jax.Array], jax.Array]],
  num_layers: int,
) -> interfaces.Cell:
  """A column of the same core, `num_layers` high, with one readout."""
  below = haiku_cells.cell_from_core(make_core, without_readout)
  top = haiku_cells.cell_from_core(make_core, make_readout)
  return stack([*[below] * (num_layers - 1), top])


def check_at_least_one(**sizes: int) -> None:
  """Raises ValueError for the first size below 1, by name."""
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f'{name}={size}: must be at least 1.')
