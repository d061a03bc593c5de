# SPDX-License-Identifier: Apache-2.0
"""A tissue: cells that read their neighbours and settle on a fate."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, noise
from bionet_core.cells import lattice


class Rate(NamedTuple):
  """A regulatory function: what a cell makes of its neighbours.

  Attributes:
    init: `key -> params`.
    apply: `(params, means) -> rates`, both float of any one shape, each element
      on its own.
  """

  init: Callable[[jax.Array], interfaces.ArrayTree]
  apply: Callable[[interfaces.ArrayTree, jax.Array], jax.Array]


def regulatory_network(
  hidden: Sequence[int] = (8, 8),
  *,
  centred: bool = True,
  bound: float = 0.0,
  steepness: float = 0.0,
  output_std: float = 0.0,
  knots: int = 0,
) -> Rate:
  """A small tanh network as the rate.

    x = 2 (m - .5) if centred, else m
    y = MLP(x),  f(m) = bound tanh(y / bound), or y without a bound

  An input that is not centred gives f one sign over all of [0, 1] at almost
  every initialisation; the cells then sit on the clip, where no gradient is.

  Haiku's initialisation makes f almost linear. With `steepness` each unit of
  the first layer switches at an m of its own, with `output_std` f is large, of
  both signs, and against the bound: random functions rich enough that some of
  them make patterns.

  Args:
    hidden: sizes of the hidden layers.
    centred: centre the input.
    bound: the largest |f|; 0: none.
    steepness: standard deviation, at the start, of the slopes in m of the first
      layer's units, which then switch at m ~ U(0, 1); 0: as Haiku draws them.
    output_std: standard deviation of y over m in [0, 1] at the start, its mean
      then being 0; 0: as Haiku draws it.
    knots: f is linear between so many and one more equally spaced m, where it
      is the network's: the network is then run at the knots alone, which is
      cheaper than at every cell of every replicate. 0: the network itself.

  Raises:
    ValueError: for no layer, a size below 1, or a negative setting.
  """
  if not hidden or min(hidden) < 1:
    raise ValueError(
      f'hidden={tuple(hidden)}: must hold at least one layer, each of at '
      'least 1 unit.'
    )
  for name, value in (
    ('bound', bound),
    ('steepness', steepness),
    ('output_std', output_std),
    ('knots', knots),
  ):
    if not value >= 0:
      raise ValueError(f'{name}={value}: must be 0 or more; 0 means none.')

  def inputs(means):
    return 2 * (means - 0.5) if centred else means

  def forward(means):
    y = hk.nets.MLP([*hidden, 1], activation=jnp.tanh, name='rate')(
      inputs(means)[..., None]
    )
    return y[..., 0]

  transformed = hk.without_apply_rng(hk.transform(forward))

  def init(key):
    params = transformed.init(key, jnp.zeros(1))
    first, last = 'rate/~/linear_0', f'rate/~/linear_{len(hidden)}'
    if steepness:
      slope_key, switch_key = jax.random.split(jax.random.fold_in(key, 1))
      slopes = steepness * jax.random.normal(slope_key, (hidden[0],))
      w = slopes / 2 if centred else slopes
      switches = jax.random.uniform(switch_key, (hidden[0],))
      params[first] = {'w': w[None], 'b': -w * inputs(switches)}
    if output_std:
      y = transformed.apply(params, jnp.linspace(0.0, 1.0, 65))
      factor = output_std / (jnp.std(y) + 1e-6)
      params[last] = {
        'w': params[last]['w'] * factor,
        'b': params[last]['b'] - jnp.mean(y) * factor,
      }
    return params

  def apply(params, means):
    at = jnp.linspace(0.0, 1.0, knots + 1) if knots else means
    y = transformed.apply(params, at)
    values = bound * jnp.tanh(y / bound) if bound else y
    return _between_knots(values, means) if knots else values

  return Rate(init, apply)


def _between_knots(values: jax.Array, means: jax.Array) -> jax.Array:
  """Linear interpolation of values `[K + 1]` at the knots 0, 1 / K, ... 1."""
  knots = values.shape[0] - 1
  rates = jnp.broadcast_to(values[0], means.shape)
  for knot in range(knots):  # a sum, since a gather cannot be fused
    share = jnp.clip(knots * means - knot, 0.0, 1.0)
    rates += (values[knot + 1] - values[knot]) * share
  return rates


def fixed_rate(function: Callable[[jax.Array], jax.Array]) -> Rate:
  """A plain function `means -> rates`, with nothing to learn."""

  def apply(params, means):
    del params
    return function(means)

  return Rate(lambda key: {}, apply)


def cell_from_rate(
  rate: Rate,
  num_cells: int,
  *,
  pinned: Sequence[int] = (),
  spread: float = 0.1,
  remat: bool = True,
  means: lattice.MeansFn = lattice.row_means,
) -> interfaces.Cell:
  """The stochastic dynamics of N cells as a Cell.

    m_i = mean state of the neighbours of i
    s_i <- clip(s_i + f(m_i) dt + sigma sqrt(dt) xi_i, 0, 1),  xi ~ N(0, 1)
    s_i(0) ~ U(.5 - spread, .5 + spread)

  (Euler-Maruyama). The inputs of a step are `[B, 2]`: dt and sigma, so that
  schedules of noise and other time steps are data. The emission and the outputs
  are the states `[B, N]`; the noise is the trial's. What a step draws is the
  Gaussian before the clip; its log density is -sum_i z_i^2 / 2, z the draw less
  s + f(m) dt, over sigma sqrt(dt), of the cells that are not pinned.

  Args:
    rate: the regulatory function f, the same in every cell.
    num_cells: N.
    pinned: numbers of the cells held at 0, e.g. `lattice.border(8, 1)`.
    spread: half the width of the initial states, up to .5.
    remat: recompute the inside of a step in the backward pass, which leaves the
      states alone in memory.
    means: from states `[..., N]` to the mean of each one's neighbours; another
      function makes another tissue than a row, e.g. `lattice.torus(16, 4)`.

  Raises:
    ValueError: for a size or a spread out of range, or if no cell is free.
  """
  if num_cells < 1:
    raise ValueError(f'num_cells={num_cells}: must be at least 1.')
  if not 0 <= spread <= 0.5:
    raise ValueError(f'spread={spread}: must be from 0 to 0.5.')
  if any(not 0 <= cell < num_cells for cell in pinned):
    raise ValueError(
      f'pinned={pinned}: must be numbers of cells, from 0 to {num_cells - 1}.'
    )
  free = np.ones(num_cells, np.float32)
  free[list(pinned)] = 0.0
  if not np.any(free):
    raise ValueError(
      f'pinned={list(pinned)}: must leave one of the {num_cells} cells free.'
    )
  free = jnp.asarray(free, float)

  def init(key, inputs):
    chex.assert_shape(inputs, (None, 2))
    return rate.init(key), {}

  def initial_state(constants, keys):
    del constants
    low, high = 0.5 - spread, 0.5 + spread
    draw = jax.vmap(
      lambda key: jax.random.uniform(key, (num_cells,), minval=low, maxval=high)
    )
    return draw(keys) * free[None]

  def step(params, constants, state, keys, inputs):
    del constants
    drifted, kick, _ = proposal(params, state, keys, inputs)
    after = jnp.clip(drifted + kick, 0.0, 1.0) * free[None]
    return after, after

  def proposal(params, state, keys, inputs):
    """Where the rate takes the states, the noise upon it, its deviation."""
    dt, sigma = inputs[:, :1], inputs[:, 1:]
    xi = noise.normal(keys, num_cells)
    drifted = state + rate.apply(params, means(state)) * dt
    std = sigma * jnp.sqrt(dt)
    return drifted, std * xi, std

  def log_density(params, constants, state, keys, inputs):
    del constants
    drifted, kick, std = proposal(params, state, keys, inputs)
    drawn = jax.lax.stop_gradient(drifted + kick)
    # A replicate that rests (dt = 0) draws nothing. Without noise (sigma = 0)
    # there is no density: NaN says so.
    moves = inputs[:, :1] > 0
    z = jnp.where(moves, drawn - drifted, 0.0) / jnp.where(moves, std, 1.0)
    return -jnp.sum(free[None] * z**2, axis=-1) / 2

  def readout(params, constants, emission):
    del params, constants
    return emission

  return interfaces.Cell(
    init,
    initial_state,
    jax.checkpoint(step) if remat else step,
    readout,
    log_density,
  )


def tissue(
  spec: interfaces.Sizes,
  *,
  hidden: tuple[int, ...] = (8, 8),
  centred: bool = True,
  bound: float = 0.0,
  rows: int = 1,
  geometry: str = 'grid',
  pinned: bool = False,
  spread: float = 0.1,
  steepness: float = 0.0,
  output_std: float = 0.0,
  knots: int = 0,
) -> interfaces.Cell:
  """A tissue of `spec.num_outputs` cells with a regulatory network to learn.

  The dynamics are those of `cell_from_rate`, the rate is
  `regulatory_network(hidden, centred=, bound=, steepness=, output_std=,
  knots=)`.

  Args:
    spec: the task's sizes.
    hidden: sizes of the hidden layers of the rate.
    centred: centre its input.
    bound: the largest |f|; 0: none.
    rows: rows of equal length in which the cells lie, numbered row by row.
    geometry: whose states a cell reads: 'grid', the cells beside it; 'torus',
      likewise, each row and each column being closed to a ring; or the path
      `module:factory` of a `(num_cells, rows) -> (states [..., N] -> means)`.
    pinned: hold the cells at the border at 0: of a single row its two ends.
    spread: half the width of the initial states, up to .5.
    steepness: of the rate at the start.
    output_std: likewise.
    knots: of the rate; 0: the network itself.

  Raises:
    KeyError: for a geometry that there is not.
    ValueError: for a setting out of range, rows that do not divide the cells,
      or pinned cells on a torus, which has no border.
  """
  rate = regulatory_network(
    hidden,
    centred=centred,
    bound=bound,
    steepness=steepness,
    output_std=output_std,
    knots=knots,
  )
  num_cells = spec.num_outputs
  means = lattice.geometry(geometry, num_cells, rows)
  if pinned and geometry == 'torus':
    raise ValueError(
      f'pinned={pinned}: must be False on a torus, which has no border.'
    )
  held = lattice.border(num_cells, rows) if pinned else ()
  return cell_from_rate(
    rate, num_cells, pinned=held, spread=spread, means=means
  )
