# SPDX-License-Identifier: Apache-2.0
"""SnAp at full order is RTRL, on cores whose structure is easily misread.

Truth: the influence written out with dense Jacobians by reverse mode, trial by
trial, in float64.
"""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util

from bionet_core import interfaces, unroll
from bionet_core.cells import cores, spiking
from bionet_learners import oracles
from bionet_learners.influence import snap, steps
from bionet_learners.reverse import bptt
from tests import small

pytestmark = pytest.mark.oracle

T, B, I, N, O = 5, 2, 3, 3, 2
KEY = jax.random.key(4)


def trials():
  """Delayed: the last two steps are asked. Inputs lie on both sides of 0."""
  return small.trials((T, B, I, O), (T - 2, T - 1), dtype=float)


def by_influence(cell, params, constants, batch):
  """RTRL by its definition: `M <- J M + D` with dense Jacobians."""
  flat, unravel = flatten_util.ravel_pytree(params)
  keys = unroll.trial_keys(KEY, batch.index)
  begin = unroll.initial_state(cell, constants, KEY, batch.index)
  num_states = steps.rows(begin, len(batch.index)).shape[1]

  def trial(state, key, inputs, targets, mask):
    def advance(carry, now):
      state, influence, total = carry
      t, inputs, targets, mask = now
      noise = unroll.step_keys(key[None], t[None])

      def step(flat, row):
        before = steps.with_rows(state, row[None])
        emission, after = cell.step(
          unravel(flat), constants, before, noise, inputs[None]
        )
        rows = steps.rows(after, 1)[0], emission.ravel()
        return jnp.concatenate(rows), (emission, after)

      (direct, through), (emission, after) = jax.jacrev(
        step, (0, 1), has_aux=True
      )(flat, steps.rows(state, 1)[0])
      influence = direct + through @ influence

      def score(flat, emission):
        outputs = cell.readout(unravel(flat), constants, emission)
        return small.squared_error(outputs, targets[None], mask[None])[0] / B

      own, signal = jax.grad(score, (0, 1))(flat, emission)
      total = total + own + signal.ravel() @ influence[num_states:]
      return (after, influence[:num_states], total), None

    start = jnp.zeros((num_states, flat.size)), jnp.zeros(flat.size)
    by_step = jnp.arange(T), inputs, targets, mask
    state = jax.tree.map(lambda x: x[None], state)
    return jax.lax.scan(advance, (state, *start), by_step)[0][2]

  data = batch.inputs, batch.targets, batch.mask
  each = jax.vmap(trial, in_axes=(0, 0, 1, 1, 1))(begin, keys, *data)
  return unravel(jnp.sum(each, axis=0))


class Fed(hk.RNNCore):
  """A GRU fed embedded signs and on/off inputs, and reset by the last one."""

  def __init__(self):
    super().__init__()
    self._core = hk.ResetCore(hk.GRU(N))

  def __call__(self, inputs, state):
    """Emits the GRU's state."""
    table = hk.Embed(2, 2)((inputs[:, 0] > 0).astype(int))
    rectified = [jax.nn.relu(inputs), jax.nn.relu(-inputs)]
    features = jnp.concatenate([table, *rectified], axis=1)
    return self._core((features, inputs[:, -1] > 0.3), state)

  def initial_state(self, batch_size):
    """The GRU's."""
    return self._core.initial_state(batch_size)


def fed():
  return cores.cell_from_core(Fed, lambda: hk.Linear(O))


def silent():
  """Spiking units, of which none fires but by strong noise."""
  return spiking.spiking(
    small.Sizes((I,), O),
    hidden=N,
    adaptive=0.4,
    refractory=1,
    scale_in=0.5,
    reset='zero',
  )


def hand_made(step, state=(N,), constants=None):
  """A cell of `step(params, constants, h, inputs) -> (emission, h)`."""

  def init(key, inputs):
    draws = jax.random.normal(key, (4, N, N))
    params = {'w': draws[0, :I], 'v': draws[1], 'a': draws[2, 0]}
    return {**params, 'u': draws[3, :, :O]}, constants or {}

  def initial_state(constants, keys):
    h = jnp.zeros((*keys.shape, *state))
    return {'h': h, 'clock': jnp.zeros(keys.shape, int)}

  def counted(params, constants, state, keys, inputs):
    emission, h = step(params, constants, state, inputs)
    return emission, {'h': h, 'clock': state['clock'] + 1}

  return interfaces.Cell(
    init, initial_state, counted, lambda p, c, emission: emission @ p['u']
  )


def with_derivative(backward):
  """The threshold, with a derivative of its own in reverse mode alone."""

  @jax.custom_vjp
  def spike(x):
    return (x > 0) * 1.0

  spike.defvjp(lambda x: (spike(x), x), lambda x, ct: (backward(x, ct),))

  def step(params, constants, state, inputs):
    drive = inputs @ params['w'] + state['h'] @ params['v']
    return (h := spike(drive) + 0.5 * state['h']), h

  return hand_made(step)


def surrogate():
  return with_derivative(lambda x, ct: ct / (1 + x**2))


def mixed_backward():
  """Elementwise forward; each unit's derivative goes to its neighbour."""
  return with_derivative(lambda x, ct: jnp.roll(ct, 1, axis=1) / (1 + x**2))


def delayed():
  """The emission is the state before."""

  def step(params, constants, state, inputs):
    h = 0.8 * state['h'] + inputs @ params['w'] + params['a'][None]
    return state['h'], jnp.tanh(h)

  return hand_made(step)


def fed_back():
  """The emission's argmax comes back one-hot, and a clock meets a weight."""

  def step(params, constants, state, inputs):
    emission = state['h'] @ params['v']
    choice = jax.nn.one_hot(jnp.argmax(emission, axis=1), N)
    phase = (state['clock'][:, None] + 0.3) % jnp.exp(params['a'][None])
    h = 0.8 * state['h'] + inputs @ params['w'] + choice @ params['v'] + phase
    return emission, h

  return hand_made(step)


def sparse():
  """A fixed mask, a fixed wiring, two microsteps, a leaf of weights alone."""
  mask, wiring = np.eye(N, k=1) + np.eye(N, k=-2), np.array([2, 0, 0])

  def step(params, constants, state, inputs):
    weights = params['v'] * constants['mask']

    def micro(i, h):
      return h + jnp.tanh(h @ weights + inputs @ params['w'])[:, wiring]

    h = jax.lax.fori_loop(0, 2, micro, 0.5 * state['h'][:, 0])
    scale = jnp.broadcast_to(jnp.tanh(params['a'])[None], h.shape)
    return h * state['h'][:, 1], jnp.stack([h, scale], axis=1)

  return hand_made(step, state=(2, N), constants={'mask': jnp.asarray(mask)})


def gradient(rule, batch):
  params, constants = rule.model.init(jax.random.key(0), batch)
  state = rule.init(KEY, params, constants, batch)
  estimate, _ = jax.jit(rule.estimate)(params, constants, state, KEY, batch)
  return estimate.gradient, (params, constants)


def assert_equal(got, wanted):
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  for path, leaf in jax.tree.leaves_with_path(wanted):
    other = dict(jax.tree.leaves_with_path(got))[path]
    np.testing.assert_allclose(
      other, leaf, rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path)
    )


@pytest.mark.parametrize(
  'make',
  [fed, silent, surrogate, mixed_backward, delayed, fed_back, sparse],
)
def test_full_order_is_rtrl(make):
  """Truth: the influence written out."""
  with jax.enable_x64(True):
    batch, cell = trials(), make()
    rule = snap.snap(cell, small.squared_error, order=12)
    got, (params, constants) = gradient(rule, batch)
    wanted = jax.jit(functools.partial(by_influence, cell))(
      params, constants, batch
    )
    assert oracles.norm(wanted) > 1e-3
    assert_equal(got, wanted)


def stateless(state):
  """E = tanh(x w) v, with a state that holds no float."""
  plain = hand_made(lambda params, constants, state, inputs: (None, None))

  def step(params, constants, state, keys, inputs):
    return jnp.tanh(inputs @ params['w']) @ params['v'], state

  def initial_state(constants, keys):
    return jax.tree.map(lambda x: jnp.zeros(keys.shape, int), state)

  return plain._replace(step=step, initial_state=initial_state)


@pytest.mark.parametrize(
  'state', [(), pytest.param({'clock': 0}, marks=pytest.mark.slow)]
)
def test_a_core_without_a_state_learns_by_bptt(state):
  """Truth: `bptt`; nothing is carried, so that nothing is dropped."""
  with jax.enable_x64(True):
    batch, cell = trials(), stateless(state)
    wanted, _ = gradient(bptt.bptt(cell, small.squared_error), batch)
    got, _ = gradient(snap.snap(cell, small.squared_error), batch)
    assert oracles.norm(wanted) > 1e-3
    assert_equal(got, wanted)
