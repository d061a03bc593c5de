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
from tests.core import enumerated

SIZES = [(1, 4), (2, 2), (3, 9), (7, 40)]
MUTANTS = ('nats', 'whole pattern', 'mean of entropies')


@pytest.mark.parametrize('num_cells, num_replicates', [*SIZES, (30, 25)])
def test_the_hard_utility_counts_patterns(num_cells, num_replicates):
  """Truth: a dictionary. Mutants: nats; S_rep not a cell; S_pat not pooled."""
  large = num_cells > 2
  others = ({'threshold': 0.4}, {'miller_madow': True}) if large else ()
  for settings in ({}, *others):
    for seed in range(5):
      states = enumerated.population(num_cells, num_replicates, seed)
      got = enumerated.exactly(information.hard_utility, states, **settings)
      wanted = enumerated.hard_truth(states, **settings)
      np.testing.assert_allclose(got, wanted, atol=enumerated.TOLERANCE)
  if large:
    got = enumerated.exactly(information.hard_utility, states)
    for mutant in MUTANTS:
      wrong = enumerated.hard_truth(states, mutant=mutant)
      assert not np.allclose(got, wrong, atol=1e-3), mutant


@pytest.mark.parametrize('num_cells, num_replicates', SIZES)
def test_the_soft_utility_is_the_kernels_pair_by_pair(
  num_cells, num_replicates
):
  """Truth: a loop over pairs. Mutants: as above; another bandwidth."""
  states = enumerated.population(num_cells, num_replicates)
  for temperature, bandwidth in ((0.1, 0.1), (0.3, 1.0)):
    settings = {'temperature': temperature, 'bandwidth': bandwidth}
    got = enumerated.exactly(information.soft_utility, states, **settings)
    wanted = enumerated.soft_truth(
      enumerated.graded(states, temperature), bandwidth
    )
    np.testing.assert_allclose(got, wanted, atol=enumerated.TOLERANCE)
  straight = enumerated.exactly(
    information.soft_utility, states, bandwidth=1.0, straight_through=True
  )
  wanted = enumerated.soft_truth((states >= 0.5) * 1.0, 1.0)
  np.testing.assert_allclose(straight, wanted, atol=enumerated.TOLERANCE)
  fates = enumerated.graded(states, temperature)
  wrong = [enumerated.soft_truth(fates, bandwidth * math.sqrt(2))]
  if num_cells > 1:
    wrong += [
      enumerated.soft_truth(fates, bandwidth, mutant) for mutant in MUTANTS
    ]
  for mutant in wrong:
    assert not np.allclose(got, mutant, atol=1e-4)


@pytest.mark.parametrize('num_cells, num_replicates', [*SIZES, (12, 3)])
def test_the_exact_utility_is_the_sum_over_all_patterns(
  num_cells, num_replicates
):
  """Truth: products of Bernoullis over `itertools.product`. Mutants: above."""
  states = enumerated.population(num_cells, num_replicates)
  for temperature in (0.1, 0.4)[: 1 if num_cells > 7 else 2]:
    got = enumerated.exactly(
      information.exact_soft_utility, states, temperature=temperature
    )
    wanted = enumerated.exact_truth(enumerated.graded(states, temperature))
    np.testing.assert_allclose(got, wanted, atol=enumerated.TOLERANCE)
  if num_cells > 1:
    for mutant in MUTANTS:
      wrong = enumerated.exact_truth(
        enumerated.graded(states, temperature), mutant
      )
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
    got = enumerated.exactly(information.hard_utility, fates)
    np.testing.assert_allclose(
      got, enumerated.hard_truth(fates), atol=enumerated.TOLERANCE
    )


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


def test_graded_utilities_tend_to_the_hard_one():
  """Truth: the hard utility; states a good distance from the threshold."""
  states = enumerated.population(5, 12)
  hard = enumerated.exactly(information.hard_utility, states)
  for utility in (information.soft_utility, information.exact_soft_utility):
    errors = [
      max(abs(a - b) for a, b in zip(got, hard, strict=True))
      for got in (
        enumerated.exactly(utility, states, temperature=t)
        for t in (0.1, 0.01, 0.001)
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
  states = enumerated.population(5, 12)
  hard = enumerated.exactly(information.hard_utility, states)
  got = enumerated.exactly(utility, states, straight_through=True)
  np.testing.assert_allclose(got, hard, atol=1e-12)
  assert not np.allclose(enumerated.exactly(utility, states), hard, atol=1e-3)


@pytest.mark.parametrize('num_cells', [1, 2, 3, 7, 12])
def test_the_ceiling_is_reached_by_one_balanced_pattern(num_cells):
  """Truth: H(ceil(N / 2) / N); every pattern tried, none is above."""
  ones = math.ceil(num_cells / 2)
  wanted = enumerated.entropy([ones / num_cells, 1 - ones / num_cells])
  ceiling = information.ceiling(num_cells)
  assert ceiling == pytest.approx(wanted, abs=1e-6)
  if num_cells <= 7:
    patterns = itertools.product((0.0, 1.0), repeat=num_cells)
    best = max(enumerated.hard_truth(np.array([p, p]))[0] for p in patterns)
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
  ceiling = enumerated.entropy([3 / 7, 4 / 7])
  for utility, settings in STRAIGHT:
    states = np.tile(0.8 * one + 0.1, (16, 1))
    got = enumerated.exactly(utility, states, **settings)
    np.testing.assert_allclose(got, (ceiling, ceiling, 0), atol=1e-9)
    states[::2] = 1 - states[::2]
    got = enumerated.exactly(utility, states, **settings)
    np.testing.assert_allclose(got, (6 / 7, 1, 1 / 7), atol=1e-9)
  assert round(6 / 7, 3) == 0.857


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
  true = enumerated.entropy([mean, 1 - mean]) - enumerated.entropy(odds) / 3
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
