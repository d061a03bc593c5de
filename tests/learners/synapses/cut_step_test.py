# SPDX-License-Identifier: Apache-2.0
"""The cut transition against explicit products of Jacobians.

Every core here is a function `advance(p, x, s, heard)` of the state twice: `s`
where units keep their own, `heard` where it enters a product. The core passes
its state as both; the truth keeps them apart.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
from bionet_core.cells import cores as cells
from bionet_learners import oracles
from bionet_learners.reverse import bptt
from bionet_learners.synapses import cut_step
from bionet_learners.traces import d_rtrl
from tests import small

pytestmark = pytest.mark.oracle

T, B, I, N, O = 7, 2, 3, 4, 2
KEY = jax.random.key(4)


def trials(dtype=jnp.float32):
  return small.trials((T, B, I, O), (4, 6), dtype=dtype)


def cell_of(advance, shapes, num_states):
  """A Cell of plain functions; the emission is the last state."""

  def init(key, inputs):
    keys = jax.random.split(key, len(shapes) + 1)
    core = {
      name: 0.7 * jax.random.normal(k, shape, inputs.dtype)
      for (name, shape), k in zip(shapes.items(), keys[:-1], strict=True)
    }
    w = jax.random.normal(keys[-1], (N, O), inputs.dtype)
    return {'core': core, 'readout': {'w': w}}, {}

  def initial_state(constants, keys):
    return tuple(jnp.zeros((*keys.shape, N)) for _ in range(num_states))

  def step(params, constants, state, keys, inputs):
    state = advance(params['core'], inputs, state, state)
    return state[-1], state

  def readout(params, constants, emission):
    return emission @ params['readout']['w']

  return interfaces.Cell(init, initial_state, step, readout)


def by_jacobians(advance, num, params, batch):
  """`influence <- D influence + immediate`, whole matrices of Jacobians."""
  core, w = params['core'], params['readout']['w']

  def flat(state):
    return jnp.concatenate(state, axis=-1)

  @jax.jit
  def one_step(state, influence, x, target, mask):
    decay = jax.jacobian(lambda s: flat(advance(core, x, s, state)))(state)
    decay = jnp.concatenate([d[0, :, 0] for d in decay], axis=-1)
    immediate = jax.jacobian(lambda p: flat(advance(p, x, state, state)))(core)
    influence = jax.tree.map(
      lambda m, d: jnp.tensordot(decay, m, 1) + d[0], influence, immediate
    )
    state = advance(core, x, state, state)

    def scored(s):
      return jnp.sum((s[-1] @ w - target) ** 2) * mask[0] / B

    signal = flat(jax.grad(scored)(state))[0]
    credit = jax.tree.map(lambda m: jnp.tensordot(signal, m, 1), influence)
    return state, influence, credit

  total = jax.tree.map(jnp.zeros_like, core)
  for b in range(B):
    state = tuple(jnp.zeros((1, N)) for _ in range(num))
    influence = jax.tree.map(lambda p: jnp.zeros((num * N, *p.shape)), core)
    for t in range(T):
      now = (x[t, b : b + 1] for x in (batch.inputs, batch.targets, batch.mask))
      state, influence, credit = one_step(state, influence, *now)
      total = jax.tree.map(lambda g, c: g + c, total, credit)
  return jax.tree.map(lambda g, p: g.reshape(p.shape), total, core)


def fused_and_tied(p, x, s, heard):
  """One product sliced after it, two states, a bias used twice."""
  c, h = s[0], s[1]
  y = jnp.concatenate([x, heard[1]], axis=-1) @ p['w']
  gate = jax.nn.sigmoid(y[:, N : 2 * N] + p['b'])
  c = gate * c + (1 - gate) * jnp.tanh(y[:, :N] - p['b'])
  h = 0.3 * h + jax.nn.sigmoid(y[:, 2 * N :]) * jnp.tanh(c)
  return c, h


FUSED = {'w': (I + N, 3 * N), 'b': (1, N)}


def reset_gate(p, x, s, heard):
  """A gate that acts through a second synapse."""
  r = jax.nn.sigmoid(x @ p['r'] + heard[0] @ p['rh'])
  z = jax.nn.sigmoid(x @ p['z'] + p['bz'])
  return (z * s[0] + (1 - z) * jnp.tanh((r * heard[0]) @ p['h'] + x @ p['x']),)


RESET = {
  'r': (I, N),
  'rh': (N, N),
  'z': (I, N),
  'bz': (1, N),
  'h': (N, N),
  'x': (I, N),
}


def drawn(seed):
  """A core drawn at random: how many states, what drives and decays each.

  States that are added to each other are one layer. What a layer hears of
  another one is not cut: that is `s`, and `heard` what it hears of itself.

  Returns:
    The core, and whether no layer hears another one.
  """
  rng = np.random.default_rng(seed)
  num = int(rng.integers(1, 4))
  shapes, plans = {}, []
  for i in range(num):
    kind = ['leak', 'gate', 'weight'][rng.integers(3)]
    plans.append((kind, bool(rng.integers(2)), int(rng.integers(num))))
    shapes[f'w{i}'] = (I + N, 2 * N)
    shapes[f'd{i}'] = (1, N)
  layers = np.cumsum([i > 0 and not plan[1] for i, plan in enumerate(plans)])
  own = [layers[i] == layers[source] for i, (*_, source) in enumerate(plans)]
  squash = [jnp.tanh, jax.nn.softplus, lambda x: x / (1 + x**2)][
    rng.integers(3)
  ]

  def advance(p, x, s, heard):
    after = []
    for i, (kind, chained, source) in enumerate(plans):
      at_source = (heard if own[i] else s)[source]
      y = jnp.concatenate([x, at_source], axis=-1) @ p[f'w{i}']
      keep = {
        'leak': 0.8,
        'gate': jax.nn.sigmoid(y[:, N:]),
        'weight': jnp.tanh(p[f'd{i}']),
      }[kind]
      new = keep * s[i] + squash(y[:, :N] + p[f'd{i}'])
      if chained and after:
        new = new + 0.5 * after[-1] * jax.nn.sigmoid(y[:, N:])
      after.append(new)
    return tuple(after)

  return (advance, shapes, num), all(own)


CORES = {
  'fused_and_tied': (fused_and_tied, FUSED, 2),
  'reset_gate': (reset_gate, RESET, 1),
}


def gradients(core, windows=(3,)):
  advance, shapes, num = core
  batch = trials()
  cell = cell_of(advance, shapes, num)
  params, _ = cell.init(jax.random.key(0), batch.inputs[0])

  def run(rule):
    state = rule.init(KEY, params, {}, batch)
    return jax.jit(rule.estimate)(params, {}, state, KEY, batch)[0].gradient

  reverse = run(d_rtrl.d_rtrl(cell, small.squared_error, execution='reverse'))
  forward = [
    run(d_rtrl.d_rtrl(cell, small.squared_error, window=k)) for k in windows
  ]
  return by_jacobians(advance, num, params, batch), reverse, forward, run, cell


def assert_same(got, wanted, tolerance=2e-5):
  for path, leaf in jax.tree.leaves_with_path(wanted):
    own = dict(jax.tree.leaves_with_path(got))[path]
    if not oracles.norm(leaf):  # a parameter that this core does not use
      assert not oracles.norm(own), path
      continue
    assert oracles.norm(leaf) > 1e-4, f'{path}: nothing to compare'
    assert oracles.relative_error(own, leaf) < tolerance, path


def test_fused_weights_two_states_and_a_tied_bias():
  """Truth: explicit Jacobians with the paths through products left out.

  The mutant is BPTT, which keeps them.
  """
  wanted, reverse, forward, run, cell = gradients(CORES['fused_and_tied'])
  assert_same(reverse['core'], wanted)
  assert_same(forward[0]['core'], wanted)
  whole = run(bptt.bptt(cell, small.squared_error))
  assert oracles.relative_error(whole['core'], wanted) > 0.02


def test_a_gate_behind_a_second_synapse_keeps_its_credit_in_reverse():
  """Truth: explicit Jacobians; forward, windows hold that gate's credit."""
  wanted, reverse, forward, _, _ = gradients(CORES['reset_gate'])
  assert_same(reverse['core'], wanted)
  for name, leaf in forward[0]['core'].items():
    error = oracles.relative_error(leaf, wanted[name])
    assert (error > 1e-3) == (name in ('r', 'rh')), (name, error)
    assert oracles.norm(leaf) > 1e-4


@pytest.mark.parametrize(
  'seed',
  [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 12))],
)
def test_random_cores(seed):
  """Truth: explicit Jacobians of cores drawn at random.

  Credit from layer to layer stays within a window, so that cores with such
  layers are run in one.
  """
  core, apart = drawn(seed)
  windows = (2, 3) if apart else (T,)
  wanted, reverse, forward, _, _ = gradients(core, windows)
  assert_same(reverse['core'], wanted, 5e-5)
  for own in forward:
    assert_same(own['core'], wanted, 5e-5)


def test_values_are_the_cells_own():
  """Truth: the cell's own step, bit for bit in its arithmetic."""
  cell = cells.cell_from_core(lambda: hk.GRU(N), lambda: hk.Linear(O))
  batch = trials()
  params, _ = cell.init(jax.random.key(0), batch.inputs[0])
  keys = jax.random.split(KEY, B)
  state = jax.random.normal(KEY, (B, N))
  args = (params, {}, state, keys, batch.inputs[0])
  np.testing.assert_array_equal(
    cut_step.cut(cell).step(*args)[0], cell.step(*args)[0]
  )


class Normalised(hk.RNNCore):
  """Units meet outside of a synapse: LayerNorm, softmax, or a shift."""

  def __init__(self, kind):
    super().__init__()
    self._kind = kind

  def initial_state(self, batch_size):  # noqa: D102
    return jnp.zeros((batch_size, N))

  def __call__(self, inputs, state):  # noqa: D102
    if self._kind == 'grows':
      return state, jnp.zeros((inputs.shape[0], N + 1))
    x = hk.Linear(N)(inputs)
    if self._kind == 'shift':
      state = jnp.roll(state, 1, axis=-1) + x
    elif self._kind == 'softmax':
      state = jax.nn.softmax(x + state)
    else:
      x = x + hk.Linear(N)(state)
      state = jnp.tanh(hk.LayerNorm(-1, True, True)(x))
    return state, state


@pytest.mark.parametrize(
  'kind, error, match',
  [
    ('layer_norm', ValueError, 'reduce_sum.*rtrl, snap, bptt'),
    ('softmax', ValueError, 'reduce_(max|sum).*rtrl, snap, bptt'),
    ('shift', ValueError, 'moves units.*rtrl, snap, bptt'),
    ('grows', TypeError, r'changes state.*\[2, 4\].*\[2, 5\]'),
  ],
)
def test_what_has_no_trace_unit_by_unit_is_refused(kind, error, match):
  """Truth: the message names the operation and the rules that do apply."""
  cell = cells.cell_from_core(lambda: Normalised(kind), lambda: hk.Linear(O))
  batch = trials()
  params, _ = cell.init(jax.random.key(0), batch.inputs[0])
  with pytest.raises(error, match=match):
    cut_step.cut(cell).step(
      params, {}, jnp.zeros((B, N)), jax.random.split(KEY, B), batch.inputs[0]
    )
