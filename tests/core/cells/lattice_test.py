# SPDX-License-Identifier: Apache-2.0
"""Geometries of a tissue, against loops over neighbours in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core.cells import lattice, tissue


def looped(states, rows, closed):
  """The mean of the distinct cells beside each, cell by cell."""
  cells = states.reshape(rows, -1)
  columns = cells.shape[1]
  means = np.zeros_like(cells)
  for r in range(rows):
    for c in range(columns):
      beside = {}
      for i, j in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
        if closed:
          i, j = i % rows, j % columns
        if 0 <= i < rows and 0 <= j < columns and (i, j) != (r, c):
          beside[i, j] = cells[i, j]
      means[r, c] = np.mean(list(beside.values())) if beside else cells[r, c]
  return means.reshape(-1)


@pytest.mark.parametrize('name, closed', [('grid', False), ('torus', True)])
@pytest.mark.parametrize(
  'num_cells, rows',
  [(1, 1), (2, 1), (7, 1), (7, 7), (4, 2), (6, 2), (12, 3), (16, 4)],
)
def test_means_are_those_of_the_cells_beside(name, closed, num_cells, rows):
  """Truth: a loop over rows and columns. Mutant: the other geometry."""
  states = np.random.default_rng(num_cells).uniform(size=(2, 3, num_cells))
  wanted, other = (
    np.apply_along_axis(looped, -1, states, rows, ring)
    for ring in (closed, not closed)
  )
  means = lattice.geometry(name, num_cells, rows)
  got = jax.jit(means)(jnp.asarray(states))
  np.testing.assert_allclose(got, wanted, rtol=1e-5)
  np.testing.assert_allclose(
    means(jnp.asarray(states[0, 0])), wanted[0, 0], rtol=1e-5
  )
  if max(rows, num_cells // rows) > 2:
    assert not np.allclose(got, other, atol=1e-3)


def test_a_corner_by_hand():
  """Truth: of a 2 x 3 grid cell 0 reads 1 and 3, on a torus 1, 2 and 3."""
  states = jnp.arange(6.0)
  assert lattice.grid(6, 2)(states)[0] == 2.0
  assert lattice.torus(6, 2)(states)[0] == 2.0
  assert lattice.grid(6, 2)(states)[5] == 3.0
  np.testing.assert_allclose(lattice.torus(6, 2)(states)[5], 3.0)
  np.testing.assert_allclose(lattice.torus(6, 2)(states)[1], (0 + 2 + 4) / 3)


@pytest.mark.parametrize(
  'num_cells, rows, wanted',
  [
    (5, 1, [0, 4]),
    (9, 3, [0, 1, 2, 3, 5, 6, 7, 8]),
    (12, 3, [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]),
  ],
)
def test_the_border_by_hand(num_cells, rows, wanted):
  """Truth: a drawing."""
  assert lattice.border(num_cells, rows) == wanted


class Sizes:
  input_shape, num_outputs = (2,), 12


def test_a_tissue_reads_the_geometry_that_its_settings_name():
  """Truth: one noiseless step of the rate that the network is, in a loop."""
  for settings, closed in (({'rows': 3}, False), ({'geometry': 'torus'}, True)):
    cell = tissue.tissue(Sizes(), **settings)
    params, _ = jax.jit(cell.init)(jax.random.key(0), jnp.zeros((1, 2)))
    state = np.random.default_rng(1).uniform(0.4, 0.6, (1, 12))
    inputs = np.array([[0.1, 0.0]], np.float32)
    keys = jax.random.split(jax.random.key(1), 1)
    step = jax.jit(cell.step)
    _, after = step(params, {}, state.astype(np.float32), keys, inputs)
    means = looped(state[0], settings.get('rows', 1), closed)
    rate = jax.jit(tissue.regulatory_network().apply)(params, means)
    wanted = state[0] + 0.1 * np.asarray(rate)
    np.testing.assert_allclose(after[0], wanted, rtol=1e-5)


def test_the_border_of_a_grid_is_pinned():
  """Truth: the drawing above: 10 of 12 cells stay 0."""
  cell = tissue.tissue(Sizes(), rows=3, pinned=True)
  state = cell.initial_state({}, jax.random.split(jax.random.key(0), 2))
  assert np.flatnonzero(state[0]).tolist() == [5, 6]


def hexagons(num_cells, rows):
  """Six neighbours on a torus, for the test of a geometry of one's own."""
  columns = num_cells // rows
  places = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1)]
  return lattice.means_of(
    [
      [(r + i) % rows * columns + (c + j) % columns for i, j in places]
      for r in range(rows)
      for c in range(columns)
    ]
  )


def halves(num_cells, rows):
  del num_cells, rows
  return lambda states: states[..., ::2]


def test_a_geometry_of_ones_own_is_a_path(monkeypatch):
  """Truth: the function itself; its neighbours written out for one cell."""
  monkeypatch.syspath_prepend(__file__.rpartition('/')[0])
  means = lattice.geometry('lattice_test:hexagons', 12, 3)
  states = jnp.arange(12.0)
  np.testing.assert_allclose(means(states)[5], np.mean([1, 9, 4, 6, 2, 8]))
  tissue.tissue(Sizes(), rows=3, geometry='lattice_test:hexagons')


@pytest.mark.parametrize(
  'settings, kind, message',
  [
    ({'rows': 5}, ValueError, r'^rows=5: must be at least 1 and divide the 12'),
    ({'rows': 0}, ValueError, r'^rows=0: must be at least 1'),
    (
      {'geometry': 'tours'},
      KeyError,
      r"geometry='tours': no bionet.geometries .* Did you mean 'torus'",
    ),
    (
      {'geometry': 'lattice_test:halves'},
      ValueError,
      r"^geometry='lattice_test:halves': must make a .* \(2, 12\) it makes",
    ),
    (
      {'geometry': 'torus', 'pinned': True},
      ValueError,
      r'^pinned=True: must be False on a torus',
    ),
    ({'rows': 2, 'pinned': True}, ValueError, r'^pinned=.*: must leave one'),
  ],
)
def test_what_cannot_be_is_refused(settings, kind, message, monkeypatch):
  """Truth: the sentence that names the setting."""
  monkeypatch.syspath_prepend(__file__.rpartition('/')[0])
  with pytest.raises(kind, match=message):
    tissue.tissue(Sizes(), **settings)


def test_neighbours_that_cannot_be_are_refused():
  """Truth: the sentence that names the cell; and pinned cells likewise."""
  for neighbours in ([[1], []], [[1], [2]], [[1], [-1]]):
    with pytest.raises(ValueError, match=r'^neighbours\[1\]=.*from 0 to 1'):
      lattice.means_of(neighbours)
  rate = tissue.fixed_rate(jnp.zeros_like)
  with pytest.raises(ValueError, match=r'^pinned=\[4\]: must be numbers'):
    tissue.cell_from_rate(rate, 4, pinned=[4])
