# SPDX-License-Identifier: Apache-2.0
"""The tissue, against its formula and the closed forms of a linear SDE.

Truth: loops over neighbours and one step in NumPy; mean, variance and strong
order of an Ornstein-Uhlenbeck process; the source's utilities of two known
rates; the contract. `CELLS_TESTED` is read by `coverage_test`.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import (
  CELLS,
  information,
  interfaces,
  plugins,
  testing,
  unroll,
)
from bionet_core.cells import lattice, tissue

KEY = jax.random.key(6)


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (2,)
  num_outputs: int = 4


CELLS_TESTED = {'tissue': {'hidden': (3,)}}
PINNED = {'hidden': (3, 2), 'pinned': True, 'bound': 2.0, 'centred': False}


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
  testing.check_cell(make(**settings), inputs)


@pytest.mark.slow
def test_a_cell_with_nothing_to_learn_keeps_the_contract():
  """Truth: the laws of bionet_core.testing."""
  inputs = jnp.array([[0.01, 0.1], [0.02, 0.3]])
  testing.check_cell(fixed(lateral_inhibition, 3), inputs)


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
KEYS = unroll.trial_keys(KEY, jnp.arange(2))
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
  cell = fixed(lateral_inhibition, 4)
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

  cell = fixed(lateral_inhibition, 4, means=ring)
  _, after = cell.step({}, {}, STATE, KEYS, STEP_INPUTS)
  state = np.asarray(STATE, float)
  means = (np.roll(state, 1, -1) + np.roll(state, -1, -1)) / 2
  np.testing.assert_allclose(after, formula(state, means), atol=1e-6)


def test_pinned_ends_are_0_from_the_start_and_are_read_as_such():
  """Truth: the formula with the ends at 0; mutant: ends that are free."""
  cell = fixed(lateral_inhibition, 4, pinned=True)
  state = cell.initial_state({}, KEYS)
  free = np.array([0, 1, 1, 0])
  np.testing.assert_array_equal(np.asarray(state) != 0, [free, free])
  means = np.array([looped_means(s) for s in np.asarray(state, float)])
  wanted = formula(np.asarray(state, float), means, free)
  _, after = cell.step({}, {}, state, KEYS, STEP_INPUTS)
  np.testing.assert_allclose(after, wanted, atol=1e-6)
  _, loose = fixed(lateral_inhibition, 4).step({}, {}, state, KEYS, STEP_INPUTS)
  assert not np.allclose(loose, wanted, atol=1e-3)


def run(cell, params, num_steps, batch, key=KEY, **settings):
  """All states `[T, B, N]`."""
  predict = jax.jit(unroll.model_from_cell(cell).predict)
  return predict(params, {}, key, trials(num_steps, batch, **settings))


@pytest.mark.parametrize('pinned', [False, True])
def test_states_stay_within_0_and_1(pinned):
  """Truth: the clip, under noise that goes far beyond it."""
  cell = fixed(lambda m: 50 * (m - 0.5), 4, pinned=pinned, spread=0.5)
  states = np.asarray(run(cell, {}, 50, 20, dt=0.1, sigma=3.0))
  assert states.min() == 0 and states.max() == 1
  ends = states[..., [0, -1]]
  assert np.any(ends) != pinned


def test_initial_states_are_uniform_about_the_middle():
  """Truth: mean and variance of U(.5 - spread, .5 + spread), |z| < 5."""
  keys = unroll.trial_keys(KEY, jnp.arange(2000))
  for spread in (0.1, 0.5):
    states = np.asarray(
      fixed(lateral_inhibition, 4, spread=spread).initial_state({}, keys), float
    )
    assert np.abs(states - 0.5).max() <= spread + 1e-6
    root = math.sqrt(states.size)
    assert abs(states.mean() - 0.5) < 5 * spread / math.sqrt(3) / root
    # Var[(x - .5)^2] = spread^4 (1/5 - 1/9)
    error = spread**2 * math.sqrt(4 / 45) / root
    assert abs(np.mean((states - 0.5) ** 2) - spread**2 / 3) < 5 * error
    assert len(np.unique(states[:, 0])) > 1900, 'trials are alike'
  still = fixed(lateral_inhibition, 4, spread=0.0).initial_state({}, keys)
  np.testing.assert_array_equal(still, 0.5)


##############################################################################
# The stochastic differential equation

RELAX, NOISE, START, END = 2.0, 0.1, 0.7, 1.0


def relaxing(means):
  """Of a single cell, its own mean: dX = -k (X - .5) dt + sigma dW."""
  return -RELAX * (means - 0.5)


@pytest.mark.parametrize('dt', [0.01, 0.04])
def test_noise_grows_with_the_root_of_the_time_step(dt):
  """Truth: variance sigma^2 dt after one step, |z| < 5. Mutant: by dt."""
  cell, batch = fixed(lambda m: 0 * m, 5), 4000
  keys = unroll.trial_keys(KEY, jnp.arange(batch))
  state = jnp.full((batch, 5), 0.5)
  _, after = cell.step({}, {}, state, keys, row(dt, NOISE, batch))
  moved = np.asarray(after, float) - 0.5
  assert np.abs(moved).max() < 0.5, 'the clip acts'
  variance, size = NOISE**2 * dt, moved.size
  error = variance * math.sqrt(2 / (size - 1))
  assert abs(moved.mean()) < 5 * math.sqrt(variance / size)
  assert abs(moved.var(ddof=1) - variance) < 5 * error
  assert abs(moved.var(ddof=1) - (NOISE * dt) ** 2) > 5 * error
  between = np.corrcoef(moved.T) - np.eye(5)  # each cell has its own noise
  assert np.abs(between).max() < 5 / math.sqrt(batch)


def test_mean_and_variance_of_a_linear_sde():
  """Truth: the scheme's closed form, |z| < 5, and the equation's, to O(dt).

  mean = .5 + (1 - k dt)^n (x - .5)    -> .5 + exp(-k t) (x - .5)
  var = sigma^2 dt sum_j (1 - k dt)^2j -> sigma^2 (1 - exp(-2 k t)) / (2 k)
  """
  dt, batch = 0.02, 4000
  num_steps = round(END / dt)
  cell = fixed(relaxing, 1)

  def last(outputs, targets, mask):
    scores = {'mean': outputs[:, 0], 'square': (outputs[:, 0] - 0.5) ** 2}
    return jnp.mean(mask), jax.tree.map(lambda x: x * mask, scores)

  _, (_, state) = jax.jit(functools.partial(unroll.unroll, cell, last))(
    {},
    {},
    jnp.full((batch, 1), START),
    unroll.trial_keys(KEY, jnp.arange(batch)),
    jnp.zeros(batch, int),
    trials(num_steps, batch, dt, NOISE),
  )
  ends = np.asarray(state, float)[:, 0]
  assert 0 < ends.min() and ends.max() < 1, 'the clip acts'
  decay = 1 - RELAX * dt
  mean = 0.5 + decay**num_steps * (START - 0.5)
  variance = NOISE**2 * dt * sum(decay ** (2 * j) for j in range(num_steps))
  mean_error = math.sqrt(variance / batch)
  variance_error = variance * math.sqrt(2 / (batch - 1))
  assert abs(ends.mean() - mean) < 5 * mean_error
  assert abs(ends.var(ddof=1) - variance) < 5 * variance_error
  exact_mean = 0.5 + math.exp(-RELAX * END) * (START - 0.5)
  exact = NOISE**2 * (1 - math.exp(-2 * RELAX * END)) / (2 * RELAX)
  bias = RELAX * dt
  assert abs(ends.mean() - exact_mean) < 5 * mean_error + bias * exact_mean
  assert abs(ends.var() - exact) < 5 * variance_error + bias * exact
  assert abs(ends.var() - variance / dt) > 5 * variance_error


def brownian(num_paths, num_steps, seed=0):
  """Increments of Brownian paths, and the exact solution on each.

  Over a step h, dW and I = int exp(-k (h - s)) dW_s are jointly Gaussian:
  Var dW = h, Var I = (1 - exp(-2 k h)) / (2 k), Cov = (1 - exp(-k h)) / k; and
  X(t + h) = .5 + exp(-k h) (X(t) - .5) + sigma I.
  """
  h = END / num_steps
  covariance = (1 - math.exp(-RELAX * h)) / RELAX
  cross = (1 - math.exp(-2 * RELAX * h)) / (2 * RELAX)
  pairs = np.random.default_rng(seed).multivariate_normal(
    [0, 0], [[h, covariance], [covariance, cross]], (num_steps, num_paths)
  )
  exact = np.full(num_paths, START)
  for integral in pairs[..., 1]:
    exact = 0.5 + math.exp(-RELAX * h) * (exact - 0.5) + NOISE * integral
  return pairs[..., 0], exact


def test_the_strong_order_is_1(monkeypatch):
  """Truth: the exact solution for the same Brownian path; additive noise.

  The path of the finest step is coarsened, and the cell reads its increments
  for its noise. Mutant: noise by dt, which converges to another process.
  """
  finest, paths = 128, 300
  increments, exact = brownian(paths, finest)

  def end(num_steps, mutant=False):
    dt = END / num_steps
    table = increments.reshape(num_steps, -1, paths).sum(axis=1) / math.sqrt(dt)
    table = jnp.asarray(table)

    def handed(key, shape):
      trial, step = jax.random.key_data(key)
      return jnp.broadcast_to(table[step, trial], shape)

    monkeypatch.setattr(jax.random, 'normal', handed)
    sigma = NOISE * math.sqrt(dt) if mutant else NOISE
    cell = fixed(relaxing, 1, remat=False)  # anew: traces are kept

    def advance(state, step):
      numbers = jnp.arange(paths, dtype=jnp.uint32)
      keys = jnp.stack([numbers, jnp.full_like(numbers, step)], axis=1)
      keys = jax.random.wrap_key_data(keys, impl='threefry2x32')
      return cell.step({}, {}, state, keys, row(dt, sigma, paths))

    steps = jnp.arange(num_steps, dtype=jnp.uint32)

    @jax.jit
    def whole(state):
      return jax.lax.scan(lambda s, t: advance(s, t)[::-1], state, steps)

    return np.asarray(whole(jnp.full((paths, 1), START))[0])[:, 0]

  def order(mutant):
    numbers = [8, 16, 32, 64, 128]
    errors = [np.mean(np.abs(end(n, mutant) - exact)) for n in numbers]
    return -np.polyfit(np.log(numbers), np.log(errors), 1)[0], errors

  with jax.enable_x64(True):
    slope, errors = order(mutant=False)
    assert 0.85 < slope < 1.15, errors
    assert errors[-1] < 1e-2 * NOISE
    slope, errors = order(mutant=True)
    assert slope < 0.3, errors


##############################################################################
# Known rates, and networks as rates


def check_known_rates(num_replicates, tolerance):
  """Both reference rates at T 10 and dt .01: their U, and their patterns."""
  rate = tissue.Rate(
    lambda key: {'sign': jnp.ones(())},
    lambda params, means: params['sign'] * jnp.tanh(5 * (means - 0.5)),
  )
  cell = tissue.cell_from_rate(rate, 7)
  batch = trials(1000, num_replicates)

  @jax.jit
  def end(params):
    return unroll.model_from_cell(cell).predict(params, {}, KEY, batch)[-1]

  for sign, wanted, patterns in (
    (-1.0, 0.615, {'0101010', '1010101'}),
    (1.0, 0.618, {'0000000', '1111111'}),
  ):
    states = end({'sign': jnp.asarray(sign)})
    utility = float(information.hard_utility(states).utility)
    assert abs(utility - wanted) < tolerance, (sign, utility)
    frequent = information.most_frequent_patterns(np.asarray(states) >= 0.5, 2)
    assert {pattern for pattern, _ in frequent} == patterns


def test_lateral_inhibition_and_consensus_score_alike():
  """Truth: the source's .615 and .618; few replicates add up to .02 of bias."""
  check_known_rates(800, 0.04)


@pytest.mark.slow
def test_lateral_inhibition_and_consensus_score_alike_at_full_size():
  """Truth: the source's .615 and .618 at 3,000 replicates."""
  check_known_rates(3000, 0.02)


@functools.cache
def curves(centred):
  """`f` over [0, 1] of 200 networks."""
  rate = tissue.regulatory_network(centred=centred)
  means = jnp.linspace(0, 1, 101)
  keys = jax.random.split(KEY, 200)
  return np.asarray(
    jax.jit(jax.vmap(lambda key: rate.apply(rate.init(key), means)))(keys)
  )


def test_a_centred_input_gives_both_signs_and_another_does_not():
  """Truth: counted over 200 initialisations."""
  both = {}
  for centred in (True, False):
    least, most = curves(centred).min(axis=1), curves(centred).max(axis=1)
    both[centred] = np.mean((least < 0) & (most > 0))
  assert both[True] > 0.9
  assert both[False] < 0.1
  assert np.all(np.ptp(curves(False), axis=1) > 0)


def test_the_network_is_its_formula():
  """Truth: the layers in NumPy; the bound around them."""
  means = np.random.default_rng(0).uniform(size=(2, 5))
  for centred in (True, False):
    params = tissue.regulatory_network((3, 2), centred=centred).init(KEY)
    # Biases start at 0, where a wrong one would not be seen.
    params = jax.tree.map(lambda leaf: 3 * leaf + 0.1, params)
    x = (2 * (means - 0.5) if centred else means)[..., None]
    layers = [params[f'rate/~/linear_{i}'] for i in range(3)]
    for i, layer in enumerate(layers):
      x = x @ np.asarray(layer['w'], float) + np.asarray(layer['b'])
      x = np.tanh(x) if i < 2 else x
    wanted = x[..., 0]
    for bound in (0.0, 0.5, 40.0):
      rate = tissue.regulatory_network((3, 2), centred=centred, bound=bound)
      got = rate.apply(params, jnp.asarray(means, jnp.float32))
      bounded = bound * np.tanh(wanted / bound) if bound else wanted
      np.testing.assert_allclose(got, bounded, atol=1e-5)


def test_the_bound_holds():
  """Truth: |f| <= bound, reached by weights far beyond it."""
  rate = tissue.regulatory_network((4,), bound=2.5)
  params = jax.tree.map(lambda leaf: 100 * leaf, rate.init(KEY))
  found = np.abs(rate.apply(params, jnp.linspace(0, 1, 50)))
  assert found.max() <= 2.5
  assert found.max() > 2.49
  assert np.max(np.abs(curves(True))) < 40


@pytest.mark.parametrize('centred', [True, False])
def test_a_rich_start_is_drawn_as_said(centred):
  """Truth: the moments of N(0, 5^2) and U(0, 1); y of mean 0 and std 16.

  4,000 units: four standard errors. Mutant: Haiku's own slopes.
  """
  settings = {'centred': centred, 'steepness': 5.0, 'output_std': 16.0}
  keys = jax.random.split(KEY, 500)
  found = {}
  for name, rate in (
    ('rich', tissue.regulatory_network(**settings)),
    ('plain', tissue.regulatory_network(centred=centred)),
  ):
    params = jax.jit(jax.vmap(rate.init))(keys)
    w = np.asarray(params['rate/~/linear_0']['w'])[:, 0]
    b = np.asarray(params['rate/~/linear_0']['b'])
    found[name] = (2 * w if centred else w), -b / w
    if name == 'rich':
      y = jax.vmap(rate.apply, (0, None))(params, jnp.linspace(0, 1, 65))
      np.testing.assert_allclose(np.mean(y, axis=1), 0, atol=1e-3)
      np.testing.assert_allclose(np.std(y, axis=1), 16, rtol=1e-3)
  slopes, switches = found['rich']
  switches = (switches + 1) / 2 if centred else switches
  error = 1 / math.sqrt(slopes.size)
  assert abs(slopes.std() / 5 - 1) < 4 * error / math.sqrt(2)
  assert abs(slopes.mean()) < 4 * 5 * error
  assert switches.min() > -1e-4 and switches.max() < 1 + 1e-4
  assert abs(switches.mean() - 0.5) < 4 * error / math.sqrt(12)
  assert abs(switches.std() * math.sqrt(12) - 1) < 4 * error
  assert found['plain'][0].std() < 3


def test_between_the_knots_the_rate_is_linear():
  """Truth: `np.interp` of the network at the knots; its slope in m."""
  plain = tissue.regulatory_network((4,), bound=8.0, output_std=16.0)
  knotted = tissue.regulatory_network((4,), bound=8.0, output_std=16.0, knots=5)
  params = plain.init(KEY)
  means = np.random.default_rng(0).uniform(size=(3, 7)).astype(np.float32)
  at = np.linspace(0, 1, 6)
  values = np.asarray(plain.apply(params, jnp.asarray(at)))
  wanted = np.interp(means, at, values)
  np.testing.assert_allclose(knotted.apply(params, means), wanted, atol=1e-4)
  slope = jax.vmap(jax.grad(lambda m: knotted.apply(params, m)))
  inside = jnp.asarray((at[1:] + at[:-1]) / 2)
  np.testing.assert_allclose(slope(inside), np.diff(values) * 5, rtol=1e-3)
  assert np.abs(plain.apply(params, means) - wanted).max() > 0.01


def test_the_parts_of_the_factory_fit_together():
  """Truth: `cell_from_rate` of the network with the same settings."""
  spec = Sizes(num_outputs=5)
  settings = {'hidden': (3,), 'centred': False, 'bound': 2.0}
  ours = tissue.tissue(spec, pinned=True, spread=0.3, **settings)
  rate = tissue.regulatory_network(**settings)
  theirs = tissue.cell_from_rate(rate, 5, pinned=True, spread=0.3)
  params, constants = ours.init(KEY, row(0.01, 0.1, 3))
  assert constants == {}
  np.testing.assert_array_equal(
    run(ours, params, 4, 3), run(theirs, params, 4, 3)
  )
  assert run(ours, params, 4, 3).shape == (4, 3, 5)


@pytest.mark.parametrize(
  'factory, message',
  [
    (lambda: make(hidden=()), r'^hidden=\(\)'),
    (lambda: make(hidden=(4, 0)), r'^hidden=\(4, 0\)'),
    (lambda: make(bound=-1.0), r'^bound=-1\.0'),
    (lambda: make(bound=math.nan), r'^bound=nan'),
    (lambda: make(steepness=-1.0), r'^steepness=-1\.0'),
    (lambda: make(output_std=math.nan), r'^output_std=nan'),
    (lambda: make(knots=-1), r'^knots=-1'),
    (lambda: make(spread=-0.1), r'^spread=-0\.1'),
    (lambda: make(spread=0.6), r'^spread=0\.6'),
    (lambda: make(spread=math.nan), r'^spread=nan'),
    (lambda: fixed(lateral_inhibition, 0), r'^num_cells=0: '),
    (
      lambda: fixed(lateral_inhibition, 2, pinned=True),
      r'^pinned=True: .* of 2 none',
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
    make().init(KEY, jnp.zeros(shape))


##############################################################################
# The gradient


def gradients(num_steps, batch, num_cells, hidden):
  """The gradient of the exact utility through whole trials, and its memory.

  Returns:
    `{remat: gradient}` and `{remat: MiB}`, the compiled program's own report.
  """
  rate = tissue.regulatory_network(hidden)
  params = rate.init(jax.random.key(2))
  data = trials(num_steps, batch)

  def loss(outputs, targets, mask):
    del targets
    return -information.exact_soft_utility(outputs).utility * jnp.mean(mask), {}

  def objective(params, remat):
    cell = tissue.cell_from_rate(rate, num_cells, remat=remat)
    state = unroll.initial_state(cell, {}, KEY, data.index)
    keys, steps = unroll.trial_keys(KEY, data.index), jnp.zeros(batch, int)
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
