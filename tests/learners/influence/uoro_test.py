# SPDX-License-Identifier: Apache-2.0
"""The rank-one estimate against BPTT: on average, and where it is exact.

Truth: `bptt`, which finite differences check. Mutants: signs that are not drawn
and factors that are not balanced alike.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from bionet_core import interfaces
from bionet_learners import oracles
from bionet_learners.influence import uoro
from bionet_learners.reverse import bptt
from tests import small

pytestmark = pytest.mark.oracle

T, B, I, N, O = 6, 2, 2, 2, 2
WINDOWS = (3, 3)


def trials(steps=T):
  """Delayed: the second half is asked, with a hole."""
  return small.trials((steps, B, I, O), (steps // 2, steps - 1), first=4)


def in_windows(rule, params, key, batch, lengths):
  """The summed updates of windows, the weights held fixed."""
  return small.in_windows(rule, params, {}, key, batch, lengths)[0]


def compiled(rule):
  return jax.jit(functools.partial(in_windows, rule), static_argnums=3)


def plain():
  """H <- tanh(x w + h v + b), read out by u; cheap to compile."""

  def init(key, inputs):
    draws = jax.random.normal(key, (4, N, N))
    params = {'w': draws[0], 'v': draws[1], 'b': draws[2, 0], 'u': draws[3]}
    return params, {}

  def step(params, constants, state, keys, inputs):
    drive = inputs @ params['w'] + state @ params['v'] + params['b'][None]
    state = jnp.tanh(drive)
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, N)),
    step,
    lambda params, constants, emission: emission @ params['u'],
  )


@functools.cache
def problem():
  batch, cell = trials(), plain()
  rule = bptt.bptt(cell, small.squared_error)
  params, _ = jax.jit(rule.model.init)(jax.random.key(0), batch)
  wanted = compiled(rule)(params, jax.random.key(0), batch, (T,))
  return cell, batch, params, wanted


def draws(count):
  """Independent estimates: only the signs differ by the key."""
  cell, batch, params, _ = problem()
  rule = uoro.uoro(cell, small.squared_error)
  return jax.jit(
    jax.vmap(lambda key: in_windows(rule, params, key, batch, WINDOWS))
  )(jax.random.split(jax.random.key(2), count))


def mean_errors(estimates, wanted):
  """The relative error of the mean, by group of parameters."""
  got = dict(jax.tree.leaves_with_path(estimates))
  return {
    jax.tree_util.keystr(path): oracles.relative_error(
      jnp.mean(got[path], axis=0), leaf
    )
    for path, leaf in jax.tree.leaves_with_path(wanted)
  }


def test_the_mean_over_signs_is_the_gradient():
  """Truth: `bptt`, |z| <= 3 along 8 fixed directions, two windows of 3.

  The standard error of the mean is below .5 % of the gradient's norm, so that
  z can fail; by chance |z| > 3 comes with 2 % of keys, and this one is fixed.
  Each group of parameters is near its own reference, the readout's exactly.
  """
  *_, wanted = problem()
  got = draws(10_000)
  found = oracles.bias(got, wanted, jax.random.key(3))
  assert jnp.max(jnp.abs(found.z)) <= 3
  assert found.standard_error < 0.005
  for path, leaf in jax.tree.leaves_with_path(wanted):
    assert oracles.norm(leaf) > 0.1, f'{path}: nothing to compare'
  for name, error in mean_errors(got, wanted).items():
    assert error < (1e-6 if 'u' in name else 0.02), name


MUTANTS = {
  'signs not drawn': ('_signs', lambda keys, row: jnp.ones_like(row)),
  'rho undone nowhere': (
    '_balance',
    lambda above, below, sound=uoro._balance: (
      sound(above, below)[0],
      jnp.ones((above.shape[0], 1)),
    ),
  ),
}


@pytest.mark.parametrize('mutant', MUTANTS)
def test_the_z_test_finds_mutants(mutant, monkeypatch):
  """Truth: `bptt`; what the mutant changes is said by its name."""
  monkeypatch.setattr(uoro, *MUTANTS[mutant])
  *_, wanted = problem()
  got = draws(10_000)
  found = oracles.bias(got, wanted, jax.random.key(3))
  assert jnp.max(jnp.abs(found.z)) > 5
  errors = mean_errors(got, wanted)
  assert all(e > 0.02 for name, e in errors.items() if 'u' not in name)


def integrator():
  """One unit: H <- 0.9 h + w x, read out by u h."""

  def init(key, inputs):
    draws = jax.random.normal(key, (I + O,))
    return {'w': draws[:I], 'u': draws[I:]}, {}

  def step(params, constants, state, keys, inputs):
    state = 0.9 * state + (inputs @ params['w'])[:, None]
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 1)),
    step,
    lambda params, constants, emission: emission * params['u'][None],
  )


def test_one_write_of_one_unit_is_exact():
  """Truth: `bptt`; only step 0 writes, so that the influence has one term.

  Where a second step writes, one draw is wrong: there is something to average.
  """
  batch, cell, key = trials(), integrator(), jax.random.key(5)
  params, _ = cell.init(jax.random.key(0), batch.inputs[0])
  exact = compiled(bptt.bptt(cell, small.squared_error))
  rule = compiled(uoro.uoro(cell, small.squared_error))
  for writes, close in ((1, True), (2, False)):
    some = batch.replace(inputs=batch.inputs.at[writes:].set(0))
    wanted = exact(params, key, some, (T,))
    got = rule(params, key, some, WINDOWS)
    assert oracles.norm(wanted['w']) > 0.1
    error = oracles.relative_error(got['w'], wanted['w'])
    assert error < 1e-6 if close else error > 0.05


def test_signs_belong_to_the_trial_and_the_step():
  """Truth: the same trials whole, in windows, and each alone."""
  cell, batch, params, _ = problem()
  estimate = compiled(uoro.uoro(cell, small.squared_error))
  key = jax.random.key(7)
  whole = estimate(params, key, batch, (T,))
  parts = estimate(params, key, batch, WINDOWS)
  single = [
    estimate(
      params,
      key,
      interfaces.Trials(
        inputs=batch.inputs[:, b : b + 1],
        targets=batch.targets[:, b : b + 1],
        mask=batch.mask[:, b : b + 1],
        index=batch.index[b : b + 1],
      ),
      (T,),
    )
    for b in range(B)
  ]
  mean = jax.tree.map(lambda *x: sum(x) / B, *single)
  for other in (parts, mean):
    assert oracles.relative_error(other, whole) < 1e-5
  apart = estimate(params, jax.random.key(8), batch, (T,))
  assert oracles.relative_error(apart, whole) > 0.01


def test_memory_does_not_grow_with_time():
  """Truth: the compiler's own count of temporary memory at two lengths."""
  cell, _, params, _ = problem()
  rule = uoro.uoro(cell, small.squared_error)

  def memory(steps):
    batch = trials(steps=steps)
    return small.temporary_memory(rule, params, {}, jax.random.key(0), batch)

  assert memory(4000) <= 1.01 * memory(40)
