# SPDX-License-Identifier: Apache-2.0
"""Evolution against selection and mutation written out in NumPy.

Truth: sorted losses; the mutations' distribution with a z; on fixed trials and
noise the best never gets worse.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_learners.populations import evolution
from tests.learners.populations import points


def test_a_generation_keeps_the_best_in_order():
  """Truth: `sorted` by the squared distance; mean and deviation by NumPy.

  Mutant: the worst kept.
  """
  start = state = points.begin()
  assert len(np.unique(points.members_of(start), axis=0)) == 8, (
    'members are alike'
  )
  for generation in range(3):
    rows = points.members_of(state)
    losses = np.sum((rows - points.GOAL) ** 2, axis=1)
    order = np.argsort(losses)
    state, metrics = points.compiled().update(
      state, points.KEY, points.trials()
    )
    np.testing.assert_array_equal(points.members_of(state)[:3], rows[order[:3]])
    np.testing.assert_array_equal(points.point_of(state.params), rows[order[0]])
    assert not np.array_equal(points.members_of(state)[:3], rows[order[-3:]])
    np.testing.assert_allclose(metrics['loss'], losses.min(), rtol=1e-5)
    np.testing.assert_allclose(metrics['loss_mean'], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics['loss_std'], losses.std(), rtol=1e-4)
    np.testing.assert_allclose(metrics['first'], rows[order[0]][0], rtol=1e-5)
    assert set(metrics) == {'loss', 'loss_mean', 'loss_std', 'first'}
    assert int(state.step) == generation + 1
  chex.assert_trees_all_equal(state.constants, start.constants)


def test_the_start_is_a_draw_of_the_cell_for_each_member():
  """Truth: the cell's own `init`: standard normal here, |z| < 5."""
  state = jax.jit(points.make(population_size=2000).init)(
    points.KEY, points.trials()
  )
  rows = points.members_of(state)
  assert abs(rows.mean()) < 5 / math.sqrt(rows.size)
  assert abs(rows.var() - 1) < 5 * math.sqrt(2 / rows.size)
  cell_params, _ = points.point_cell().init(points.KEY, jnp.zeros((4, 1)))
  chex.assert_trees_all_equal_shapes_and_dtypes(state.params, cell_params)
  assert np.isinf(state.rule_state.shared.best_loss)


def best_losses(batches, **settings):
  state, found = points.begin(**settings), []
  for batch in batches:
    state, metrics = points.compiled(**settings).update(
      state, points.KEY, batch
    )
    found.append(float(metrics['loss']))
  return np.array(found), state


def test_the_best_never_gets_worse_on_fixed_trials_and_noise():
  """Truth: elites stay. Mutants: noise of each member; trials that change."""
  fixed, others = (
    [points.trials()] * 20,
    [points.trials(first=4 * n) for n in range(20)],
  )
  losses, state = best_losses(fixed, noise=0.5)
  assert np.all(np.diff(losses) <= 0)
  assert losses[-1] < 0.5 * losses[0]
  assert float(state.rule_state.shared.best_loss) == losses[-1]
  losses, _ = best_losses(fixed, noise=0.5, common_noise=False)
  assert np.any(np.diff(losses) > 0)
  losses, _ = best_losses(others, noise=0.5)
  assert np.any(np.diff(losses) > 0)


def nan_below_0(outputs, targets, mask):
  """NaN, or infinite, for members on the wrong side."""
  loss, metrics = points.squared_error(outputs, targets, mask)
  x, y = outputs[0, 0], outputs[0, 1]
  loss = jnp.where(x < 0, jnp.nan, jnp.where(y < 0, jnp.inf, loss))
  return loss, metrics


def test_members_without_a_number_are_the_worst():
  """Truth: NumPy over the members that have one; the others never stay.

  Mutant: NaN sorted first.
  """
  settings = {'loss': nan_below_0, 'population_size': 16}
  state, update = points.begin(**settings), points.compiled(**settings).update
  rows = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
  rows[:4, :2] = np.abs(
    rows[:4, :2]
  )  # enough that have a number, from the start
  state = points.with_members(state, rows)
  met = 0
  for _ in range(10):
    rows = points.members_of(state)
    good = (rows[:, 0] >= 0) & (rows[:, 1] >= 0)
    met += np.sum(rows[:, 0] < 0)
    assert 3 <= good.sum() < 16
    losses = np.sum((rows - points.GOAL) ** 2, axis=1)[good]
    state, metrics = update(state, points.KEY, points.trials())
    np.testing.assert_allclose(metrics['loss'], losses.min(), rtol=1e-5)
    np.testing.assert_allclose(metrics['loss_mean'], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(
      metrics['loss_std'], losses.std(), rtol=1e-4, atol=1e-6
    )
    assert np.all(points.members_of(state)[:3, :2] >= 0)
    assert np.all(points.point_of(state.params)[:2] >= 0)
  assert met > 3, 'no NaN was met'
  # One that has a number is enough, wherever it stands.
  rows = np.full((16, 3), -1.0, np.float32)
  rows[7] = 1.0
  state, metrics = update(
    points.with_members(state, rows), points.KEY, points.trials()
  )
  np.testing.assert_array_equal(points.point_of(state.params), 1)
  np.testing.assert_array_equal(points.members_of(state)[0], 1)
  assert np.isfinite(metrics['loss_mean']) and metrics['loss_std'] == 0
  # Where none has, there is nothing to report but that: a loop stops at a NaN.
  rows = np.full((16, 3), -1.0, np.float32)
  after, metrics = update(
    points.with_members(state, rows), points.KEY, points.trials()
  )
  assert not np.isfinite(metrics['loss'])
  chex.assert_trees_all_equal(after.params, state.params)


ELITES = points.GOAL[None] + 100 * np.arange(1, 5, dtype=np.float32)[:, None]


def mutated(**settings):
  """What 4,000 children got on top of which elite: `[C, 3]`, `[C]`."""
  settings = {'population_size': 4004, 'elites': 4, **settings}
  state = points.begin(**settings)
  # The elites are far from each other, and all others still farther.
  far = np.full((4000, 3), 5000.0, np.float32)
  state = points.with_members(state, np.concatenate([ELITES, far]))
  state, _ = points.compiled(**settings).update(
    state, points.KEY, points.trials()
  )
  rows = points.members_of(state)
  np.testing.assert_array_equal(rows[:4], ELITES)
  children = rows[4:].astype(float)
  distance = np.abs(children[:, None] - ELITES[None]).sum(axis=2)
  parents = distance.argmin(axis=1)
  return children - ELITES[parents], parents


def test_mutations_are_normal_with_the_asked_deviation():
  """Truth: N(0, std^2) in each parameter on its own, |z| < 5.

  Mutant: 10 % more.
  """
  moves = mutated(std=0.5)[0] / 0.5
  root = math.sqrt(moves.size)
  assert abs(moves.mean()) < 5 / root
  assert abs(moves.var() - 1) < 5 * math.sqrt(2) / root
  assert abs(moves.var() - 1.1**2) > 5 * math.sqrt(2) / root
  assert abs(np.mean(moves**4) - 3) < 5 * math.sqrt(96) / root
  # No factor that a child's parameters share: nor are their squares related.
  for powers in (moves, moves**2):
    between = np.corrcoef(powers.T) - np.eye(3)
    assert np.abs(between).max() < 5 / math.sqrt(len(moves))


def test_parents_are_drawn_from_all_elites_alike():
  """Truth: chi-square of 4 elites, 3 degrees of freedom, 5 sigma.

  Mutant: the last elite never drawn.
  """
  counts = np.bincount(mutated(std=0.5)[1], minlength=4)
  chi2 = np.sum((counts - 1000) ** 2) / 1000
  assert counts.sum() == 4000 and counts.min() > 0
  assert abs(chi2 - 3) < 5 * math.sqrt(6)


def test_each_child_has_its_own_factor_on_the_deviation():
  """Truth: log(|move| / std) = log|xi| + spread n: moments, |z| < 5.

  log|xi| has mean -.6352 and variance pi^2 / 8; a child's parameters share n,
  whose variance, spread^2, is thus their covariance. Mutant: no spread.
  """
  spread = 0.7
  moves, parents = mutated(std=0.5, std_spread=spread)
  close = np.abs(moves).max(axis=1) < 30
  assert close.mean() > 0.99, 'parents cannot be told apart'
  logs = np.log(np.abs(moves) / 0.5)
  mean, variance = -(math.log(2) + np.euler_gamma) / 2, math.pi**2 / 8
  error = math.sqrt((variance / 3 + spread**2) / len(logs))
  assert abs(logs.mean() - mean) < 5 * error
  for a, b in ((0, 1), (0, 2), (1, 2)):
    product = (logs[:, a] - mean) * (logs[:, b] - mean)
    error = product.std() / math.sqrt(len(logs))
    assert abs(product.mean() - spread**2) < 5 * error
    assert abs(product.mean()) > 5 * error
  total = variance + spread**2
  assert abs(logs.var() - total) < 0.1 * total
  counts = np.bincount(parents, minlength=4)
  assert counts.min() > 800


def test_no_deviation_makes_copies():
  """Truth: std = 0 leaves copies of elites alone."""
  state, _ = points.compiled(std=0.0).update(
    points.begin(std=0.0), points.KEY, points.trials()
  )
  rows = points.members_of(state)
  assert {tuple(row) for row in rows} == {tuple(row) for row in rows[:3]}


def test_generations_draw_anew():
  """Truth: another step or another run, other mutations; else the same."""
  found = []
  for key, step in (
    (points.KEY, 0),
    (points.KEY, 0),
    (points.KEY, 1),
    (jax.random.key(0), 0),
  ):
    state = points.begin()._replace(step=jnp.int32(step))
    after, _ = points.compiled().update(state, key, points.trials())
    found.append(points.members_of(after)[3:])
  np.testing.assert_array_equal(found[0], found[1])
  assert not np.any(found[0] == found[2])
  assert not np.any(found[0] == found[3])


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_mutants_have_the_types_of_their_parents(dtype):
  """Truth: the state before; a lower precision is the members' own."""
  cell = points.point_cell(dtype=dtype)
  learner = evolution.evolution(cell, points.squared_error, std_spread=0.5)
  state = jax.eval_shape(learner.init, points.KEY, points.trials())
  after, _ = jax.eval_shape(learner.update, state, points.KEY, points.trials())
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def test_all_members_meet_the_same_noise_or_each_its_own():
  """Truth: equal members in common noise are equal; else their losses spread.

  With common noise the best's loss is that of its predictions under the run's
  key. Mutant: the same members with noise of their own.
  """
  rows = np.tile(points.GOAL, (8, 1))
  found = {}
  for settings in ({}, {'common_noise': False}):
    learner = points.compiled(noise=0.5, **settings)
    state = points.with_members(points.begin(noise=0.5, **settings), rows)
    state, metrics = learner.update(state, points.KEY, points.trials())
    outputs = learner.predict(state, points.KEY, points.trials())
    error = np.mean(np.sum((np.asarray(outputs) - points.GOAL) ** 2, axis=-1))
    found[bool(settings)] = metrics, error
  metrics, error = found[False]
  np.testing.assert_allclose(metrics['loss_std'], 0, atol=1e-6)
  np.testing.assert_allclose(metrics['loss'], error, rtol=1e-5)
  metrics, error = found[True]
  assert metrics['loss_std'] > 0.02
  assert abs(metrics['loss'] - error) > 1e-3


def test_own_noise_belongs_to_the_member_and_to_the_trial():
  """Truth: what is drawn for trial b and member p depends on nothing else."""
  settings = {'noise': 0.5, 'common_noise': False}
  state = points.with_members(
    points.begin(**settings), np.tile(points.GOAL, (8, 1))
  )

  def judged(batch):
    _, metrics = points.compiled(**settings).update(state, points.KEY, batch)
    return float(metrics['loss_mean'])

  both = judged(points.trials(8))
  halves = judged(points.trials(4)), judged(points.trials(4, first=4))
  np.testing.assert_allclose(both, np.mean(halves), rtol=1e-5)
  assert abs(halves[0] - halves[1]) > 1e-3


@pytest.mark.parametrize('best_ever', [False, True])
def test_which_member_predicts(best_ever):
  """Truth: the least loss ever in a NumPy record, or the last generation's."""
  settings = {'noise': 2.0, **({'best_ever': True} if best_ever else {})}
  state = points.begin(**settings)
  record, holder, stayed = np.inf, None, 0
  for generation in range(15):
    batch = points.trials(first=4 * generation)
    state, metrics = points.compiled(**settings).update(
      state, points.KEY, batch
    )
    loss, best = float(metrics['loss']), points.members_of(state)[0]
    if loss < record or not best_ever:
      holder = best
    else:
      stayed += not np.array_equal(best, holder)
    record = min(record, loss)
    np.testing.assert_array_equal(points.point_of(state.params), holder)
    assert float(state.rule_state.shared.best_loss) == record
  assert (stayed > 2) == best_ever
