# SPDX-License-Identifier: Apache-2.0
"""OpenES against its closed forms on linear and quadratic losses.

Truth: NumPy from the same draws; the gradient of a quadratic, and of a small
recurrent cell by BPTT, with a z and a standard error; ranks by SciPy; one
device.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from bionet_core import interfaces
from bionet_learners import base, oracles
from bionet_learners.populations import open_es, population
from bionet_learners.reverse import bptt
from tests import small
from tests.learners.populations import points

pytestmark = pytest.mark.oracle

KEY = jax.random.key(4)
GOAL = np.array([0.5, -1.0, 2.0])
BEND = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 3.0]])
SLOPE = np.array([1.0, -2.0, 0.5])


def trials(batch=3):
  return points.trials(batch)


def point_cell(noise=0.0):
  """Says its parameters, and noise that a trial draws."""

  def init(key, inputs):
    del inputs
    draw = jax.random.normal(key, (3,))
    return {'x': draw[:2], 'y': draw[2:]}, {}

  def step(params, constants, state, keys, inputs):
    del constants, inputs
    point = jnp.concatenate([params['x'], params['y']])[None]
    draw = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
    return point + noise * draw, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 1)),
    step,
    lambda params, constants, emission: emission,
  )


def linear(outputs, targets, mask):
  del targets
  return jnp.mean((outputs @ jnp.asarray(SLOPE, outputs.dtype)) * mask), {}


def quadratic(outputs, targets, mask):
  """5 + (x - goal)' A (x - goal) / 2, and what the first output is."""
  error = outputs - targets
  bend = jnp.asarray(BEND, outputs.dtype)
  loss = 5 + jnp.sum((error @ bend) * error, axis=-1) / 2
  return jnp.mean(loss * mask), {'first': jnp.mean(outputs[:, 0] * mask)}


def make(loss=quadratic, noise=0.0, **settings):
  settings = {
    'optimizer': optax.sgd(1.0),
    'population_size': 8,
    'rank_losses': False,
    **settings,
  }
  return open_es.open_es(point_cell(noise), loss, **settings)


def flat(params):
  return np.concatenate([params['x'], params['y']], axis=-1).astype(float)


def started(learner, point=(1.0, 0.3, -0.7)):
  state = jax.jit(learner.init)(KEY, trials())
  point = jnp.asarray(point, jnp.float32)
  return state._replace(params={'x': point[:2], 'y': point[2:]})


def estimate(learner, state):
  """What plain descent at rate 1 subtracts, and the metrics."""
  after, metrics = jax.jit(learner.update)(state, KEY, trials())
  return flat(state.params) - flat(after.params), metrics


def drawn(state, num_pairs):
  """The perturbations xi of a state's next update, `[P / 2, 3]`."""
  key = population.draw_key(KEY, state.step)
  return flat(open_es.draw_pairs(key, state.params, num_pairs))


##############################################################################
# The estimate


def one_sided(ahead, behind, start, xi, std):
  """The mutant: sum of (L(theta + std xi) - L(theta)) xi."""
  del behind
  return (ahead - start) @ xi / (len(xi) * std)


def test_a_linear_loss_gives_the_same_whatever_theta_and_std_are():
  """Truth: mean of xi xi' slope over the very draws, by NumPy."""
  found = []
  for std, point in ((0.1, (0, 0, 0)), (2.0, (1, 2, 3))):
    learner = make(linear, std=std)
    state = started(learner, point)
    xi = drawn(state, 4)
    got, _ = estimate(learner, state)
    np.testing.assert_allclose(got, xi.T @ (xi @ SLOPE) / 4, rtol=1e-4)
    found.append(got)
  np.testing.assert_allclose(*found, rtol=1e-3)
  assert np.linalg.norm(found[0]) > 0.5


def test_a_quadratic_loss_bends_alike_on_both_sides():
  """Truth: mean of xi xi' A (theta - goal), by NumPy; its curvature cancels.

  Mutant: differences from the middle, on one side; these do not cancel.
  """
  learner = make(std=0.8)
  state = started(learner)
  xi, theta = drawn(state, 4), flat(state.params)
  exact = xi.T @ (xi @ BEND @ (theta - GOAL)) / 4
  got, metrics = estimate(learner, state)
  np.testing.assert_allclose(got, exact, rtol=1e-4)

  def loss(points):
    error = points - GOAL
    return 5 + np.sum((error @ BEND) * error, axis=-1) / 2

  ahead, behind = loss(theta + 0.8 * xi), loss(theta - 0.8 * xi)
  mutant = one_sided(ahead, behind, loss(theta), xi, 0.8)
  assert np.linalg.norm(mutant - exact) > 0.1 * np.linalg.norm(exact)
  both = np.concatenate([ahead, behind])
  np.testing.assert_allclose(metrics['loss'], both.mean(), rtol=1e-5)
  np.testing.assert_allclose(metrics['loss_std'], both.std(), rtol=1e-4)
  np.testing.assert_allclose(metrics['first'], theta[0], rtol=1e-5)
  for name in ('gradient_norm', 'update_norm'):
    np.testing.assert_allclose(metrics[name], np.linalg.norm(got), rtol=1e-5)


def many(learner, state, data, count):
  """Estimates of so many updates from the same parameters."""

  @jax.jit
  def all_of(steps):
    after = jax.vmap(
      lambda step: learner.update(state._replace(step=step), KEY, data)[0]
    )(steps)
    return jax.tree.map(lambda p, q: p[None] - q, state.params, after.params)

  return all_of(jnp.arange(count))


def test_on_average_it_is_the_gradient_of_a_quadratic():
  """Truth: A (theta - goal) for any std: |z| < 3.5 along 8 directions.

  1,024 estimates of 64 pairs, standard error below 1 %. Mutant: the factor 2 of
  the pairs forgotten.
  """
  learner = make(std=0.8, population_size=128)
  state = started(learner)
  got = many(learner, state, trials(), 1024)
  exact = BEND @ (flat(state.params) - GOAL)
  reference = {'x': jnp.asarray(exact[:2]), 'y': jnp.asarray(exact[2:])}
  reference = jax.tree.map(lambda x: x.astype(jnp.float32), reference)
  test = oracles.bias(got, reference, KEY)
  assert np.max(np.abs(test.z)) < 3.5 and test.standard_error < 0.01
  twice = jax.tree.map(lambda x: 2 * x, got)
  assert np.max(np.abs(oracles.bias(twice, reference, KEY).z)) > 20


def recurrent_cell():
  """H <- tanh(h u + x w), read out linearly."""

  def init(key, inputs):
    sizes = {'w': (inputs.shape[-1], 2), 'u': (2, 2), 'v': (2, 1)}
    keys = jax.random.split(key, 3)
    return {
      n: jax.random.normal(k, s) / 2
      for k, (n, s) in zip(keys, sizes.items(), strict=True)
    }, {}

  def step(params, constants, state, keys, inputs):
    del constants, keys
    state = jnp.tanh(state @ params['u'] + inputs @ params['w'])
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 2)),
    step,
    lambda params, constants, emission: emission @ params['v'],
  )


def test_on_average_it_is_the_gradient_through_time():
  """Truth: BPTT over 6 steps, the target at the last; each group of weights.

  The smoothing, of order std^2, is far below the standard error. Mutant: BPTT
  of another window (the last 2 steps alone).
  """
  rng = np.random.default_rng(0)
  mask = np.zeros((6, 2), np.float32)
  mask[-1] = 1
  data = interfaces.Trials(
    inputs=jnp.asarray(rng.normal(size=(6, 2, 2)), jnp.float32),
    targets=jnp.ones((6, 2, 1)) * 2,
    mask=jnp.asarray(mask),
    index=jnp.arange(2),
  )
  cell = recurrent_cell()
  learner = open_es.open_es(
    cell,
    small.squared_error,
    optimizer=optax.sgd(1.0),
    population_size=256,
    std=0.02,
    rank_losses=False,
  )
  state = jax.jit(learner.init)(KEY, data)
  got = many(learner, state, data, 2048)
  rule = bptt.bptt(cell, small.squared_error)

  def gradient(data):
    memory = rule.init(KEY, state.params, {}, data)
    return rule.estimate(state.params, {}, memory, KEY, data)[0].gradient

  reference, short = gradient(data), gradient(last_steps(data))
  for name in reference:
    test = oracles.bias({name: got[name]}, {name: reference[name]}, KEY)
    assert oracles.norm(reference[name]) > 0.1
    assert np.max(np.abs(test.z)) < 3.5 and test.standard_error < 0.03, name
    wrong = oracles.bias({name: got[name]}, {name: short[name]}, KEY)
    assert np.max(np.abs(wrong.z)) > 5


def last_steps(data):
  return interfaces.Trials(
    inputs=data.inputs[-2:],
    targets=data.targets[-2:],
    mask=data.mask[-2:],
    index=data.index,
  )


##############################################################################
# Ranks, and members without a number


def test_ranks_are_centred_and_equal_for_equals():
  """Truth: SciPy's mean ranks. Mutant: order of arrival among equals."""
  losses = np.array([3.0, 1.0, 1.0, 7.0, 1.0, np.inf, 3.0, np.inf])
  expected = (stats.rankdata(losses) - 1) / 7 - 0.5
  got = open_es.centred_ranks(jnp.asarray(losses, jnp.float32))
  np.testing.assert_allclose(got, expected, atol=1e-6)
  arrival = np.argsort(np.argsort(losses, kind='stable')) / 7 - 0.5
  assert not np.allclose(got, arrival)
  np.testing.assert_array_equal(open_es.centred_ranks(jnp.ones(6)), 0)


def test_ranked_losses_know_no_scale():
  """Truth: NumPy with SciPy's ranks of the same members; exp(L) ranks alike."""

  def stretched(outputs, targets, mask):
    loss, metrics = quadratic(outputs, targets, mask)
    return jnp.exp(loss / 4), metrics

  found = []
  for loss in (quadratic, stretched):
    learner = make(loss, std=0.3, rank_losses=True)
    state = started(learner)
    found.append(estimate(learner, state)[0])
  xi, theta = drawn(state, 4), flat(state.params)
  points = theta + 0.3 * np.concatenate([xi, -xi]) - GOAL
  ranks = (stats.rankdata(np.sum((points @ BEND) * points, 1)) - 1) / 7 - 0.5
  exact = (ranks[:4] - ranks[4:]) @ xi / (8 * 0.3)
  np.testing.assert_allclose(found[0], exact, rtol=1e-4)
  np.testing.assert_array_equal(found[0], found[1])


def nan_above(limit):
  def loss(outputs, targets, mask):
    value, metrics = quadratic(outputs, targets, mask)
    return jnp.where(outputs[0, 0] > limit, jnp.nan, value), metrics

  return loss


@pytest.mark.parametrize('rank_losses', [False, True])
def test_members_without_a_number_do_not_reach_the_parameters(rank_losses):
  """Truth: NumPy, where a member without a number has the worst finite loss.

  Mutant: such a member is worse than that, by a rank.
  """
  learner = make(nan_above(1.1), std=0.3, rank_losses=rank_losses)
  state = started(learner)
  xi, theta = drawn(state, 4), flat(state.params)
  points = theta + 0.3 * np.concatenate([xi, -xi])
  good = points[:, 0] <= 1.1
  assert 0 < good.sum() < 8 and (good[:4] & good[4:]).any()
  heights = 5 + np.sum(((points - GOAL) @ BEND) * (points - GOAL), 1) / 2
  mean = heights[good].mean()

  def exact(heights):
    if rank_losses:
      heights = (stats.rankdata(heights) - 1) / 7 - 0.5
    return (heights[:4] - heights[4:]) @ xi / (2 * 0.3 * 4)

  got, metrics = estimate(learner, state)
  worst = exact(np.where(good, heights, heights[good].max()))
  np.testing.assert_allclose(got, worst, rtol=1e-4, atol=1e-6)
  if rank_losses:
    assert not np.allclose(got, exact(np.where(good, heights, 1e9)))
  np.testing.assert_allclose(metrics['loss'], mean, rtol=1e-5)


@pytest.mark.parametrize('rank_losses', [False, True])
def test_where_no_member_has_a_number_nothing_moves(rank_losses):
  """Truth: the parameters before; the loss says NaN, at which a loop stops."""
  learner = make(nan_above(-1e9), rank_losses=rank_losses)
  got, metrics = estimate(learner, started(learner))
  np.testing.assert_array_equal(got, 0)
  assert np.isnan(metrics['loss'])


##############################################################################
# Noise, the optimizer, devices, errors


def test_a_pair_shares_its_noise(monkeypatch):
  """Truth: in a linear loss the noise of a pair cancels: the noiseless answer.

  Mutant: noise of each member, which does not.
  """
  quiet = estimate(make(linear), started(make(linear)))[0]
  learner = make(linear, noise=1.0, common_noise=False)
  got, metrics = estimate(learner, started(learner))
  np.testing.assert_allclose(got, quiet, rtol=1e-3)
  assert metrics['loss_std'] > 0.3, 'pairs meet the same noise'
  common = make(linear, noise=1.0)
  _, metrics = estimate(common, started(common))
  assert metrics['loss_std'] < 0.6

  real = population.make_judge
  monkeypatch.setattr(
    open_es.population,
    'make_judge',
    lambda *args, num_noises, **kwargs: real(*args, **kwargs),
  )
  mutant = make(linear, noise=1.0, common_noise=False)
  got, _ = estimate(mutant, started(mutant))
  assert np.linalg.norm(got - quiet) > 1


def test_updates_draw_anew_and_the_optimizer_steps():
  """Truth: optax, fed with the estimates that plain descent shows."""
  optimizer = optax.adam(0.1)
  learner, plain = make(optimizer=optimizer), make()
  state = started(learner)
  expected, memory = state.params, optimizer.init(state.params)
  update, see, seen = jax.jit(learner.update), jax.jit(plain.update), []
  for step in range(3):
    shown = started(plain)._replace(params=expected, step=jnp.int32(step))
    gradient = jax.tree.map(
      lambda p, q: p - q, expected, see(shown, KEY, trials())[0].params
    )
    seen.append(flat(gradient))
    change, memory = optimizer.update(gradient, memory, expected)
    expected = optax.apply_updates(expected, change)
    state, _ = update(state, KEY, trials())
    chex.assert_trees_all_close(state.params, expected, rtol=1e-3, atol=1e-4)
  assert not np.any(drawn(state, 4) == drawn(state._replace(step=0), 4))


def test_it_descends():
  """Truth: the minimum of the quadratic, within what the noise leaves."""
  learner = make(
    optimizer=optax.adam(0.1), population_size=32, rank_losses=True
  )

  @jax.jit
  def run(state):
    return jax.lax.scan(
      lambda state, _: learner.update(state, KEY, trials()), state, None, 150
    )[0]

  np.testing.assert_allclose(
    flat(run(started(learner)).params), GOAL, atol=0.15
  )


def devices(count, index=lambda: jax.lax.axis_index('d')):
  return base.Devices(
    count=count,
    index=index,
    mean=functools.partial(jax.lax.pmean, axis_name='d'),
    gather=functools.partial(jax.lax.all_gather, axis_name='d', tiled=True),
  )


@pytest.mark.parametrize(
  'count, common_noise', [(4, True), (2, False)], ids=['common', 'own']
)
def test_a_population_over_devices_is_one_population(count, common_noise):
  """Truth: one device. Mutant: all judge the first members."""
  settings = {'noise': 0.5, 'common_noise': common_noise}
  one = make(**settings)
  start = started(one)
  state, metrics = jax.jit(one.update)(start, KEY, trials())

  def spread(handed):
    copies = jax.tree.map(lambda x: jnp.stack([x] * count), start)
    update = make(devices=handed, **settings).update
    return jax.pmap(lambda s: update(s, KEY, trials()), axis_name='d')(copies)

  many_, said = spread(devices(count))
  for d in range(count):
    each = jax.tree.map(lambda x, d=d: x[d], many_)
    chex.assert_trees_all_close(each, state, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(said['loss'][d], metrics['loss'], rtol=1e-5)
  mutant, _ = spread(devices(count, index=lambda: 0))
  assert np.abs(mutant.params['x'][0] - state.params['x']).max() > 1e-3


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'population_size': 7}, r'^population_size=7'),
    ({'population_size': 0}, r'^population_size=0'),
    ({'std': 0.0}, r'^std=0\.0'),
    ({'std': math.nan}, r'^std=nan'),
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
