# SPDX-License-Identifier: Apache-2.0
"""The gradient of the local loss is the plasticity rule of the paper.

The oracle is the perceptron formula of arXiv 2509.05041, edge by edge in NumPy,
with the factor 1 / B of a mean over trials where the paper has 1 / sqrt(B):

  dW_ij = (1 / (B sqrt(n_j))) x^T [y 1{y h <= theta_ij}],   x = s_j, y = s_i

h_i sums all messages but those of the output row; y is the label for the output
row; a recurrent layer's diagonal does not learn.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core.relaxation import layer_map, layers, orchestrator, rules

BATCH, CLASSES = 256, 4
DENSE, FROZEN = layers.FullyConnected, layers.FrozenFullyConnected
RECURRENT = layers.RecurrentDiscrete
# Different margins into one row: they belong to edges.
NETWORKS = {
  'one hidden row': {
    1: {0: DENSE(20, 1.0, 3.0), 1: RECURRENT(20, 1.0, 0.0), 2: FROZEN(20)},
    2: {1: DENSE(CLASSES, 1.0, 2.0), 2: layers.OutputLayer(CLASSES)},
  },
  'two hidden rows': {
    1: {
      0: DENSE(16, 1.0, 3.0),
      1: RECURRENT(16, 2.0, 1.0),
      2: DENSE(16, 1.0, 0.0),
      3: FROZEN(16),
    },
    2: {
      1: DENSE(12, 1.0, 2.0),
      2: RECURRENT(12, 1.0, 0.0),
      3: layers.FrozenRescaledFullyConnected(12),
    },
    3: {2: DENSE(CLASSES, 1.0, 1.0), 3: layers.OutputLayer(CLASSES)},
  },
}
INPUT = 10


@functools.cache
def problem(name, kind):
  """An orchestrator, parameters, constants, a state and classes.

  Weights are normal numbers, or integers from -1 to 1: then fields are
  integers, and margins are hit exactly.
  """
  rows = layer_map.LayerMap.from_dict(NETWORKS[name])
  network = orchestrator.SequentialOrchestrator(rows)
  generator = np.random.default_rng(7)
  inputs = generator.choice([-1.0, 1.0], (BATCH, INPUT)).astype(np.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), inputs)

  def draw(leaf):
    if kind == 'integers':
      return generator.integers(-1, 2, leaf.shape).astype(np.float32)
    return generator.normal(size=leaf.shape).astype(np.float32)

  params, constants = jax.tree.map(draw, shapes)
  for i, j in rows:
    layer, edge = rows[i, j], layer_map.edge_name((i, j))
    for setting in ('threshold', 'j_d'):
      if setting in constants.get(edge, {}):
        constants[edge][setting] = np.float32(getattr(layer, setting))
  classes = generator.integers(0, CLASSES, BATCH)
  state = network.initial_state(params, constants, inputs, classes)
  for row in rows.rows[:-1]:
    spins = generator.choice([-1.0, 1.0], state[row].shape)
    state = state.at_row(row, jnp.asarray(spins, jnp.float32))
  return network, params, constants, state, classes


def oracle(network, params, constants, state, classes):
  """Minus the paper's update / sqrt(B), per edge, and the number of ties."""
  rows, num_ties, updates = network.layer_map, 0, {}
  last = max(i for i, _ in rows)
  labels = np.where(np.arange(CLASSES) == classes[:, None], 1.0, -1.0)
  states = [np.asarray(buffer) for buffer in state.buffers]
  weights = {}
  for i, j in rows:
    if (i, j) != (last, last) and j != last:
      weights[i, j] = np.array(params[f'to{i}_from{j}']['w'])
      if i == j:
        np.fill_diagonal(weights[i, j], rows[i, i].j_d)
  for i, j in weights:
    field = sum(states[k] @ weights[m, k] for m, k in weights if m == i)
    target = labels if i == last else states[i]
    margin = rows[i, j].threshold
    learns = target * field <= margin
    num_ties += np.sum(target * field == margin)
    count = BATCH * np.sqrt(states[j].shape[1])
    updates[f'to{i}_from{j}'] = -states[j].T @ (target * learns) / count
    if i == j:
      np.fill_diagonal(updates[f'to{i}_from{j}'], 0)
  return {name: {'w': update} for name, update in updates.items()}, num_ties


def distances(updates, expected):
  """The largest difference in each edge."""
  return {
    name: float(np.abs(np.asarray(update['w']) - expected[name]['w']).max())
    for name, update in updates.items()
  }


each = pytest.mark.parametrize('name', NETWORKS)


@each
@pytest.mark.parametrize('kind', ['normal', 'integers'])
def test_the_gradient_is_the_perceptron_rule(name, kind):
  """Truth: the paper's formula in NumPy, on every edge, ties included."""
  network, *arguments = problem(name, kind)
  expected, num_ties = oracle(network, *arguments)
  updates = jax.jit(network.backward)(*arguments)
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, arguments[0])
  far = distances(updates, expected)
  assert max(far.values()) < 1e-6, far
  # No edge is trivially right.
  assert all(np.abs(update['w']).max() > 0.01 for update in expected.values())
  if kind == 'integers':
    assert num_ties > 500


@each
def test_a_mutant_that_forgets_the_ties_is_far_off(name, monkeypatch):
  """Truth: the same oracle; relu has slope 0 at 0, the rule learns at ties."""
  network, *arguments = problem(name, 'integers')
  expected, _ = oracle(network, *arguments)

  def relu(field, target, threshold):
    return jnp.sum(jax.nn.relu(threshold - target * field), axis=1)

  monkeypatch.setattr(rules, 'perceptron', relu)
  far = distances(jax.jit(network.backward)(*arguments), expected)
  assert min(far.values()) > 0.005, far


@each
def test_a_mutant_with_one_hinge_a_row_is_far_off(name):
  """Truth: the same oracle; a row has several margins and fan-ins.

  The mutant sums a row's live messages and takes one hinge, with the margin of
  the edge from the row before. It is right on that edge, wrong on the others.
  """
  network, *arguments = problem(name, 'integers')
  _, constants, state, classes = arguments
  expected, _ = oracle(network, *arguments)
  rows = network.layer_map

  def one_hinge_a_row(params):
    total, labels = 0.0, rules.signed_labels(classes, CLASSES)
    for i in rows.rows:
      target = labels if i == rows.last else state[i]
      field = 0.0
      for j in rows.senders(i, 'free'):
        edge = layer_map.edge_name((i, j))
        layer = rows[i, j]
        weights = layer.weights(params.get(edge, {}), constants.get(edge, {}))
        message = layer.message(weights, state[j])
        still = jax.lax.stop_gradient(message)
        field += still + (message - still) / np.sqrt(state[j].shape[1])
      margin = rows[i, i - 1].threshold
      total += jnp.mean(rules.perceptron(field, target, jnp.float32(margin)))
    return total

  mutant = jax.jit(jax.grad(one_hinge_a_row))
  far = distances(mutant(arguments[0]), expected)
  before = {layer_map.edge_name((i, i - 1)) for i in rows.rows}
  assert max(far[edge] for edge in before) < 1e-6, far
  assert min(far[edge] for edge in set(far) - before) > 0.01, far


def test_the_label_reaches_the_readout_only():
  """Truth: the spec: label feedback is filtered out of every field."""
  network, params, constants, state, classes = problem(
    'two hidden rows', 'normal'
  )
  backward = jax.jit(network.backward)
  updates = backward(params, constants, state, classes)
  # The output row of the state may hold anything; the target is the label.
  overwritten = state.at_row(-1, 9 - 3 * state[-1])
  same = backward(params, constants, overwritten, classes)
  chex.assert_trees_all_equal(same, updates)
  moved = backward(params, constants, state, (classes + 1) % CLASSES)
  for edge, update in updates.items():
    same = np.array_equal(update['w'], moved[edge]['w'])
    assert same == (edge != 'to3_from2'), edge


def test_labels_may_be_floats():
  """Truth: classes and their +-1 labels are the same target."""
  network, params, constants, state, classes = problem(
    'one hidden row', 'normal'
  )
  labels = np.where(np.arange(CLASSES) == classes[:, None], 1.0, -1.0)
  np.testing.assert_array_equal(rules.signed_labels(classes, CLASSES), labels)
  chex.assert_trees_all_equal(
    network.local_loss(params, constants, state, labels.astype(np.float32)),
    network.local_loss(params, constants, state, classes),
  )
  with pytest.raises(AssertionError):
    rules.signed_labels(labels[:, :-1], CLASSES)


def test_the_gate_weighs_each_trial():
  """Truth: the mean over trials of the gate times the trial's own update."""
  network, params, constants, state, classes = problem(
    'one hidden row', 'integers'
  )
  few = 5
  state, classes = jax.tree.map(lambda s: s[:few], (state, classes))
  gate = np.array([0.0, 0.5, 1.0, 2.0, 0.0], np.float32)
  descend = jax.jit(network.backward)
  gated = descend(params, constants, state, classes, gate[:, None])
  expected = jax.tree.map(np.zeros_like, params)
  for b in range(few):
    trial, label = jax.tree.map(lambda s, b=b: s[b : b + 1], (state, classes))
    single = descend(params, constants, trial, label, np.ones((1, 1)))
    expected = jax.tree.map(
      lambda total, own, b=b: total + gate[b] * own / few, expected, single
    )
  chex.assert_trees_all_close(gated, expected, atol=1e-6)
  nothing = descend(params, constants, state, classes, 0 * gate[:, None])
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(nothing))
  with pytest.raises(AssertionError):
    network.backward(params, constants, state, classes, gate)


def test_the_loss_is_the_sum_of_hinges():
  """Truth: mean_b sum_edges sum_i max(0, theta - y h), in NumPy."""
  network, params, constants, state, classes = problem(
    'one hidden row', 'normal'
  )
  labels = np.where(np.arange(CLASSES) == classes[:, None], 1.0, -1.0)
  coupling = np.array(params['to1_from1']['w'])
  np.fill_diagonal(coupling, 1.0)
  x, s = np.asarray(state[0]), np.asarray(state[1])
  hidden = s * (x @ params['to1_from0']['w'] + s @ coupling)
  output = labels * (s @ params['to2_from1']['w'])
  hinges = [(3.0, hidden), (0.0, hidden), (2.0, output)]
  expected = sum(np.maximum(0, m - h).sum(1).mean() for m, h in hinges)
  value = network.local_loss(params, constants, state, classes)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_field_that_is_no_number_is_a_loss_that_is_none():
  """Truth: NaN stays NaN, or a run whose weights are gone would look fine."""
  field = jnp.array([[1.0, jnp.nan], [1.0, 2.0]])
  target = jnp.ones((2, 2))
  losses = rules.perceptron(field, target, jnp.float32(1.5))
  assert jnp.isnan(losses[0]) and losses[1] == 0.5
