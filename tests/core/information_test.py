# SPDX-License-Identifier: Apache-2.0
"""The utility of patterns, against enumeration written out in NumPy.

Truth: dictionaries of patterns, products of Bernoullis over all patterns and
kernels pair by pair, in loops; entropies by hand; simulations with a z.
"""

import collections
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import information

SIZES = [(1, 4), (2, 2), (3, 9), (7, 40)]
TOLERANCE = 1e-9  # in float64
MUTANTS = ('nats', 'whole pattern', 'mean of entropies')


def entropy(shares, mutant=None):
  shares = np.asarray([p for p in shares if p > 0], float)
  log = np.log if mutant == 'nats' else np.log2
  return float(-np.sum(shares * log(shares)))


def pooled(fates, mutant=None):
  """Entropy of the fate of a random cell of a random replicate."""
  if mutant == 'mean of entropies':  # of each cell's own
    return np.mean([entropy([p, 1 - p]) for p in fates.mean(axis=0)])
  return entropy([fates.mean(), 1 - fates.mean()], mutant)


def a_cell(pattern_entropy, num_cells, mutant=None):
  return pattern_entropy / (1 if mutant == 'whole pattern' else num_cells)


def hard_truth(states, threshold=0.5, miller_madow=False, mutant=None):
  """U, S_pat, S_rep from a dictionary of the patterns seen."""
  seen = collections.Counter()
  for replicate in states:
    seen[''.join('1' if s >= threshold else '0' for s in replicate)] += 1
  num_replicates, num_cells = states.shape
  fates = np.asarray(states) >= threshold
  s_pat = pooled(fates.astype(float), mutant)
  s_rep = entropy([n / num_replicates for n in seen.values()], mutant)
  if miller_madow:
    s_rep += (len(seen) - 1) / (2 * num_replicates * math.log(2))
    different = len(set(fates.ravel().tolist()))
    s_pat += (different - 1) / (2 * fates.size * math.log(2))
  s_rep = a_cell(s_rep, num_cells, mutant)
  return s_pat - s_rep, s_pat, s_rep


def graded(states, temperature):
  return 1 / (1 + np.exp(-(states - 0.5) / temperature))


def soft_truth(fates, bandwidth, mutant=None):
  """The same from fates and a kernel, pair by pair, self included."""
  num_replicates, num_cells = fates.shape
  log = np.log if mutant == 'nats' else np.log2
  logs = []
  for one in fates:
    density = 0.0
    for other in fates:
      squared = sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
      density += math.exp(-squared / (2 * bandwidth**2)) / num_replicates
    logs.append(log(density))
  s_rep = a_cell(-np.mean(logs), num_cells, mutant)
  s_pat = pooled(fates, mutant)
  return s_pat - s_rep, s_pat, s_rep


def exact_truth(fates, mutant=None):
  """The same from fates and all patterns, Bernoulli by Bernoulli."""
  num_cells = fates.shape[1]
  shares = []
  for pattern in itertools.product((0, 1), repeat=num_cells):
    odds = np.where(np.asarray(pattern) == 1, fates, 1 - fates)
    shares.append(np.mean(np.prod(odds, axis=1)))
  s_rep = a_cell(entropy(shares, mutant), num_cells, mutant)
  s_pat = pooled(fates, mutant)
  return s_pat - s_rep, s_pat, s_rep


def population(num_cells, num_replicates, seed=0):
  """States of replicates around few prototypes: some patterns come again."""
  rng = np.random.default_rng([seed, num_cells, num_replicates])
  prototypes = rng.uniform(size=(3, num_cells))
  which = rng.integers(0, 3, num_replicates)
  noise = rng.normal(0, 0.15, (num_replicates, num_cells))
  states = np.clip(prototypes[which] + noise, 0, 1)
  return np.where(np.abs(states - 0.5) < 0.02, states + 0.05, states)


@functools.cache
def compiled(utility, **settings):
  return jax.jit(functools.partial(utility, **settings))


def exactly(utility, states, **settings):
  """A utility in float64, `(U, S_pat, S_rep)`."""
  with jax.enable_x64(True):
    found = compiled(utility, **settings)(jnp.asarray(states, float))
    return tuple(float(x) for x in found)


##############################################################################
# Against enumeration


@pytest.mark.parametrize('num_cells, num_replicates', [*SIZES, (30, 25)])
def test_the_hard_utility_counts_patterns(num_cells, num_replicates):
  """Truth: a dictionary. Mutants: nats; S_rep not a cell; S_pat not pooled."""
  large = num_cells > 2
  others = ({'threshold': 0.4}, {'miller_madow': True}) if large else ()
  for settings in ({}, *others):
    for seed in range(5):
      states = population(num_cells, num_replicates, seed)
      got = exactly(information.hard_utility, states, **settings)
      wanted = hard_truth(states, **settings)
      np.testing.assert_allclose(got, wanted, atol=TOLERANCE)
  if large:
    got = exactly(information.hard_utility, states)
    for mutant in MUTANTS:
      wrong = hard_truth(states, mutant=mutant)
      assert not np.allclose(got, wrong, atol=1e-3), mutant


@pytest.mark.parametrize('num_cells, num_replicates', SIZES)
def test_the_soft_utility_is_the_kernels_pair_by_pair(
  num_cells, num_replicates
):
  """Truth: a loop over pairs. Mutants: as above; another bandwidth."""
  states = population(num_cells, num_replicates)
  for temperature, bandwidth in ((0.1, 0.1), (0.3, 1.0)):
    settings = {'temperature': temperature, 'bandwidth': bandwidth}
    got = exactly(information.soft_utility, states, **settings)
    wanted = soft_truth(graded(states, temperature), bandwidth)
    np.testing.assert_allclose(got, wanted, atol=TOLERANCE)
  straight = exactly(
    information.soft_utility, states, bandwidth=1.0, straight_through=True
  )
  wanted = soft_truth((states >= 0.5) * 1.0, 1.0)
  np.testing.assert_allclose(straight, wanted, atol=TOLERANCE)
  fates = graded(states, temperature)
  wrong = [soft_truth(fates, bandwidth * math.sqrt(2))]
  if num_cells > 1:
    wrong += [soft_truth(fates, bandwidth, mutant) for mutant in MUTANTS]
  for mutant in wrong:
    assert not np.allclose(got, mutant, atol=1e-4)


@pytest.mark.parametrize('num_cells, num_replicates', [*SIZES, (12, 3)])
def test_the_exact_utility_is_the_sum_over_all_patterns(
  num_cells, num_replicates
):
  """Truth: products of Bernoullis over `itertools.product`. Mutants: above."""
  states = population(num_cells, num_replicates)
  for temperature in (0.1, 0.4)[: 1 if num_cells > 7 else 2]:
    got = exactly(
      information.exact_soft_utility, states, temperature=temperature
    )
    wanted = exact_truth(graded(states, temperature))
    np.testing.assert_allclose(got, wanted, atol=TOLERANCE)
  if num_cells > 1:
    for mutant in MUTANTS:
      wrong = exact_truth(graded(states, temperature), mutant)
      assert not np.allclose(got, wrong, atol=1e-3), mutant


@pytest.mark.parametrize('num_cells', [1, 23, 24, 25, 30, 48, 60])
def test_patterns_of_any_length_are_told_apart(num_cells):
  """Truth: a Counter of tuples; patterns that differ in one cell of a word.

  Mutant: the Counter of the first 24 cells alone.
  """
  rng = np.random.default_rng(num_cells)
  base = rng.integers(0, 2, num_cells)
  pool = [base]
  for cell in sorted({0, num_cells // 2, num_cells - 1}):
    pool.append(base ^ (np.arange(num_cells) == cell))
  fates = np.stack(pool)[rng.integers(0, len(pool), 50)]
  counts = collections.Counter(map(tuple, fates))
  wanted = [counts[tuple(pattern)] for pattern in fates]
  got = jax.jit(information.pattern_counts)(jnp.asarray(fates, jnp.float32))
  assert got.dtype == jnp.float32
  np.testing.assert_array_equal(got, wanted)
  cut = collections.Counter(tuple(pattern[:24]) for pattern in fates)
  short = [cut[tuple(pattern[:24])] for pattern in fates]
  assert np.array_equal(got, short) == (num_cells <= 24)
  if num_cells in (30, 60):
    got = exactly(information.hard_utility, fates)
    np.testing.assert_allclose(got, hard_truth(fates), atol=TOLERANCE)


def test_the_most_frequent_patterns_by_hand():
  """Truth: counted by hand; ties in the order of the patterns."""
  rows = ['011', '000', '011', '110', '000', '011', '111', '110']
  fates = np.array([[float(c) for c in row] for row in rows])
  ordered = [('011', 0.375), ('000', 0.25), ('110', 0.25), ('111', 0.125)]
  assert information.most_frequent_patterns(fates) == ordered
  assert information.most_frequent_patterns(fates, 2) == ordered[:2]
  on_device = jnp.asarray(fates, jnp.float32)
  assert information.most_frequent_patterns(on_device, 1) == ordered[:1]


def test_all_patterns_are_the_binary_numbers():
  """Truth: written out for 2 cells; numbers 0 to 31 for 5."""
  np.testing.assert_array_equal(
    information.all_patterns(2), [[0, 0], [0, 1], [1, 0], [1, 1]]
  )
  weights = 2 ** np.arange(5)[::-1]
  numbers = information.all_patterns(5) @ weights
  np.testing.assert_array_equal(numbers, np.arange(32))


##############################################################################
# Limits


def test_graded_utilities_tend_to_the_hard_one():
  """Truth: the hard utility; states a good distance from the threshold."""
  states = population(5, 12)
  hard = exactly(information.hard_utility, states)
  for utility in (information.soft_utility, information.exact_soft_utility):
    errors = [
      max(abs(a - b) for a, b in zip(got, hard, strict=True))
      for got in (
        exactly(utility, states, temperature=t) for t in (0.1, 0.01, 0.001)
      )
    ]
    assert errors[0] > 0.01, 'nothing to tend from'
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


@pytest.mark.parametrize(
  'utility', [information.soft_utility, information.exact_soft_utility]
)
def test_straight_through_fates_give_the_hard_utility(utility):
  """Truth: the hard utility. Mutant: graded fates."""
  states = population(5, 12)
  hard = exactly(information.hard_utility, states)
  got = exactly(utility, states, straight_through=True)
  np.testing.assert_allclose(got, hard, atol=1e-12)
  assert not np.allclose(exactly(utility, states), hard, atol=1e-3)


@pytest.mark.parametrize('num_cells', [1, 2, 3, 7, 12])
def test_the_ceiling_is_reached_by_one_balanced_pattern(num_cells):
  """Truth: H(ceil(N / 2) / N); every pattern tried, none is above."""
  ones = math.ceil(num_cells / 2)
  wanted = entropy([ones / num_cells, 1 - ones / num_cells])
  ceiling = information.ceiling(num_cells)
  assert ceiling == pytest.approx(wanted, abs=1e-6)
  if num_cells <= 7:
    patterns = itertools.product((0.0, 1.0), repeat=num_cells)
    best = max(hard_truth(np.array([p, p]))[0] for p in patterns)
    assert best == pytest.approx(ceiling, abs=1e-6)


STRAIGHT = (
  (information.hard_utility, {}),
  (information.soft_utility, {'straight_through': True}),
  (information.exact_soft_utility, {'straight_through': True}),
)
"""The three utilities of fates 0 or 1."""


def test_reference_values_of_seven_cells():
  """Truth: the source's .9852; 1 - 1/7 for both alternations in equal parts."""
  assert information.ceiling(7) == pytest.approx(0.9852, abs=5e-5)
  one = (np.arange(7) % 2).astype(float)
  ceiling = entropy([3 / 7, 4 / 7])
  for utility, settings in STRAIGHT:
    states = np.tile(0.8 * one + 0.1, (16, 1))
    got = exactly(utility, states, **settings)
    np.testing.assert_allclose(got, (ceiling, ceiling, 0), atol=1e-9)
    states[::2] = 1 - states[::2]
    got = exactly(utility, states, **settings)
    np.testing.assert_allclose(got, (6 / 7, 1, 1 / 7), atol=1e-9)
  assert round(6 / 7, 3) == 0.857


##############################################################################
# Bias


@pytest.mark.parametrize(
  'num_replicates, printed',
  [(30, 0.326), (50, 0.243), (100, 0.145), (1000, 0.013)],
)
def test_chance_is_what_random_fates_read(num_replicates, printed):
  """Truth: the source's figures (a simulation's), and one of our own, z < 5.

  Mutant: the chance of 10 % more replicates is not within z.
  """
  chance = information.chance(7, num_replicates)
  assert chance == pytest.approx(printed, abs=1.5e-3)
  size = 60_000 // num_replicates
  rng = np.random.default_rng(num_replicates)
  states = jnp.asarray(rng.random((size, num_replicates, 7), np.float32))
  reads = jax.jit(jax.vmap(information.hard_utility))(states).utility
  reads = np.asarray(reads, float)
  error = reads.std(ddof=1) / math.sqrt(size)
  assert abs(reads.mean() - chance) < 5 * error
  wrong = information.chance(7, num_replicates * 11 // 10)
  assert abs(reads.mean() - wrong) > 5 * error


def test_chance_without_any_pattern_twice():
  """Truth: N large: every pattern is new, S_rep = log2(R) / N."""
  wanted = 1 - 1 / (2 * 50 * 60 * math.log(2)) - math.log2(50) / 60
  assert information.chance(60, 50) == pytest.approx(wanted, abs=1e-9)
  assert information.chance(7, 10**5) < 2e-4


def test_miller_madow_takes_most_of_the_bias_away():
  """Truth: the entropies of a known distribution of patterns, 3,000 draws."""
  rng = np.random.default_rng(5)
  patterns = information.all_patterns(3)
  odds = np.array([0.28, 0.05, 0.15, 0.08, 0.04, 0.2, 0.12, 0.08])
  mean = odds @ patterns.mean(axis=1)
  true = entropy([mean, 1 - mean]) - entropy(odds) / 3
  drawn = patterns[rng.choice(8, (3000, 40), p=odds)]
  states = jnp.asarray(drawn, jnp.float32)

  def bias(**settings):
    utility = functools.partial(information.hard_utility, **settings)
    reads = np.asarray(jax.jit(jax.vmap(utility))(states).utility, float)
    return reads.mean() - true, reads.std(ddof=1) / math.sqrt(len(reads))

  plain, error = bias()
  corrected, _ = bias(miller_madow=True)
  assert plain > 20 * error
  assert abs(corrected) < 0.2 * plain


##############################################################################
# Traps, derivatives, errors


@pytest.mark.parametrize('num_cells, num_replicates', [(7, 50), (2, 100)])
def test_a_narrow_kernel_between_binary_patterns_has_no_gradient(
  num_cells, num_replicates
):
  """Truth: exp(-50) of a kernel: nothing that any optimizer could see.

  Also where patterns come again: rounding is no gradient, and Adam would make
  steps of it. At bandwidth 1 there is a gradient.
  """
  rng = np.random.default_rng(1)
  states = rng.uniform(size=(num_replicates, num_cells)).astype(np.float32)

  def s_rep(states, bandwidth):
    return information.soft_utility(
      states, bandwidth=bandwidth, straight_through=True
    ).s_rep

  slope = jax.jit(jax.grad(s_rep))
  assert np.abs(slope(jnp.asarray(states), 0.1)).max() < 1e-18
  assert np.abs(slope(jnp.asarray(states), 1.0)).max() > 1e-3


@pytest.mark.parametrize('p', [1 + 1.2e-7, -1e-7, 0.0, 1.0])
def test_the_entropy_of_a_mean_that_rounds_out_of_range(p):
  """Truth: 0, and a finite slope. Mutant: the formula as it stands is NaN."""
  value, slope = jax.value_and_grad(information.binary_entropy)(jnp.float32(p))
  np.testing.assert_allclose(value, 0, atol=1e-6)
  assert np.isfinite(slope)

  def mutant(p):
    return -p * jnp.log2(p) - (1 - p) * jnp.log2(1 - p)

  with np.errstate(all='ignore'):
    assert np.isnan(mutant(jnp.float32(p)))


def test_the_binary_entropy_by_hand():
  """Truth: H(1/2) = 1, H(1/4) = 2 - 3/4 log2 3."""
  got = information.binary_entropy(jnp.asarray([0.5, 0.25, 0.75]))
  quarter = 2 - 0.75 * math.log2(3)
  np.testing.assert_allclose(got, [1, quarter, quarter], rtol=1e-6)


@pytest.mark.parametrize('straight_through', [False, True])
@pytest.mark.parametrize(
  'utility', [information.soft_utility, information.exact_soft_utility]
)
def test_equal_states_give_finite_numbers_in_float32(utility, straight_through):
  """Truth: replicates agree, so the soft S_rep is 0; nothing is NaN."""

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def run(states):
    found = utility(states, straight_through=straight_through)
    return found.utility, found

  for value in (0.0, 0.3, 1.0):
    slope, found = run(jnp.full((37, 7), value, jnp.float32))
    assert np.all(np.isfinite(slope))
    assert np.all(np.isfinite(found)) and min(found) > -1e-5
    if straight_through:
      np.testing.assert_allclose(found, 0, atol=1e-6)
    elif utility is information.soft_utility:
      assert abs(found.s_rep) < 1e-5


def test_identical_replicates_repeat_themselves():
  """Truth: S_rep = 0 where all agree, and S_pat is the pattern's own."""
  rng = np.random.default_rng(3)
  states = np.tile(rng.uniform(size=7), (9, 1))
  got = exactly(information.hard_utility, states)
  assert got == pytest.approx((got[1], hard_truth(states)[1], 0.0), abs=1e-12)
  soft = exactly(information.soft_utility, states)
  assert soft[2] == pytest.approx(0.0, abs=1e-9)
  # Graded fates are dice: they disagree although the states do not.
  fates = graded(states[0], 0.1)
  each = np.mean([entropy([q, 1 - q]) for q in fates])
  exact = exactly(information.exact_soft_utility, states)
  assert exact[2] == pytest.approx(each, abs=1e-9)


def central_differences(function, x, step=1e-6):
  """The gradients of several values in NumPy, `[values, *x.shape]`."""
  x = np.asarray(x, float)
  slopes = []
  for i in range(x.size):
    nudge = np.zeros(x.size)
    nudge[i] = step
    nudge = nudge.reshape(x.shape)
    ahead, behind = np.array(function(x + nudge)), np.array(function(x - nudge))
    slopes.append((ahead - behind) / (2 * step))
  return np.stack(slopes, axis=-1).reshape(-1, *x.shape)


@pytest.mark.parametrize('which', ['soft', 'exact'])
def test_gradients_equal_finite_differences(which):
  """Truth: central differences of the enumeration, float64.

  In the states and in the temperature. Mutant: at another temperature.
  """
  states, temperature = population(3, 5, seed=2), np.array(0.2)
  if which == 'soft':
    utility = functools.partial(information.soft_utility, bandwidth=0.5)
    truth = functools.partial(soft_truth, bandwidth=0.5)
  else:
    utility, truth = information.exact_soft_utility, exact_truth

  def run(states, temperature):
    return utility(states, temperature=temperature)

  with jax.enable_x64(True):
    slope = jax.jit(jax.jacrev(run, argnums=(0, 1)))
    got, wrong = (
      jax.device_get(slope(jnp.asarray(states, float), jnp.asarray(t, float)))
      for t in (temperature, 1.1 * temperature)
    )
  wanted = (
    central_differences(lambda s: truth(graded(s, 0.2)), states),
    central_differences(lambda t: truth(graded(states, t)), temperature),
  )
  for part in range(3):
    for argument in range(2):
      there = wanted[argument][part]
      assert np.abs(there).max() > 1e-3
      np.testing.assert_allclose(
        got[part][argument], there, rtol=1e-5, atol=1e-8
      )
      mutant = wrong[part][argument]
      assert not np.allclose(mutant, there, rtol=1e-3, atol=1e-4)


def slope(utility, states, **settings):
  """The gradient of a utility in the states, in float64."""
  with jax.enable_x64(True):

    def run(states):
      return utility(states, **settings).utility

    return np.asarray(jax.jit(jax.grad(run))(jnp.asarray(states, float)))


def test_straight_through_gradients_are_those_in_the_fates():
  """Truth: central differences of the enumeration at fates of 0 and 1.

  All patterns of 2 cells are seen, so all shares are above 0 and the utility
  is smooth there.
  """
  fates = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [1, 1], [1, 1]])
  states = np.where(fates, 0.8, 0.1)
  for utility, truth, settings in (
    (information.exact_soft_utility, exact_truth, {}),
    (
      information.soft_utility,
      lambda z: soft_truth(z, 0.7),
      {'bandwidth': 0.7},
    ),
  ):
    got = slope(utility, states, straight_through=True, **settings)
    wanted = central_differences(truth, fates)[0]
    assert np.abs(wanted).max() > 1e-2
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-8)


def test_the_hard_utility_has_no_gradient():
  """Truth: a step function's derivative, 0."""
  states = population(3, 5)
  got = slope(information.hard_utility, states)
  np.testing.assert_array_equal(got, 0)


UTILITIES = (
  information.hard_utility,
  information.soft_utility,
  information.exact_soft_utility,
)


@pytest.mark.parametrize('utility', UTILITIES)
def test_what_is_no_population_is_refused(utility):
  """Truth: the documented errors."""
  with pytest.raises(ValueError, match='a single replicate always agrees'):
    utility(jnp.zeros((1, 3)))
  with pytest.raises(AssertionError):
    utility(jnp.zeros(3))
  with pytest.raises(AssertionError):
    utility(jnp.zeros((4, 3), int))


def test_the_exact_utility_refuses_many_cells():
  """Truth: 12 cells at most; the message says what takes more."""
  with pytest.raises(ValueError, match=r'^N=13: .* at most 12 .* soft'):
    information.exact_soft_utility(jnp.zeros((2, 13)))
  assert information.MAX_CELLS == 12


@pytest.mark.parametrize(
  'utility',
  [
    information.hard_utility,
    information.soft_utility,
    information.exact_soft_utility,
  ],
)
def test_weights_say_how_often_a_replicate_counts(utility):
  """Truth: the utility of a population with some left out, or in it twice.

  Left out are replicates with patterns of their own. Mutant: weights unused.
  """
  states = jnp.asarray(population(3, 12))
  times = np.array([0, 1, 2, 1, 1, 0, 1, 3, 1, 0, 2, 0])
  wanted = utility(jnp.asarray(np.repeat(states, times, axis=0)))
  weights = jnp.asarray(times / times.mean(), states.dtype)
  got = utility(states, weights=weights)
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
  assert abs(utility(states).utility - wanted.utility) > 1e-3
