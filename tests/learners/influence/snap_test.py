# SPDX-License-Identifier: Apache-2.0
"""SnAp-n where it is exact, where it is not, and against its definition.

Truth: `bptt`, which finite differences check; RTRL with a mask, written out
with dense Jacobians. Mutants: the influence forgotten at each border.
"""

import itertools

import jax
import jax.numpy as jnp
import pytest

from bionet_core import interfaces
from bionet_learners.influence import snap
from bionet_learners.reverse import bptt
from tests import small

pytestmark = pytest.mark.oracle

T, B, I, N, O = 7, 2, 3, 3, 2
KEY = jax.random.key(4)
WINDOWS = (3, 4)


def trials(dtype=jnp.float32, steps=T):
  """Delayed: targets are asked for late, and the mask has holes."""
  return small.trials((steps, B, I, O), (4, steps - 1), dtype=dtype)


def compiled(rule):
  """The gradient of `(params, batch, lengths, forget=False)`, over windows."""

  def run(params, batch, lengths, forget=False):
    return small.in_windows(rule, params, {}, KEY, batch, lengths, forget)[0]

  return jax.jit(run, static_argnames=('lengths', 'forget'))


def ring(units=5):
  """H_i <- tanh(a_i h_i + w_i h_{i-1} + b_i + sum of the inputs), read by u."""

  def init(key, inputs):
    draws = jax.random.normal(key, (3, units)) * 0.5
    u = jax.random.normal(key, (units, O))
    return {'a': draws[0], 'w': draws[1] + 1, 'b': draws[2], 'u': u}, {}

  def step(params, constants, state, keys, inputs):
    around = params['w'][None] * jnp.roll(state, 1, axis=1)
    drive = params['a'][None] * state + around + params['b'][None]
    state = jnp.tanh(drive + jnp.sum(inputs, axis=1, keepdims=True))
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, units)),
    step,
    lambda params, constants, emission: emission @ params['u'],
  )


def problem(cell, batch):
  rule = bptt.bptt(cell, small.squared_error)
  params, _ = jax.jit(rule.model.init)(jax.random.key(0), batch)
  return params, compiled(rule)(params, batch, lengths=(T,))


@pytest.mark.parametrize(
  'core, x64, tolerance', [('gru', True, 1e-12), ('lstm', False, 1e-5)]
)
def test_order_two_reaches_a_dense_layer(core, x64, tolerance):
  """Truth: `bptt` over the whole; two windows sum to it.

  Mutant: the influence forgotten at the border.
  """
  with jax.enable_x64(x64):
    batch, cell = trials(float if x64 else jnp.float32), small.stock(core, N, O)
    params, wanted = problem(cell, batch)
    estimate = compiled(snap.snap(cell, small.squared_error, order=2))
    got = estimate(params, batch, lengths=WINDOWS)
    assert max(small.errors(got, wanted).values()) < tolerance
    bad = estimate(params, batch, lengths=WINDOWS, forget=True)
    off = small.errors(bad, wanted)
    assert all(e > 0.02 for name, e in off.items() if 'linear' not in name)


@pytest.mark.slow
def test_the_error_falls_with_the_order_on_a_ring():
  """Truth: `bptt`; unit i of a ring of 5 reaches one unit more a step.

  Mutant: the influence forgotten at the border, at the order that is exact.
  """
  batch, cell = trials(), ring()
  params, wanted = problem(cell, batch)
  found = []
  for order in range(1, 6):
    rule = snap.snap(cell, small.squared_error, order=order)
    memory = jax.eval_shape(rule.init, KEY, params, {}, batch).per_trial
    count = sum(x.size for x in memory.traces)
    assert count == B * 3 * 5 * order  # three parameters a unit
    got = compiled(rule)(params, batch, lengths=WINDOWS)
    off = small.errors(got, wanted)
    assert off["['u']"] < 1e-6
    found.append(max(off.values()))
  assert all(more > 1.2 * less for more, less in itertools.pairwise(found))
  assert found[0] > 0.05 and found[-1] < 1e-5
  bad = compiled(rule)(params, batch, lengths=WINDOWS, forget=True)
  assert max(small.errors(bad, wanted).values()) > 0.02


def masked_rtrl(cell, params, batch, mask):
  """SnAp by its definition, dense, trial by trial, for state = emission."""
  total = jax.tree.map(jnp.zeros_like, params)
  for b in range(B):
    state = jnp.zeros(N)
    influence = jax.tree.map(lambda x: jnp.zeros((N, *x.shape)), params)
    for t in range(T):

      def step(params, state, t=t, b=b):
        return cell.step(
          params, {}, state[None], KEY[None], batch.inputs[t, b][None]
        )[1][0]

      def score(params, state, t=t, b=b):
        outputs = cell.readout(params, {}, state[None])
        target, weight = batch.targets[t, b][None], batch.mask[t, b][None]
        return small.squared_error(outputs, target, weight)[0] / B

      direct, through = jax.jacobian(step, (0, 1))(params, state)
      influence = jax.tree.map(
        lambda d, m, c, j=through: c * (d + jnp.tensordot(j, m, 1)),
        direct,
        influence,
        mask,
      )
      state = step(params, state)
      own, signal = jax.grad(score, (0, 1))(params, state)
      total = jax.tree.map(
        lambda g, o, m, s=signal: g + o + jnp.tensordot(s, m, 1),
        total,
        own,
        influence,
      )
  return total


@pytest.mark.slow
def test_order_one_is_the_masked_influence():
  """Truth: RTRL times a mask, written out; a weight reaches its column's unit.

  It is neither BPTT's gradient nor that of a unit that forgets.
  """
  batch, cell = trials(), small.stock('vanilla_rnn', N, O)
  params, exact = problem(cell, batch)

  def mask(path, x):
    if path[0].key == 'linear':  # the readout
      return jnp.zeros((N, *x.shape))
    column = jnp.expand_dims(jnp.eye(N), tuple(range(1, x.ndim)))
    return jnp.broadcast_to(column, (N, *x.shape))

  wanted = masked_rtrl(
    cell, params, batch, jax.tree.map_with_path(mask, params)
  )
  rule = snap.snap(cell, small.squared_error, order=1)
  got = compiled(rule)(params, batch, lengths=WINDOWS)
  assert max(small.errors(got, wanted).values()) < 1e-5
  off = small.errors(got, exact)
  assert all(e > 0.01 for name, e in off.items() if "['linear']" not in name)


def diagonal():
  """H <- a h + x w, elementwise in h; read by u."""

  def init(key, inputs):
    draws = jax.random.normal(key, (3, I, N))
    return {'w': draws[0], 'u': draws[1][:, :O], 'a': 0.5 + draws[2, 0] / 4}, {}

  def step(params, constants, state, keys, inputs):
    state = params['a'][None] * state + inputs @ params['w']
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, N)),
    step,
    lambda params, constants, emission: emission @ params['u'],
  )


def test_order_one_is_exact_where_recurrence_is_elementwise():
  """Truth: `bptt`; mutant: the influence forgotten at the border."""
  batch, cell = trials(), diagonal()
  params, wanted = problem(cell, batch)
  estimate = compiled(snap.snap(cell, small.squared_error, order=1))
  got = estimate(params, batch, lengths=WINDOWS)
  assert max(small.errors(got, wanted).values()) < 1e-5
  bad = small.errors(
    estimate(params, batch, lengths=WINDOWS, forget=True), wanted
  )
  assert bad["['w']"] > 0.05 and bad["['a']"] > 0.05


def test_orders_start_at_one():
  """Truth: the message names the setting."""
  with pytest.raises(ValueError, match=r'order=0: 1 is the least'):
    snap.snap(diagonal(), small.squared_error, order=0)


def test_memory_does_not_grow_with_time():
  """Truth: the compiler's own count of temporary memory at two lengths."""
  rule = snap.snap(
    small.stock('vanilla_rnn', N, O), small.squared_error, order=1
  )
  params, _ = rule.model.init(jax.random.key(0), trials())

  def memory(steps):
    batch = trials(steps=steps)
    return small.temporary_memory(rule, params, {}, KEY, batch)

  assert memory(4000) <= 1.01 * memory(40)
