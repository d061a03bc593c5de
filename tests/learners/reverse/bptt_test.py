# SPDX-License-Identifier: Apache-2.0
"""BPTT against finite differences, and against Haiku's own unroll."""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
from bionet_learners import oracles
from bionet_learners.reverse import bptt
from tests import small

T, B, I, N, O = 8, 2, 3, 3, 2
KEY = jax.random.key(4)


def trials(dtype):
  """Delayed: targets are asked for late, and the mask has holes."""
  return small.trials((T, B, I, O), (4, 7), dtype=dtype)


def make(core, remat=False):
  cell = small.stock(core, N, O)
  return bptt.bptt(cell, small.squared_error, remat=remat)


@pytest.mark.oracle
@pytest.mark.parametrize('core', small.CORES)
def test_gradient_equals_finite_differences_in_float64(core):
  """Truth: central differences, over whole trials and over a later window.

  The window starts from a carried state, so a state that were not restored
  would show.
  """
  with jax.enable_x64(True):
    batch, rule = trials(float), make(core)
    params, _ = rule.model.init(jax.random.key(0), batch)
    start = rule.init(KEY, params, {}, batch)
    estimate = jax.jit(rule.estimate)
    _, middle = estimate(params, {}, start, KEY, small.window(batch, 0, 5))
    for state, part in ((start, batch), (middle, small.window(batch, 5, T))):
      got, _ = estimate(params, {}, state, KEY, part)
      wanted = oracles.finite_differences(
        lambda p, s=state, w=part: rule.estimate(p, {}, s, KEY, w)[0].loss,
        params,
      )
      for path, leaf in jax.tree.leaves_with_path(wanted):
        own = dict(jax.tree.leaves_with_path(got.gradient))[path]
        assert oracles.norm(leaf) > 1e-4, f'{path}: nothing to compare'
        assert oracles.relative_error(own, leaf) < 1e-6, path


@pytest.mark.oracle
def test_gradient_equals_that_through_haikus_own_unroll():
  """Truth: `jax.grad` through `hk.dynamic_unroll` with the same parameters."""
  batch, rule = trials(jnp.float32), make('gru')
  params, _ = rule.model.init(jax.random.key(0), batch)
  state = rule.init(KEY, params, {}, batch)

  def by_haiku(inputs):
    core, readout = hk.GRU(N), hk.Linear(O)
    hidden, _ = hk.dynamic_unroll(core, inputs, core.initial_state(B))
    return hk.BatchApply(readout)(hidden)

  unrolled = hk.without_apply_rng(hk.transform(by_haiku))

  def objective(params):
    outputs = unrolled.apply(params, batch.inputs)
    error = jnp.sum((outputs - batch.targets) ** 2, axis=-1)
    return jnp.sum(jnp.mean(error * batch.mask, axis=1))

  got, _ = jax.jit(rule.estimate)(params, {}, state, KEY, batch)
  wanted = jax.grad(objective)(params)
  chex.assert_trees_all_close(got.gradient, wanted, rtol=1e-5, atol=1e-7)


def test_windows_truncate_and_the_whole_does_not():
  """Truth: early inputs matter to late targets, so truncation must differ."""
  batch, rule = trials(jnp.float32), make('gru')
  params, _ = rule.model.init(jax.random.key(0), batch)
  state = rule.init(KEY, params, {}, batch)
  estimate = jax.jit(rule.estimate)
  whole, end = estimate(params, {}, state, KEY, batch)
  total, loss = jax.tree.map(jnp.zeros_like, params), 0.0
  for begin in range(0, T, 2):
    part, state = estimate(
      params, {}, state, KEY, small.window(batch, begin, begin + 2)
    )
    total = jax.tree.map(jnp.add, total, part.gradient)
    loss += part.loss
  np.testing.assert_allclose(loss, whole.loss, rtol=1e-6)
  chex.assert_trees_all_close(state, end, rtol=1e-6)
  assert oracles.relative_error(total['gru'], whole.gradient['gru']) > 0.05
  np.testing.assert_allclose(
    total['linear']['w'], whole.gradient['linear']['w'], rtol=1e-5, atol=1e-7
  )


def test_remat_changes_memory_only():
  """Truth: the gradient without remat; memory from the compiled program."""
  rng = np.random.default_rng(0)
  steps = 200
  batch = interfaces.Trials(
    inputs=jnp.asarray(rng.normal(size=(steps, 8, I)), jnp.float32),
    targets=jnp.zeros((steps, 8, O)),
    mask=jnp.full((steps, 8), 1 / steps),
    index=jnp.arange(8),
  )
  found = {}
  for remat in (False, True):
    rule = make('lstm', remat)
    params, _ = rule.model.init(jax.random.key(0), batch)
    state = rule.init(KEY, params, {}, batch)
    compiled = (
      jax.jit(lambda p, s, r=rule: r.estimate(p, {}, s, KEY, batch)[0])
      .lower(params, state)
      .compile()
    )
    memory = compiled.memory_analysis().temp_size_in_bytes
    found[remat] = compiled(params, state).gradient, memory
  chex.assert_trees_all_close(found[True][0], found[False][0], rtol=1e-4)
  assert found[True][1] < 0.8 * found[False][1]
