# SPDX-License-Identifier: Apache-2.0
"""Evolution against selection and mutation written out in NumPy.

Truth: sorted losses; the mutations' distribution with a z; on fixed trials and
noise the best never gets worse; one device.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces, unroll
from bionet_core.cells import cores as cells
from bionet_learners import base
from bionet_learners.populations import evolution

KEY = jax.random.key(8)
GOAL = np.array([0.5, -1.0, 2.0], np.float32)


def point_cell(noise=0.0, dtype=jnp.float32):
  """Says its parameters, with the trial's noise: losses can be worked out."""

  def init(key, inputs):
    del inputs
    draw = jax.random.normal(key, (3,), dtype)
    return {'x': draw[:2], 'y': draw[2:]}, {'noise': jnp.float32(noise)}

  def step(params, constants, state, keys, inputs):
    del inputs
    point = jnp.concatenate([params['x'], params['y']])[None]
    # Uniform from -1 to 1, and cheap to compile.
    bits = jax.random.key_data(keys)
    draws = [(bits // n % 2000) / 1000 - 1 for n in (1, 7)]
    draw = jnp.concatenate(draws, axis=1)[:, :3]
    return point + constants['noise'] * draw, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 1)),
    step,
    lambda params, constants, emission: emission,
  )


def squared_error(outputs, targets, mask):
  loss = jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1) * mask)
  return loss, {'first': jnp.mean(outputs[:, 0] * mask)}


def trials(batch=4, first=0, goal=GOAL):
  return interfaces.Trials(
    inputs=jnp.zeros((1, batch, 1)),
    targets=jnp.broadcast_to(jnp.asarray(goal), (1, batch, len(goal))),
    mask=jnp.ones((1, batch)),
    index=first + jnp.arange(batch),
  )


DEFAULTS = {'population_size': 8, 'elites': 3, 'std': 0.3}


def make(noise=0.0, loss=squared_error, **settings):
  cell = point_cell(noise)
  return evolution.evolution(cell, loss, **{**DEFAULTS, **settings})


@functools.cache
def compiled(**settings):
  """Init, update and predict of a learner, compiled once for all tests."""
  learner = make(**settings)
  return base.Learner(*(jax.jit(part) for part in learner[:3]))


def begin(**settings):
  return compiled(**settings).init(KEY, trials())


def members_of(state):
  """The members as rows `[P, 3]`."""
  members = state.rule_state.shared.members
  return np.concatenate([members['x'], members['y']], axis=1)


def point_of(params):
  return np.concatenate([params['x'], params['y']])


def with_members(state, rows):
  members = {'x': jnp.asarray(rows[:, :2]), 'y': jnp.asarray(rows[:, 2:])}
  population = state.rule_state.shared._replace(members=members)
  return state._replace(rule_state=base.RuleState(population, ()))


##############################################################################
# Selection


def test_a_generation_keeps_the_best_in_order():
  """Truth: `sorted` by the squared distance; mean and deviation by NumPy.

  Mutant: the worst kept.
  """
  start = state = begin()
  assert len(np.unique(members_of(start), axis=0)) == 8, 'members are alike'
  for generation in range(3):
    rows = members_of(state)
    losses = np.sum((rows - GOAL) ** 2, axis=1)
    order = np.argsort(losses)
    state, metrics = compiled().update(state, KEY, trials())
    np.testing.assert_array_equal(members_of(state)[:3], rows[order[:3]])
    np.testing.assert_array_equal(point_of(state.params), rows[order[0]])
    assert not np.array_equal(members_of(state)[:3], rows[order[-3:]])
    np.testing.assert_allclose(metrics['loss'], losses.min(), rtol=1e-5)
    np.testing.assert_allclose(metrics['loss_mean'], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics['loss_std'], losses.std(), rtol=1e-4)
    np.testing.assert_allclose(metrics['first'], rows[order[0]][0], rtol=1e-5)
    assert set(metrics) == {'loss', 'loss_mean', 'loss_std', 'first'}
    assert int(state.step) == generation + 1
  chex.assert_trees_all_equal(state.constants, start.constants)


def test_the_start_is_a_draw_of_the_cell_for_each_member():
  """Truth: the cell's own `init`: standard normal here, |z| < 5."""
  state = jax.jit(make(population_size=2000).init)(KEY, trials())
  rows = members_of(state)
  assert abs(rows.mean()) < 5 / math.sqrt(rows.size)
  assert abs(rows.var() - 1) < 5 * math.sqrt(2 / rows.size)
  cell_params, _ = point_cell().init(KEY, jnp.zeros((4, 1)))
  chex.assert_trees_all_equal_shapes_and_dtypes(state.params, cell_params)
  assert np.isinf(state.rule_state.shared.best_loss)


def best_losses(batches, **settings):
  state, found = begin(**settings), []
  for batch in batches:
    state, metrics = compiled(**settings).update(state, KEY, batch)
    found.append(float(metrics['loss']))
  return np.array(found), state


def test_the_best_never_gets_worse_on_fixed_trials_and_noise():
  """Truth: elites stay. Mutants: noise of each member; trials that change."""
  fixed, others = [trials()] * 20, [trials(first=4 * n) for n in range(20)]
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
  loss, metrics = squared_error(outputs, targets, mask)
  x, y = outputs[0, 0], outputs[0, 1]
  loss = jnp.where(x < 0, jnp.nan, jnp.where(y < 0, jnp.inf, loss))
  return loss, metrics


def test_members_without_a_number_are_the_worst():
  """Truth: NumPy over the members that have one; the others never stay.

  Mutant: NaN sorted first.
  """
  settings = {'loss': nan_below_0, 'population_size': 16}
  state, update = begin(**settings), compiled(**settings).update
  rows = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
  rows[:4, :2] = np.abs(
    rows[:4, :2]
  )  # enough that have a number, from the start
  state = with_members(state, rows)
  met = 0
  for _ in range(10):
    rows = members_of(state)
    good = (rows[:, 0] >= 0) & (rows[:, 1] >= 0)
    met += np.sum(rows[:, 0] < 0)
    assert 3 <= good.sum() < 16
    losses = np.sum((rows - GOAL) ** 2, axis=1)[good]
    state, metrics = update(state, KEY, trials())
    np.testing.assert_allclose(metrics['loss'], losses.min(), rtol=1e-5)
    np.testing.assert_allclose(metrics['loss_mean'], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(
      metrics['loss_std'], losses.std(), rtol=1e-4, atol=1e-6
    )
    assert np.all(members_of(state)[:3, :2] >= 0)
    assert np.all(point_of(state.params)[:2] >= 0)
  assert met > 3, 'no NaN was met'
  # One that has a number is enough, wherever it stands.
  rows = np.full((16, 3), -1.0, np.float32)
  rows[7] = 1.0
  state, metrics = update(with_members(state, rows), KEY, trials())
  np.testing.assert_array_equal(point_of(state.params), 1)
  np.testing.assert_array_equal(members_of(state)[0], 1)
  assert np.isfinite(metrics['loss_mean']) and metrics['loss_std'] == 0
  # Where none has, there is nothing to report but that: a loop stops at a NaN.
  rows = np.full((16, 3), -1.0, np.float32)
  after, metrics = update(with_members(state, rows), KEY, trials())
  assert not np.isfinite(metrics['loss'])
  chex.assert_trees_all_equal(after.params, state.params)


##############################################################################
# Mutation

ELITES = GOAL[None] + 100 * np.arange(1, 5, dtype=np.float32)[:, None]


def mutated(**settings):
  """What 4,000 children got on top of which elite: `[C, 3]`, `[C]`."""
  settings = {'population_size': 4004, 'elites': 4, **settings}
  state = begin(**settings)
  # The elites are far from each other, and all others still farther.
  far = np.full((4000, 3), 5000.0, np.float32)
  state = with_members(state, np.concatenate([ELITES, far]))
  state, _ = compiled(**settings).update(state, KEY, trials())
  rows = members_of(state)
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
  state, _ = compiled(std=0.0).update(begin(std=0.0), KEY, trials())
  rows = members_of(state)
  assert {tuple(row) for row in rows} == {tuple(row) for row in rows[:3]}


def test_generations_draw_anew():
  """Truth: another step or another run, other mutations; else the same."""
  found = []
  for key, step in ((KEY, 0), (KEY, 0), (KEY, 1), (jax.random.key(0), 0)):
    state = begin()._replace(step=jnp.int32(step))
    after, _ = compiled().update(state, key, trials())
    found.append(members_of(after)[3:])
  np.testing.assert_array_equal(found[0], found[1])
  assert not np.any(found[0] == found[2])
  assert not np.any(found[0] == found[3])


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_mutants_have_the_types_of_their_parents(dtype):
  """Truth: the state before; a lower precision is the members' own."""
  cell = point_cell(dtype=dtype)
  learner = evolution.evolution(cell, squared_error, std_spread=0.5)
  state = jax.eval_shape(learner.init, KEY, trials())
  after, _ = jax.eval_shape(learner.update, state, KEY, trials())
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


##############################################################################
# Noise


def test_all_members_meet_the_same_noise_or_each_its_own():
  """Truth: equal members in common noise are equal; else their losses spread.

  With common noise the best's loss is that of its predictions under the run's
  key. Mutant: the same members with noise of their own.
  """
  rows = np.tile(GOAL, (8, 1))
  found = {}
  for settings in ({}, {'common_noise': False}):
    learner = compiled(noise=0.5, **settings)
    state = with_members(begin(noise=0.5, **settings), rows)
    state, metrics = learner.update(state, KEY, trials())
    outputs = learner.predict(state, KEY, trials())
    error = np.mean(np.sum((np.asarray(outputs) - GOAL) ** 2, axis=-1))
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
  state = with_members(begin(**settings), np.tile(GOAL, (8, 1)))

  def judged(batch):
    _, metrics = compiled(**settings).update(state, KEY, batch)
    return float(metrics['loss_mean'])

  both = judged(trials(8))
  halves = judged(trials(4)), judged(trials(4, first=4))
  np.testing.assert_allclose(both, np.mean(halves), rtol=1e-5)
  assert abs(halves[0] - halves[1]) > 1e-3


@pytest.mark.parametrize('best_ever', [False, True])
def test_which_member_predicts(best_ever):
  """Truth: the least loss ever in a NumPy record, or the last generation's."""
  settings = {'noise': 2.0, **({'best_ever': True} if best_ever else {})}
  state = begin(**settings)
  record, holder, stayed = np.inf, None, 0
  for generation in range(15):
    batch = trials(first=4 * generation)
    state, metrics = compiled(**settings).update(state, KEY, batch)
    loss, best = float(metrics['loss']), members_of(state)[0]
    if loss < record or not best_ever:
      holder = best
    else:
      stayed += not np.array_equal(best, holder)
    record = min(record, loss)
    np.testing.assert_array_equal(point_of(state.params), holder)
    assert float(state.rule_state.shared.best_loss) == record
  assert (stayed > 2) == best_ever


##############################################################################
# Compilation, devices, errors

FIRSTS = jnp.arange(0, 12, 4)


def generations(learner):
  """Three generations in one compiled scan."""

  def advance(state, first):
    return learner.update(state, KEY, trials(first=first))

  return lambda state: jax.lax.scan(advance, state, FIRSTS)


def devices(count, index=lambda: jax.lax.axis_index('d')):
  return base.Devices(
    count=count,
    index=index,
    mean=functools.partial(jax.lax.pmean, axis_name='d'),
    gather=functools.partial(jax.lax.all_gather, axis_name='d', tiled=True),
  )


def spread(count, handed, **settings):
  """What three generations leave on each of so many devices."""
  learner = make(noise=0.5, devices=handed, **settings)
  start = begin(noise=0.5, **settings)
  copies = jax.tree.map(lambda x: jnp.stack([x] * count), start)
  many = jax.pmap(generations(learner), axis_name='d')(copies)
  many = jax.device_get(many)
  return [jax.tree.map(lambda x, d=d: x[d], many) for d in range(count)]


@pytest.mark.parametrize(
  'count, settings', [(4, {}), (2, {'common_noise': False})]
)
def test_a_population_over_devices_is_one_population(count, settings):
  """Truth: one device, update by update: a scan is the loop, too."""
  state, losses = begin(noise=0.5, **settings), []
  for first in FIRSTS:
    state, metrics = compiled(noise=0.5, **settings).update(
      state, KEY, trials(first=first)
    )
    losses.append(metrics['loss'])
  for each, said in spread(count, devices(count), **settings):
    chex.assert_trees_all_close(each, state, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(said['loss'], losses, rtol=1e-5)
  if count == 2:  # the mutant: both judge the first half
    mutant, _ = spread(count, devices(count, index=lambda: 0), **settings)[0]
    with pytest.raises(AssertionError):
      chex.assert_trees_all_close(mutant, state, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'elites': 8}, r'^elites=8: .*population_size=8'),
    ({'elites': 9}, r'^elites=9'),
    ({'elites': 0}, r'^elites=0'),
    ({'population_size': 1, 'elites': 1}, r'^elites=1'),
    ({'std': -0.1}, r'^std=-0\.1'),
    ({'std': math.nan}, r'^std=nan'),
    ({'std_spread': -1.0}, r'^std_spread=-1\.0'),
    ({'devices': devices(3)}, r'^population_size=8: .* 3 devices'),
  ],
  ids=lambda value: value if isinstance(value, str) else '-'.join(value),
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges; the setting is named."""
  with pytest.raises(ValueError, match=message):
    make(**settings)


def test_the_population_is_what_is_split():
  """Truth: the interface; every device needs all trials."""
  assert make().partition == 'population'


##############################################################################
# Learning

SYMBOLS = 3


class Sizes:
  input_shape = (SYMBOLS + 1,)
  num_outputs = SYMBOLS


def recall(first, batch):
  """Two symbols, then twice a trigger that asks for them, with no lag."""
  index = first + jnp.arange(batch)
  keys = unroll.trial_keys(jax.random.key(1), index)
  shown = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, SYMBOLS))(keys).T
  zeros = jnp.zeros((2, batch))
  trigger = jnp.full((2, batch), SYMBOLS)
  return interfaces.Trials(
    inputs=jax.nn.one_hot(jnp.concatenate([shown, trigger]), SYMBOLS + 1),
    targets=jnp.concatenate([jnp.zeros_like(shown), shown]),
    mask=jnp.concatenate([zeros, zeros + 0.5]),
    index=index,
  )


def cross_entropy(outputs, targets, mask):
  hit = targets[:, None] == jnp.arange(SYMBOLS)[None]
  losses = -jnp.sum(jnp.where(hit, jax.nn.log_softmax(outputs), 0), axis=-1)
  hits = jnp.argmax(outputs, axis=-1) == targets
  return jnp.mean(losses * mask), {'accuracy': jnp.mean(hits * mask)}


def errors(outputs, targets, mask):
  """A step function, which no gradient descends."""
  _, metrics = cross_entropy(outputs, targets, mask)
  return jnp.mean(mask) - metrics['accuracy'], metrics


@pytest.mark.oracle
@pytest.mark.parametrize(
  'loss', [errors, pytest.param(cross_entropy, marks=pytest.mark.slow)]
)
def test_a_gru_learns_to_recall(loss):
  """Truth: half way from chance (1/3) to the ceiling (1) on fresh trials."""
  learner = evolution.evolution(
    cells.gru(Sizes(), hidden=6),
    loss,
    population_size=48,
    elites=8,
    std=0.3,
    std_spread=0.7,
  )
  batch = 64

  @jax.jit
  def learned(key):
    state = learner.init(key, recall(0, batch))

    def advance(state, update):
      return learner.update(state, KEY, recall(update * batch, batch))

    return jax.lax.scan(advance, state, jnp.arange(120))[0]

  fresh = recall(10**6, 500)
  outputs = jax.jit(learner.predict)(learned(KEY), KEY, fresh)
  _, metrics = jax.vmap(cross_entropy)(outputs, fresh.targets, fresh.mask)
  accuracy = float(metrics['accuracy'].sum())
  assert accuracy > (1 / SYMBOLS + 1) / 2, accuracy
