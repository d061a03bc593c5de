# SPDX-License-Identifier: Apache-2.0
"""The network that is the rate of a tissue.

Truth: its layers in NumPy; the moments of what is drawn.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core.cells import tissue
from tests.core.cells import tissues


@functools.cache
def curves(centred):
  """`f` over [0, 1] of 200 networks."""
  rate = tissue.regulatory_network(centred=centred)
  means = jnp.linspace(0, 1, 101)
  keys = jax.random.split(tissues.KEY, 200)
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
    network = tissue.regulatory_network((3, 2), centred=centred)
    params = jax.jit(network.init)(tissues.KEY)
    # Biases start at 0, where a wrong one would not be seen.
    params = jax.tree.map(
      lambda leaf: np.float32(3) * np.asarray(leaf) + np.float32(0.1), params
    )
    x = (2 * (means - 0.5) if centred else means)[..., None]
    layers = [params[f'rate/~/linear_{i}'] for i in range(3)]
    for i, layer in enumerate(layers):
      x = x @ np.asarray(layer['w'], float) + np.asarray(layer['b'])
      x = np.tanh(x) if i < 2 else x
    wanted = x[..., 0]
    for bound in (0.0, 0.5, 40.0):
      rate = tissue.regulatory_network((3, 2), centred=centred, bound=bound)
      got = jax.jit(rate.apply)(params, means.astype(np.float32))
      bounded = bound * np.tanh(wanted / bound) if bound else wanted
      np.testing.assert_allclose(got, bounded, atol=1e-5)


def test_the_bound_holds():
  """Truth: |f| <= bound, reached by weights far beyond it."""
  rate = tissue.regulatory_network((4,), bound=2.5)

  @jax.jit
  def driven(means):
    params = jax.tree.map(lambda leaf: 100 * leaf, rate.init(tissues.KEY))
    return rate.apply(params, means)

  found = np.abs(driven(np.linspace(0, 1, 50, dtype=np.float32)))
  assert found.max() <= 2.5
  assert found.max() > 2.49
  assert np.max(np.abs(curves(True))) < 40


@pytest.mark.parametrize('centred', [True, False])
def test_a_rich_start_is_drawn_as_said(centred):
  """Truth: the moments of N(0, 5^2) and U(0, 1); y of mean 0 and std 16.

  4,000 units: four standard errors. Mutant: Haiku's own slopes.
  """
  settings = {'centred': centred, 'steepness': 5.0, 'output_std': 16.0}
  keys = jax.random.split(tissues.KEY, 500)
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
      apply = jax.jit(jax.vmap(rate.apply, (0, None)))
      y = apply(params, np.linspace(0, 1, 65, dtype=np.float32))
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
  params = jax.jit(plain.init)(tissues.KEY)
  means = np.random.default_rng(0).uniform(size=(3, 7)).astype(np.float32)
  at = np.linspace(0, 1, 6)
  exact, between = jax.jit(plain.apply), jax.jit(knotted.apply)
  values = np.asarray(exact(params, at))
  wanted = np.interp(means, at, values)
  np.testing.assert_allclose(between(params, means), wanted, atol=1e-4)
  slope = jax.jit(jax.vmap(jax.grad(lambda m: knotted.apply(params, m))))
  inside = (at[1:] + at[:-1]) / 2
  np.testing.assert_allclose(slope(inside), np.diff(values) * 5, rtol=1e-3)
  assert np.abs(exact(params, means) - wanted).max() > 0.01
