# SPDX-License-Identifier: Apache-2.0
"""The tissue, against its formula and the closed forms of a linear SDE.

Truth: loops over neighbours and one step in NumPy; mean, variance and strong
order of an Ornstein-Uhlenbeck process; the source's utilities of two known
rates; the contract. `CELLS_TESTED` is read by `coverage_test`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import (
  information,
  testing,
  unroll,
)
from bionet_core.cells import lattice, tissue
from tests.core.cells import tissues

CELLS_TESTED = {'tissue': {'hidden': (3,)}}
PINNED = {'hidden': (3, 2), 'pinned': True, 'bound': 2.0, 'centred': False}


@pytest.mark.parametrize(
  'settings',
  [
    *CELLS_TESTED.values(),
    pytest.param(PINNED, marks=pytest.mark.slow),
    pytest.param({'spread': 0.5}, marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_the_contract_of_a_cell(settings):
  """Truth: the laws of bionet_core.testing."""
  inputs = jnp.array([[0.01, 0.1], [0.02, 0.3], [0.05, 0.0]])
  testing.check_cell(tissues.make(**settings), inputs)


@pytest.mark.slow
def test_a_cell_with_nothing_to_learn_keeps_the_contract():
  """Truth: the laws of bionet_core.testing."""
  inputs = jnp.array([[0.01, 0.1], [0.02, 0.3]])
  testing.check_cell(tissues.fixed(tissues.lateral_inhibition, 3), inputs)


##############################################################################
# One step


def looped_means(states):
  """The mean of the neighbours there are, cell by cell."""
  num_cells = len(states)
  found = []
  for i in range(num_cells):
    near = [states[j] for j in (i - 1, i + 1) if 0 <= j < num_cells]
    found.append(np.mean(near) if near else states[i])
  return np.array(found)


@pytest.mark.parametrize('num_cells', [1, 2, 3, 7])
def test_means_are_those_of_the_neighbours_there_are(num_cells):
  """Truth: a loop over cells. Mutant: the row closed to a ring."""
  states = np.random.default_rng(num_cells).uniform(size=(2, 3, num_cells))
  got = lattice.row_means(jnp.asarray(states))
  wanted = np.apply_along_axis(looped_means, -1, states)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  alone = lattice.row_means(jnp.asarray(states[0, 0]))
  np.testing.assert_allclose(alone, wanted[0, 0], rtol=1e-6)
  if num_cells > 2:
    ring = (np.roll(states, 1, -1) + np.roll(states, -1, -1)) / 2
    assert not np.allclose(got, ring, atol=1e-3)


def test_means_by_hand():
  """Truth: written out."""
  for states, wanted in (
    ([0.3], [0.3]),
    ([0.2, 0.8], [0.8, 0.2]),
    ([0.2, 0.8, 0.6], [0.8, 0.4, 0.8]),
  ):
    got = lattice.row_means(jnp.array(states))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


STATE = jnp.array([[0.02, 0.9, 0.5, 0.99], [0.4, 0.6, 0.1, 0.3]])
KEYS = unroll.trial_keys(tissues.KEY, jnp.arange(2))
STEP_INPUTS = jnp.array([[0.04, 0.5], [0.01, 2.0]])


def formula(state, means, free=1.0, noise_power=0.5):
  """The docstring's step in NumPy."""
  after = []
  for b in range(2):
    dt, sigma = np.asarray(STEP_INPUTS[b], float)
    xi = np.asarray(jax.random.normal(KEYS[b], (4,)), float)
    rate = -np.tanh(5 * (means[b] - 0.5))
    moved = state[b] + rate * dt + sigma * dt**noise_power * xi
    after.append(np.clip(moved, 0, 1) * free)
  return np.array(after)


def test_one_step_is_the_formula():
  """Truth: Euler-Maruyama in NumPy, trial by trial, each its dt and sigma.

  Mutants: noise by dt and not its root; a cell among its own neighbours.
  """
  cell = tissues.fixed(tissues.lateral_inhibition, 4)
  got = []
  for call in (cell.step, jax.jit(cell.step)):
    emission, after = call({}, {}, STATE, KEYS, STEP_INPUTS)
    np.testing.assert_array_equal(emission, after)
    np.testing.assert_array_equal(cell.readout({}, {}, emission), after)
    got.append(np.asarray(after))
  state = np.asarray(STATE, float)
  means = np.array([looped_means(s) for s in state])
  wanted = formula(state, means)
  assert np.any(wanted == 0) or np.any(wanted == 1), 'no cell meets the clip'
  for one in got:
    np.testing.assert_allclose(one, wanted, atol=1e-6)
  for mutant in (
    formula(state, means, noise_power=1),
    formula(state, (2 * means + state) / 3),
  ):
    assert not np.allclose(got[0], mutant, atol=1e-3)


def test_another_neighbourhood_makes_another_tissue():
  """Truth: the same formula with the means of a ring."""

  def ring(states):
    return (jnp.roll(states, 1, -1) + jnp.roll(states, -1, -1)) / 2

  cell = tissues.fixed(tissues.lateral_inhibition, 4, means=ring)
  _, after = cell.step({}, {}, STATE, KEYS, STEP_INPUTS)
  state = np.asarray(STATE, float)
  means = (np.roll(state, 1, -1) + np.roll(state, -1, -1)) / 2
  np.testing.assert_allclose(after, formula(state, means), atol=1e-6)


def test_pinned_ends_are_0_from_the_start_and_are_read_as_such():
  """Truth: the formula with the ends at 0; mutant: ends that are free."""
  cell = tissues.fixed(tissues.lateral_inhibition, 4, pinned=[0, 3])
  state = cell.initial_state({}, KEYS)
  free = np.array([0, 1, 1, 0])
  np.testing.assert_array_equal(np.asarray(state) != 0, [free, free])
  means = np.array([looped_means(s) for s in np.asarray(state, float)])
  wanted = formula(np.asarray(state, float), means, free)
  _, after = cell.step({}, {}, state, KEYS, STEP_INPUTS)
  np.testing.assert_allclose(after, wanted, atol=1e-6)
  _, loose = tissues.fixed(tissues.lateral_inhibition, 4).step(
    {}, {}, state, KEYS, STEP_INPUTS
  )
  assert not np.allclose(loose, wanted, atol=1e-3)


@pytest.mark.parametrize('pinned', [(), (0, 3)])
def test_states_stay_within_0_and_1(pinned):
  """Truth: the clip, under noise that goes far beyond it."""
  cell = tissues.fixed(lambda m: 50 * (m - 0.5), 4, pinned=pinned, spread=0.5)
  states = np.asarray(tissues.run(cell, {}, 50, 20, dt=0.1, sigma=3.0))
  assert states.min() == 0 and states.max() == 1
  ends = states[..., [0, -1]]
  assert np.any(ends) != bool(pinned)


def test_initial_states_are_uniform_about_the_middle():
  """Truth: mean and variance of U(.5 - spread, .5 + spread), |z| < 5."""
  keys = unroll.trial_keys(tissues.KEY, jnp.arange(2000))
  for spread in (0.1, 0.5):
    states = np.asarray(
      tissues.fixed(tissues.lateral_inhibition, 4, spread=spread).initial_state(
        {}, keys
      ),
      float,
    )
    assert np.abs(states - 0.5).max() <= spread + 1e-6
    root = math.sqrt(states.size)
    assert abs(states.mean() - 0.5) < 5 * spread / math.sqrt(3) / root
    # Var[(x - .5)^2] = spread^4 (1/5 - 1/9)
    error = spread**2 * math.sqrt(4 / 45) / root
    assert abs(np.mean((states - 0.5) ** 2) - spread**2 / 3) < 5 * error
    assert len(np.unique(states[:, 0])) > 1900, 'trials are alike'
  still = tissues.fixed(
    tissues.lateral_inhibition, 4, spread=0.0
  ).initial_state({}, keys)
  np.testing.assert_array_equal(still, 0.5)


def test_the_parts_of_the_factory_fit_together():
  """Truth: `cell_from_rate` of the network with the same settings."""
  spec = tissues.Sizes(num_outputs=5)
  settings = {'hidden': (3,), 'centred': False, 'bound': 2.0}
  ours = tissue.tissue(spec, pinned=True, spread=0.3, **settings)
  rate = tissue.regulatory_network(**settings)
  theirs = tissue.cell_from_rate(rate, 5, pinned=[0, 4], spread=0.3)
  params, constants = ours.init(tissues.KEY, tissues.row(0.01, 0.1, 3))
  assert constants == {}
  np.testing.assert_array_equal(
    tissues.run(ours, params, 4, 3), tissues.run(theirs, params, 4, 3)
  )
  assert tissues.run(ours, params, 4, 3).shape == (4, 3, 5)


@pytest.mark.parametrize(
  'factory, message',
  [
    (lambda: tissues.make(hidden=()), r'^hidden=\(\)'),
    (lambda: tissues.make(hidden=(4, 0)), r'^hidden=\(4, 0\)'),
    (lambda: tissues.make(bound=-1.0), r'^bound=-1\.0'),
    (lambda: tissues.make(bound=math.nan), r'^bound=nan'),
    (lambda: tissues.make(steepness=-1.0), r'^steepness=-1\.0'),
    (lambda: tissues.make(output_std=math.nan), r'^output_std=nan'),
    (lambda: tissues.make(knots=-1), r'^knots=-1'),
    (lambda: tissues.make(spread=-0.1), r'^spread=-0\.1'),
    (lambda: tissues.make(spread=0.6), r'^spread=0\.6'),
    (lambda: tissues.make(spread=math.nan), r'^spread=nan'),
    (lambda: tissues.fixed(tissues.lateral_inhibition, 0), r'^num_cells=0: '),
    (
      lambda: tissues.fixed(tissues.lateral_inhibition, 2, pinned=[0, 1]),
      r'^pinned=\[0, 1\]: .* of the 2 cells',
    ),
  ],
)
def test_settings_out_of_range_are_refused(factory, message):
  """Truth: the documented ranges; the setting is named."""
  with pytest.raises(ValueError, match=message):
    factory()


@pytest.mark.parametrize('shape', [(3, 1), (3,), (3, 2, 1)])
def test_inputs_that_are_not_dt_and_sigma_are_refused(shape):
  """Truth: the documented inputs, `[B, 2]`."""
  with pytest.raises(AssertionError):
    tissues.make().init(tissues.KEY, jnp.zeros(shape))


##############################################################################
# The gradient


def gradients(num_steps, batch, num_cells, hidden):
  """The gradient of the exact utility through whole trials, and its memory.

  Returns:
    `{remat: gradient}` and `{remat: MiB}`, the compiled program's own report.
  """
  rate = tissue.regulatory_network(hidden)
  params = rate.init(jax.random.key(2))
  data = tissues.trials(num_steps, batch)

  def loss(outputs, targets, mask):
    del targets
    return -information.exact_soft_utility(outputs).utility * jnp.mean(mask), {}

  def objective(params, remat):
    cell = tissue.cell_from_rate(rate, num_cells, remat=remat)
    state = unroll.initial_state(cell, {}, tissues.KEY, data.index)
    keys, steps = (
      unroll.trial_keys(tissues.KEY, data.index),
      jnp.zeros(batch, int),
    )
    return unroll.unroll(
      cell, loss, params, {}, state, keys, steps, data, remat=remat
    )[0]

  found, memory = {}, {}
  for remat in (True, False):
    slope = jax.jit(jax.grad(objective), static_argnums=1)
    compiled = slope.lower(params, remat).compile()
    memory[remat] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    found[remat] = compiled(params)
  return found, memory


def check_gradients_agree(found):
  for path, leaf in jax.tree.leaves_with_path(found[True]):
    plain = dict(jax.tree.leaves_with_path(found[False]))[path]
    scale = np.abs(plain).max()
    assert scale > 1e-6
    np.testing.assert_allclose(
      leaf, plain, rtol=1e-3, atol=1e-4 * scale, err_msg=str(path)
    )


def test_recomputing_changes_memory_only():
  """Truth: the gradient without; 500 x 20 x 3 floats are .11 MiB."""
  found, memory = gradients(500, 20, 3, (4,))
  check_gradients_agree(found)
  assert memory[True] < 0.3, memory
  assert memory[False] > 5 * memory[True], memory


@pytest.mark.slow
def test_the_gradient_over_2000_steps_needs_the_memory_of_the_states():
  """Truth: 2,000 x 50 x 7 floats are 2.7 MiB; the source's 2.8, plain 93.5."""
  found, memory = gradients(2000, 50, 7, (8, 8))
  check_gradients_agree(found)
  assert 2.6 < memory[True] <= 5, memory
  assert memory[False] > 10 * memory[True], memory
