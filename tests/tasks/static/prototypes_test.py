# SPDX-License-Identifier: Apache-2.0
"""Binary prototypes: statistics of the draws, with their z-bounds."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_tasks.static import prototypes

CLASSES, DIM, NUM_DATA, HELD_OUT, NOISE = 10, 100, 1000, 4000, 0.3
KEY = jax.random.key(0)


@functools.cache
def drawn(seed=0):
  """Training inputs and classes, held-out ones, and the true prototypes.

  The majority of 500 samples of a class is its prototype: a bit is wrong with
  probability below exp(-2 500 .2^2) = 4e-18.
  """
  task = prototypes.prototypes(num_held_out=HELD_OUT, seed=seed)
  train = jax.jit(task.sample)(KEY, jnp.arange(NUM_DATA))
  held_out = task.evaluations['held_out'].sample(KEY, jnp.arange(HELD_OUT))
  parts = []
  for trials in (train, held_out):
    parts.append((np.asarray(trials.inputs[0]), np.asarray(trials.targets[0])))
  inputs, classes = (np.concatenate(part) for part in zip(*parts, strict=True))
  patterns = [np.sign(inputs[classes == k].sum(0)) for k in range(CLASSES)]
  return *parts, np.stack(patterns), task.spec


@pytest.mark.parametrize('part', [0, 1])
def test_bits_flip_with_the_stated_probability(part):
  """Truth: binomial; all bits, each bit, each class within 5 sigma of .3."""
  inputs, classes = drawn()[part]
  flipped = inputs != drawn()[2][classes]
  assert set(np.unique(inputs)) == {-1.0, 1.0}

  def z(rates, count):
    return np.abs(rates - NOISE).max() * math.sqrt(count / (NOISE * 0.7))

  assert z(flipped.mean(), flipped.size) < 5
  assert z(flipped.mean(axis=0), len(flipped)) < 5
  for k in range(CLASSES):
    mine = flipped[classes == k]
    assert z(mine.mean(), mine.size) < 5


def test_flips_of_two_bits_are_independent():
  """Truth: correlations of all pairs of bits within 5.5 standard errors."""
  inputs, classes = drawn()[1]
  flipped = inputs != drawn()[2][classes]
  pairs = np.corrcoef(flipped.T)[np.triu_indices(DIM, 1)]
  assert np.abs(pairs).max() * math.sqrt(HELD_OUT) < 5.5


def test_classes_are_balanced():
  """Truth: num_data / K of each, in an epoch and held out."""
  train, held_out, *_ = drawn()
  assert set(np.bincount(train[1])) == {NUM_DATA // CLASSES}
  assert set(np.bincount(held_out[1])) == {HELD_OUT // CLASSES}


def test_prototypes_are_rademacher_and_depend_on_the_seed():
  """Truth: +-1 with equal odds; two seeds agree in half their bits, z < 5."""
  patterns, others = drawn()[2], drawn(seed=1)[2]
  for products in (patterns, others, patterns * others):
    assert abs(products.mean()) * math.sqrt(products.size) < 5


def test_training_and_held_out_samples_are_separate_draws():
  """Truth: no row twice; the mean overlap of two draws is (1 - 2 p)^2."""
  (inputs, classes), (others, other_classes), *_ = drawn()
  assert not {row.tobytes() for row in inputs} & {
    row.tobytes() for row in others
  }
  same = classes[:, None] == other_classes
  overlap = (inputs @ others.T)[same].mean() / DIM
  assert abs(overlap - (1 - 2 * NOISE) ** 2) < 0.01


def test_the_ceiling_is_the_nearest_true_prototype():
  """Truth: an independent draw in NumPy; the difference is within 5 sigma.

  The ceiling has 20,000 trials, this estimate 20,000 of its own.
  """
  *_, patterns, spec = drawn()
  generator = np.random.default_rng(0)
  classes = generator.integers(0, CLASSES, 20_000)
  flips = generator.uniform(size=(20_000, DIM)) < NOISE
  noisy = np.where(flips, -1, 1) * patterns[classes]
  distances = (noisy[:, None] != patterns[None]).sum(-1, dtype=np.int16)
  rate = np.mean(distances.argmin(1) == classes)
  error = math.sqrt(2 * rate * (1 - rate) / 20_000)
  assert abs(spec.ceiling['accuracy'] - rate) < 5 * error
  assert spec.chance['accuracy'] == 0.1
  # The spec's figure for these defaults, nearest true prototype: .9865.
  assert abs(spec.ceiling['accuracy'] - 0.9865) < 0.01


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'p_noise': 0.5}, r'^p_noise=0\.5'),
    ({'p_noise': 0.6}, r'^p_noise=0\.6'),
    ({'p_noise': -0.1}, r'^p_noise=-0\.1'),
    ({'num_data': 9}, r'^num_data=9.*num_prototypes=10'),
    ({'num_prototypes': 0}, r'^num_prototypes=0'),
    ({'dim': 0}, r'^dim=0'),
    ({'num_held_out': 0}, r'^num_held_out=0'),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the spec's checks at construction."""
  with pytest.raises(ValueError, match=message):
    prototypes.prototypes(**settings)
