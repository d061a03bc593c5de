# SPDX-License-Identifier: Apache-2.0
"""Who is whose neighbour in a tissue: rows and rings, grids and tori.

A geometry is a factory `(num_cells, rows) -> MeansFn`. Cell i of a lattice is
in row i // (N / rows); a single row is a line of cells.
"""

import types
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import plugins

GEOMETRIES = types.MappingProxyType(
  {
    'grid': 'bionet_core.cells.lattice:grid',
    'torus': 'bionet_core.cells.lattice:torus',
  }
)
"""Built-in geometries, `name -> 'module:factory'`; others' by entry point."""


class MeansFn(Protocol):
  """What each cell of a tissue reads of its neighbours."""

  def __call__(self, states: jax.Array, /) -> jax.Array:
    """Returns the mean state of each one's neighbours, as states `[..., N]`."""
    ...


def geometry(name: str, num_cells: int, rows: int) -> MeansFn:
  """The means of a geometry by its name, or by its path `module:factory`.

  Args:
    name: 'grid', 'torus', an entry point of `bionet.geometries`, or a path.
    num_cells: N.
    rows: in how many rows they lie.

  Raises:
    KeyError: for a name that there is not.
    ValueError: if the rows are not of one length, or if the means are not of
      the states' shape.
  """
  check_rows(num_cells, rows)
  try:
    factory = plugins.load('bionet.geometries', name, GEOMETRIES)
  except KeyError as error:
    raise KeyError(f'geometry={name!r}: {error.args[0]}') from error
  means = factory(num_cells, rows)
  states = jax.ShapeDtypeStruct((2, num_cells), jnp.result_type(float))
  shape = jax.eval_shape(means, states).shape
  if shape != states.shape:
    raise ValueError(
      f'geometry={name!r}: must make a function that gives as many means as '
      f'there are states; of {states.shape} it makes {shape}.'
    )
  return means


def check_rows(num_cells: int, rows: int) -> None:
  """Raises ValueError unless cells lie in rows of one length."""
  if rows < 1 or num_cells % rows:
    raise ValueError(
      f'rows={rows}: must be at least 1 and divide the {num_cells} cells, for '
      'all rows are of one length.'
    )


def grid(num_cells: int, rows: int = 1) -> MeansFn:
  """Means over the up to four cells next to each; a border has fewer.

  A single cell is its own neighbour.

  Args:
    num_cells: N.
    rows: rows of the grid; 1: a line, whose ends have one neighbour.
  """
  return row_means if rows == 1 else _lattice(num_cells, rows, closed=False)


def torus(num_cells: int, rows: int = 1) -> MeansFn:
  """As `grid`, but each row and each column is closed to a ring.

  Args:
    num_cells: N.
    rows: rows of the torus; 1: a ring.
  """
  return _lattice(num_cells, rows, closed=True)


def _lattice(num_cells: int, rows: int, *, closed: bool) -> MeansFn:
  columns = num_cells // rows
  neighbours = []
  for row, column in np.ndindex(rows, columns):
    beside = set()
    for r, c in ((-1, 0), (1, 0), (0, -1), (0, 1)):
      r, c = row + r, column + c
      if closed:
        r, c = r % rows, c % columns
      if 0 <= r < rows and 0 <= c < columns:
        beside.add(r * columns + c)
    # On a ring of one cell it meets itself.
    alone = row * columns + column
    neighbours.append(sorted(beside - {alone}) or [alone])
  return means_of(neighbours)


def means_of(neighbours: Sequence[Sequence[int]]) -> MeansFn:
  """The means over any neighbours, for a geometry of one's own.

    m_i = mean of s_j over j in neighbours[i]

  A product with a matrix `[N, N]`, which on a CPU is quicker than moving the
  states, up to some hundred cells.

  Args:
    neighbours: of each cell, the numbers of those that it reads, at least one.

  Raises:
    ValueError: for a cell without a neighbour, or one that is not there.
  """
  num_cells = len(neighbours)
  weights = np.zeros((num_cells, num_cells), np.float32)
  for cell, others in enumerate(neighbours):
    if not len(others) or min(others) < 0 or max(others) >= num_cells:
      raise ValueError(
        f'neighbours[{cell}]={list(others)}: must be numbers from 0 to '
        f'{num_cells - 1}, at least one.'
      )
    for other in others:
      weights[other, cell] += 1 / len(others)

  def means(states):
    return jnp.matmul(
      states, jnp.asarray(weights, states.dtype), precision='highest'
    )

  return means


def row_means(states: jax.Array) -> jax.Array:
  """Mean state of each cell's neighbours in a line: `[..., N]`.

  The ends have one neighbour; a single cell is its own.
  """
  num_cells = states.shape[-1]
  if num_cells == 1:
    return states
  # Sums of padded rows, since what reads a concatenation is not vectorized.
  rows = [(0, 0)] * (states.ndim - 1)
  total = jnp.pad(states[..., :-1], [*rows, (1, 0)]) + jnp.pad(
    states[..., 1:], [*rows, (0, 1)]
  )
  share = np.full(num_cells, 0.5, states.dtype)
  share[[0, -1]] = 1.0
  return total * jnp.asarray(share)[(None,) * (states.ndim - 1)]


def border(num_cells: int, rows: int) -> list[int]:
  """Numbers of the cells at the border of a grid: the two ends of a line."""
  numbers = np.arange(num_cells).reshape(rows, -1)
  inner = numbers[1:-1, 1:-1] if rows > 1 else numbers[:, 1:-1]
  return np.setdiff1d(numbers, inner).tolist()
