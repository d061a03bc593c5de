# SPDX-License-Identifier: Apache-2.0
"""The utility of patterns, by enumeration in NumPy."""

import collections
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCE = 1e-9  # in float64


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
