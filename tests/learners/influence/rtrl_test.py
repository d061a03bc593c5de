# SPDX-License-Identifier: Apache-2.0
"""Exact forward sensitivities against backpropagation, and across borders.

Truth: `bptt`, which finite differences check; the sum over windows. Mutants:
the influence not carried through a step's Jacobian, and dropped at a border.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import information, interfaces, unroll
from bionet_core.cells import tissue
from bionet_learners.influence import rtrl
from bionet_learners.reverse import bptt
from tests import small

pytestmark = pytest.mark.oracle

T, B, I, N, O = 8, 2, 3, 3, 2
KEY = jax.random.key(4)


def trials(dtype=jnp.float32, steps=T):
  """Delayed: targets are asked for late, and the mask has holes."""
  return small.trials((steps, B, I, O), (4, steps - 1), dtype=dtype)


@functools.cache
def stock(core):
  return small.stock(core, N, O)


@functools.cache
def compiled(make, cell, loss):
  rule = make(cell, loss)
  run = functools.partial(small.in_windows, rule)
  return rule, jax.jit(run, static_argnames=('lengths', 'forget'))


def in_windows(make, cell, loss, batch, lengths, forget=False):
  """The summed updates and losses of windows, the weights held fixed."""
  rule, run = compiled(make, cell, loss)
  params, constants = rule.model.init(jax.random.key(0), batch)
  return run(
    params, constants, KEY, batch, lengths=tuple(lengths), forget=forget
  )


def minus_utility(outputs, targets, mask):
  del targets
  found = information.exact_soft_utility(outputs)
  weight = jnp.mean(mask)
  return -found.utility * weight, {'s_pat': found.s_pat * weight}


class Row(NamedTuple):
  num_outputs: int = 4


def patterns(dtype, steps=100, batch=6):
  """Replicates of a tissue, some of which reach the clip, with their rests."""
  inputs = np.broadcast_to([0.05, 0.3], (steps, batch, 2)).copy()
  inputs[steps // 2 :, ::2, 0] = 0.025
  mask = np.zeros((steps, batch))
  mask[-1] = 1
  return interfaces.Trials(
    inputs=jnp.asarray(inputs, dtype),
    targets=jnp.zeros((steps, batch, 1), dtype),
    mask=jnp.asarray(mask, dtype),
    index=jnp.arange(batch) + 3,
  )


def cases():
  """Each core and each precision by default; all pairs where time is."""
  for core in small.CORES:
    for x64, tolerance in ((False, 1e-5), (True, 1e-12)):
      default = (core == 'gru') == x64 and core != 'lstm'
      marks = [] if default else pytest.mark.slow
      yield pytest.param(core, x64, tolerance, marks=marks)


@pytest.mark.parametrize('core, x64, tolerance', list(cases()))
def test_stock_cores_have_the_gradient_of_bptt(core, x64, tolerance):
  """Truth: `bptt` over the whole trials, to which windows sum.

  Mutant: the influence forgotten at the border.
  """
  with jax.enable_x64(x64):
    batch = trials(float if x64 else jnp.float32)
    wanted, loss = in_windows(
      bptt.bptt, stock(core), small.squared_error, batch, [T]
    )
    ours = functools.partial(
      in_windows,
      rtrl.rtrl,
      stock(core),
      small.squared_error,
      batch,
      [T // 2] * 2,
    )
    got, own = ours()
    assert max(small.errors(got, wanted).values()) < tolerance
    np.testing.assert_allclose(own, loss, rtol=tolerance)
    off = small.errors(ours(forget=True)[0], wanted)
    assert all(e > 0.05 for name, e in off.items() if 'linear' not in name)


@pytest.mark.parametrize(
  'lengths',
  [[50, 50], pytest.param([100], marks=pytest.mark.slow)],
  ids=len,
)
def test_a_noisy_tissue_has_the_gradient_of_bptt(lengths):
  """Truth: `bptt` in float64, 100 steps, states on the clip among them.

  The loss is of the whole population. Mutant: the influence forgotten at the
  border.
  """
  with jax.enable_x64(True):
    batch = patterns(float)
    cell = tissue.tissue(Row(), hidden=(3,), bound=4.0)
    wanted, _ = in_windows(bptt.bptt, cell, minus_utility, batch, [100])
    ours = functools.partial(
      in_windows, rtrl.rtrl, cell, minus_utility, batch, lengths
    )
    assert max(small.errors(ours()[0], wanted).values()) < 1e-8
    model = unroll.model_from_cell(cell)
    params, _ = model.init(jax.random.key(0), batch)
    states = model.predict(params, {}, KEY, batch)
    assert 0.02 < np.mean((states == 0) | (states == 1)) < 0.9
    if len(lengths) > 1:
      off = small.errors(ours(forget=True)[0], wanted)
      assert max(off.values()) > 1e-3


def test_one_step_without_the_jacobian_is_another_gradient():
  """Truth: `bptt`. Mutant: every step forgets, as if J were 0."""
  batch, core = trials(), stock('vanilla_rnn')
  wanted, _ = in_windows(bptt.bptt, core, small.squared_error, batch, [T])
  ours = functools.partial(
    in_windows, rtrl.rtrl, core, small.squared_error, batch, [1] * T
  )
  assert max(small.errors(ours()[0], wanted).values()) < 1e-5
  off = small.errors(ours(forget=True)[0], wanted)
  assert all(e > 0.05 for name, e in off.items() if 'vanilla' in name)


def counting_cell():
  """H <- tanh(h w + x + n), with n a step counter and a key in the state."""

  def init(key, inputs):
    del inputs
    return {'w': jax.random.normal(key, (I, I))}, {}

  def initial_state(constants, keys):
    del constants
    shape = keys.shape
    return {
      'key': keys,
      'h': jnp.zeros((*shape, I)),
      'n': jnp.zeros(shape, jnp.int32),
    }

  def step(params, constants, state, keys, inputs):
    del constants, keys
    drive = inputs + 0.1 * state['n'][:, None].astype(inputs.dtype)
    h = jnp.tanh(state['h'] @ params['w'] + drive)
    return h, {**state, 'h': h, 'n': state['n'] + 1}

  return interfaces.Cell(
    init, initial_state, step, lambda params, constants, emission: emission
  )


def test_integers_and_keys_in_the_state_go_along():
  """Truth: `bptt`; a counter and a key have no derivative and are kept."""
  batch = trials()
  batch = batch.replace(targets=jnp.zeros((T, B, I)))
  cell = counting_cell()
  wanted, _ = in_windows(bptt.bptt, cell, small.squared_error, batch, [T])
  got, _ = in_windows(rtrl.rtrl, cell, small.squared_error, batch, [4, 4])
  assert max(small.errors(got, wanted).values()) < 1e-5


def test_a_state_that_overflowed_unasked_teaches_nothing():
  """Truth: no step is asked after the overflow, so nothing is to be learned."""
  sound = counting_cell()

  def step(params, constants, state, keys, inputs):
    emission, after = sound.step(params, constants, state, keys, inputs)
    overflowing = jnp.exp(jnp.where(state['n'] == 5, 100.0, 0.0))
    return emission, {**after, 'h': after['h'] * overflowing[:, None]}

  batch = trials()
  batch = batch.replace(
    targets=jnp.zeros((T, B, I)), mask=batch.mask.at[5:].set(0)
  )
  cell = sound._replace(step=step)
  got, _ = in_windows(rtrl.rtrl, cell, small.squared_error, batch, [T])
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(got))


def test_memory_does_not_grow_with_time():
  """Truth: the compiler's own count of temporary memory at two lengths."""
  rule = rtrl.rtrl(stock('vanilla_rnn'), small.squared_error)

  def memory(steps):
    batch = trials(steps=steps)
    params, _ = rule.model.init(jax.random.key(0), batch)
    return small.temporary_memory(rule, params, {}, KEY, batch)

  assert memory(4000) <= 1.01 * memory(40)
