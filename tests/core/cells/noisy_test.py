# SPDX-License-Identifier: Apache-2.0
"""Noise in the state of any cell, and its density.

Truth: the cell's own step, to which a normal number is added; SciPy's density
of the normal distribution; the contract of a cell.
"""

import pathlib
import runpy
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bionet_core import CELLS, interfaces, noisy, plugins, stack, testing
from bionet_core import unroll as unrolled

KEY = jax.random.key(4)
B, STD = 3, 0.3
HERE = pathlib.Path(__file__).parent
TABLES = ('cores', 'leaky', 'linear_recurrent', 'min_gru', 'spiking', 'tissue')


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (2,)
  num_outputs: int = 4


def of_all_tables():
  """Every cell of the contract tables, with its settings."""
  settings = {}
  for name in TABLES:
    settings |= runpy.run_path(str(HERE / f'{name}_test.py'))['CELLS_TESTED']
  return settings


SETTINGS = of_all_tables()
# The emission is no leaf of the state: both parts of a complex number, or the
# state after a step that is compiled, or that a table holds.
MADE = ('lru', 'tissue')


def make(name, **settings):
  settings = {**SETTINGS[name], **settings}
  return plugins.load('bionet.cells', name, CELLS)(Sizes(), **settings)


CASES = {
  **{name: lambda name=name: make(name) for name in SETTINGS},
  'refractory': lambda: make('spiking', refractory=2, rate_weight=1.0),
  'two layers': lambda: make('gru', num_layers=2),
  'stack': lambda: stack([make('leaky'), make('lstm')]),
}


def one_step(cell, std=STD, **settings):
  """The results of the cell and of the noisy one, and the latter's density."""
  made = noisy(cell, std, **settings)
  inputs = np.random.default_rng(0).uniform(0.1, 0.3, (B, 2))

  @jax.jit
  def run(inputs):
    params, constants = cell.init(KEY, inputs)
    keys = unrolled.trial_keys(KEY, jnp.arange(B))
    state = made.initial_state(constants, keys)
    args = (params, constants, state, keys, inputs)
    return state, cell.step(*args), made.step(*args), made.log_density(*args)

  return run(inputs.astype(np.float32))


def normal_density(drawn, means):
  """The density by SciPy's formula, up to its constant: `[B]`."""
  total = np.zeros(B)
  for x, m in zip(drawn, means, strict=True):
    log_p = stats.norm.logpdf(x, m, STD) - stats.norm.logpdf(0.0, 0.0, STD)
    total += log_p.reshape(B, -1).sum(axis=1)
  return total


def test_every_cell_is_in_the_table():
  """Truth: bionet_core.CELLS."""
  assert set(SETTINGS) == set(CELLS)


@pytest.mark.parametrize('name', CASES)
def test_the_state_is_drawn_about_the_cells_own(name):
  """Truth: the cell's own step, and SciPy's normal density.

  The structure is kept, integers are those of the cell, and what is emitted
  comes out of what was drawn. Mutant: the emission of the cell itself, whose
  parameters no density would credit.
  """
  before, (emission, means), (drawn_emission, drawn), density = one_step(
    CASES[name]()
  )
  assert jax.tree.structure(drawn) == jax.tree.structure(before)
  pairs = []
  for old, mean, new in zip(
    *map(jax.tree.leaves, (before, means, drawn)), strict=True
  ):
    assert new.dtype == old.dtype and new.shape == old.shape
    if jnp.issubdtype(new.dtype, jnp.floating):
      pairs.append((new, mean))
      kicks = np.abs(np.asarray(new) - np.asarray(mean)) / STD
      assert 0 < kicks.min() and kicks.max() < 5
    else:
      np.testing.assert_array_equal(new, mean)
  if name in MADE:
    pairs.append((drawn_emission, emission))
  else:
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(drawn)]
    assert np.asarray(drawn_emission).tobytes() in leaves
  assert np.all(np.asarray(drawn_emission) != np.asarray(emission))
  np.testing.assert_allclose(
    density, normal_density(*zip(*pairs, strict=True)), rtol=1e-4
  )
  assert density.shape == (B,) and len(set(density.tolist())) == B


def test_the_draws_are_normal_and_independent():
  """Truth: moments and correlations of 4,000 draws, within 4 standard errors.

  Of the two leaves of an LSTM, and of two steps of one trial.
  """
  cell = make('lstm')
  inputs = np.zeros((4000, 2), np.float32)
  params, constants = jax.jit(cell.init)(KEY, inputs)

  @jax.jit
  def xi(t):
    trials = unrolled.trial_keys(KEY, jnp.arange(4000))
    state = cell.initial_state(constants, trials)
    _, mean = cell.step(params, constants, state, trials, inputs)
    keys = unrolled.step_keys(trials, jnp.full(4000, t))
    _, drawn = noisy(cell, STD).step(params, constants, state, keys, inputs)
    kicks = jax.tree.map(lambda a, b: (a - b) / STD, drawn, mean)
    return jnp.concatenate(jax.tree.leaves(kicks), axis=1)

  draws = np.concatenate([xi(0), xi(1)], axis=1)
  assert draws.shape == (4000, 16)
  error = 1 / np.sqrt(4000)
  np.testing.assert_allclose(draws.mean(axis=0), 0, atol=4 * error)
  correlations = draws.T @ draws / 4000
  np.testing.assert_allclose(correlations, np.eye(16), atol=6 * error)


@pytest.mark.parametrize('name', ['refractory', 'tissue'])
def test_without_noise_it_is_the_cell(name):
  """Truth: the cell over five steps; at std 0 it is the cell itself.

  A tissue draws on its own, and goes on to draw the same.
  """
  cell = CASES[name]()
  assert noisy(cell, 0.0) is cell and noisy(cell, 0) is cell
  inputs = np.full((5, B, 2), 0.2, np.float32)
  trials = interfaces.Trials(
    inputs=inputs,
    targets=np.zeros((5, B)),
    mask=np.ones((5, B)),
    index=np.arange(B),
  )
  params, constants = jax.jit(cell.init)(KEY, inputs[0])

  exact, near, far = (
    jax.jit(
      lambda made=made: unrolled.model_from_cell(made).predict(
        params, constants, KEY, trials
      )
    )()
    for made in (cell, noisy(cell, 1e-6), noisy(cell, STD))
  )
  np.testing.assert_allclose(near, exact, atol=1e-4)
  assert np.abs(np.asarray(far) - exact).max() > 0.01


def test_an_emission_may_be_made_of_the_drawn_state():
  """Truth: both parts of an LRU's drawn state, side by side.

  Then the density is of the state alone.
  """
  _, (_, means), (emission, drawn), density = one_step(
    make('lru'), emit=lambda state: jnp.concatenate(state, axis=-1)
  )
  np.testing.assert_array_equal(emission, np.concatenate(drawn, axis=-1))
  pairs = (jax.tree.leaves(drawn), jax.tree.leaves(means))
  np.testing.assert_allclose(density, normal_density(*pairs), rtol=1e-4)


@pytest.mark.oracle
def test_the_contract_of_a_cell():
  """Truth: the laws of bionet_core.testing."""
  inputs = jnp.asarray(np.random.default_rng(1).normal(size=(B, 2)))
  testing.check_cell(noisy(make('gru'), STD), inputs.astype(jnp.float32))


@pytest.mark.parametrize('std', [-0.1, np.nan, np.inf])
def test_a_deviation_that_cannot_be_is_refused(std):
  """Truth: the sentence."""
  with pytest.raises(ValueError, match=r'^std=.*: must be a finite number'):
    noisy(make('gru'), std)


def test_a_complex_state_is_refused():
  """Truth: the sentence that says what to write."""
  cell = make('leaky')
  cell = cell._replace(
    step=lambda p, c, s, k, x: (jnp.abs(s), s.astype(jnp.complex64))
  )
  with pytest.raises(TypeError, match='is complex64, and noisy draws real'):
    one_step(cell)
