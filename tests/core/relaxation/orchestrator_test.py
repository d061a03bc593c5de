# SPDX-License-Identifier: Apache-2.0
"""Sweeps over two hidden rows, against loops in NumPy.

All numbers are small integers or halves, so sums are exact in any order and
the states must agree bit for bit.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import NETWORKS, plugins, testing
from bionet_core.relaxation import layer_map, layers, orchestrator

BATCH, INPUT, FIRST, SECOND, CLASSES = 4, 5, 7, 6, 3
LAST = 3
DENSE, FROZEN = layers.FullyConnected, layers.FrozenFullyConnected
ROWS = {
  1: {
    0: DENSE(FIRST, 1.0, 3.5),
    1: layers.RecurrentDiscrete(FIRST, 0.5, 0.5),
    2: DENSE(FIRST),  # feedback between hidden rows
    3: FROZEN(FIRST),  # feedback from the label
  },
  2: {
    1: DENSE(SECOND),
    2: layers.RecurrentDiscrete(SECOND, 1.5),
    3: layers.FrozenRescaledFullyConnected(SECOND),
  },
  3: {1: DENSE(CLASSES), 2: DENSE(CLASSES), 3: layers.OutputLayer(CLASSES)},
}
FILTERS = {
  'all': lambda i, j: True,
  'forward': lambda i, j: j <= i,
  'backward': lambda i, j: j >= i,
  'free': lambda i, j: j != LAST,
}


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (INPUT,)
  num_outputs: int = CLASSES


# Built-in networks and their settings in the contract: see coverage_test.
NETWORKS_TESTED = {'asymmetric': {'hidden': 6}}


@functools.cache
def make(schedule='sequential', stop=False):
  return orchestrator.SequentialOrchestrator(
    layer_map.LayerMap.from_dict(ROWS), schedule, stop
  )


def integers(tree, seed):
  """Arrays of the tree's shapes, integers from -2 to 2."""
  generator = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: generator.integers(-2, 3, leaf.shape).astype(np.float32), tree
  )


@functools.cache
def problem(seed=0):
  """Integer weights, a label and +-1 states to start from."""
  inputs = np.zeros((BATCH, INPUT), np.float32)
  shapes = jax.eval_shape(make().init, jax.random.key(seed), inputs)
  params, constants = integers(shapes, seed)
  constants['to1_from1']['j_d'] = np.float32(0.5)
  constants['to2_from2']['j_d'] = np.float32(1.5)
  # The rescaling of labels by halves, too, so that sums are exact.
  constants['to2_from3'] |= {'a': np.float32(1.5), 'b': np.float32(-0.5)}
  generator = np.random.default_rng(seed + 2)
  inputs = generator.choice([-1.0, 1.0], (BATCH, INPUT)).astype(np.float32)
  targets = np.arange(BATCH) % CLASSES
  state = make().initial_state(params, constants, inputs, targets)
  for row, size in ((1, FIRST), (2, SECOND)):
    spins = generator.choice([-1.0, 1.0], (BATCH, size)).astype(np.float32)
    state = state.at_row(row, jnp.asarray(spins))
  return params, constants, state


def message(params, constants, receiver, sender, state):
  """One message of the network above, by the layer's formula."""
  name = f'to{receiver}_from{sender}'
  if (receiver, sender) == (LAST, LAST):
    return np.zeros_like(state)
  if (receiver, sender) == (2, LAST):
    state = 1.5 * state - 0.5
  weight = np.array((params if name in params else constants)[name]['w'])
  if receiver == sender:
    np.fill_diagonal(weight, {1: 0.5, 2: 1.5}[receiver])
  return state @ weight


def swept(params, constants, rows, messages, sweeps, schedule):
  """Rows and changed fractions after that many sweeps, unit by definition."""
  rows, changed = [np.array(row) for row in rows], []
  for _ in range(sweeps):
    seen, flips = [row.copy() for row in rows], 0
    for i in (1, 2):
      source = rows if schedule == 'sequential' else seen
      field = np.zeros_like(rows[i])
      for j in sorted(ROWS[i]):
        if FILTERS[messages](i, j):
          field += message(params, constants, i, j, source[j])
      rows[i] = np.where(field >= 0, 1.0, -1.0).astype(np.float32)
      flips += np.sum(rows[i] != seen[i])
    changed.append(flips / (BATCH * (FIRST + SECOND)))
  return rows, np.array(changed, np.float32)


@pytest.mark.parametrize('schedule', orchestrator.SCHEDULES)
@pytest.mark.parametrize('messages', layer_map.MESSAGES)
def test_settle_is_the_loop_over_rows_and_senders(schedule, messages):
  """Truth: NumPy loops; three sweeps, a clamped label, feedback both ways."""
  params, constants, state = problem()
  settled, changed = make(schedule).settle(
    params, constants, state, messages=messages, sweeps=3
  )
  expected, fractions = swept(
    params, constants, state.buffers, messages, 3, schedule
  )
  chex.assert_trees_all_equal(list(settled.buffers), expected)
  np.testing.assert_allclose(changed, fractions, rtol=1e-6)
  assert changed[0] > 0


def test_the_oracle_tells_filters_and_schedules_apart():
  """Truth: if two of them agreed, the test above would be blind to a mix-up."""
  params, constants, state = problem()
  results = [
    np.concatenate(swept(params, constants, state.buffers, m, 3, s)[0][1:3], 1)
    for m in FILTERS
    for s in orchestrator.SCHEDULES
    # Backward messages alone never reach a later row: no schedule shows.
    if (m, s) != ('backward', 'parallel')
  ]
  for i, left in enumerate(results):
    assert all(np.any(left != right) for right in results[:i])


def test_a_field_of_zero_is_plus_one():
  """Truth: the definition of the activation; all weights and j_d are 0."""
  params, constants, state = problem()
  zero = jax.tree.map(np.zeros_like, params)
  constants = jax.tree.map(np.zeros_like, constants)
  settled = make().step(zero, constants, state)
  np.testing.assert_array_equal(settled[1], np.ones((BATCH, FIRST)))
  np.testing.assert_array_equal(settled[2], np.ones((BATCH, SECOND)))


def test_step_and_step_inference_are_single_sweeps():
  """Truth: the NumPy loops with filters 'all' and 'free'."""
  params, constants, state = problem()
  for step, messages in ((make().step, 'all'), (make().step_inference, 'free')):
    rows, _ = swept(params, constants, state.buffers, messages, 1, 'sequential')
    stepped = step(params, constants, state)
    chex.assert_trees_all_equal(list(stepped.buffers), rows)


def test_predict_recomputes_the_output_row_only():
  """Truth: scores = s_1 W_31 + s_2 W_32 in NumPy; the label is overwritten."""
  params, constants, state = problem()
  expected = sum(
    message(params, constants, LAST, j, np.asarray(state[j])) for j in (1, 2)
  )
  np.testing.assert_array_equal(
    make().readout(params, constants, state), expected
  )
  predicted = make().predict(params, constants, state)
  np.testing.assert_array_equal(predicted[-1], expected)
  chex.assert_trees_all_equal(predicted.buffers[:-1], state.buffers[:-1])


def test_a_readout_does_not_see_the_clamped_label():
  """Truth: the same hidden row, unclamped; its output row couples to itself."""
  rows = {
    1: {
      0: layers.FullyConnected(4),
      1: layers.RecurrentDiscrete(4, j_d=0.5),
    },
    2: {1: layers.FullyConnected(2), 2: layers.RecurrentDiscrete(2, j_d=9.0)},
  }
  network = orchestrator.SequentialOrchestrator(
    layer_map.LayerMap.from_dict(rows)
  )
  inputs = jnp.asarray(
    np.random.default_rng(3).normal(size=(3, 5)), jnp.float32
  )
  params, constants = network.init(jax.random.key(0), inputs)
  scores = [
    network.readout(
      params,
      constants,
      network.initial_state(params, constants, inputs, targets).at_row(
        1, jnp.sign(inputs[:, :4])
      ),
    )
    for targets in (None, jnp.asarray([0, 1, 0]), jnp.asarray([1, 0, 1]))
  ]
  np.testing.assert_array_equal(scores[0], scores[1])
  np.testing.assert_array_equal(scores[0], scores[2])


@pytest.mark.parametrize('messages', ['all', 'forward', 'free'])
def test_stopping_at_a_fixed_point_changes_nothing(messages):
  """Truth: all sweeps, bit for bit, `changed` included.

  Couplings are weak against j_d, so that the network does stand still: the
  test asserts that it stops early.
  """
  params, constants, state = problem()
  params = {
    name: jax.tree.map(lambda w: 0.25 * w, leaf)
    if name in ('to1_from1', 'to1_from2', 'to2_from2')
    else leaf
    for name, leaf in params.items()
  }
  arguments = params, constants, state
  full, changed = make().settle(*arguments, messages=messages, sweeps=12)
  short, stopped = make(stop=True).settle(
    *arguments, messages=messages, sweeps=12
  )
  chex.assert_trees_all_equal(short, full)
  np.testing.assert_array_equal(stopped, changed)
  assert changed[0] > 0 and changed[-1] == 0


def test_no_sweeps_and_wrong_numbers():
  """Truth: 0 sweeps are the identity; less, or an unknown word, is refused."""
  params, constants, state = problem()
  same, changed = make().settle(
    params, constants, state, messages='all', sweeps=0
  )
  assert changed.shape == (0,)
  chex.assert_trees_all_equal(same, state)
  with pytest.raises(ValueError, match=r'^sweeps=-1: '):
    make().settle(params, constants, state, messages='all', sweeps=-1)
  with pytest.raises(ValueError, match=r'^messages=.freee.: '):
    make().settle(params, constants, state, messages='freee', sweeps=1)
  with pytest.raises(ValueError, match=r"^schedule='random': .*sequential"):
    make('random')


def test_an_edge_is_drawn_from_the_key_and_the_edge_alone():
  """Truth: the same edge in a map without the other edges."""
  own = layers.RecurrentDiscrete(4, 0.5)
  key, inputs = jax.random.key(5), jnp.zeros((BATCH, 4))

  def init(rows):
    rows = layer_map.LayerMap.from_dict(rows)
    return orchestrator.SequentialOrchestrator(rows).init(key, inputs)[0]

  both = {1: DENSE(4), 2: own}
  whole = init({1: {0: DENSE(4), 1: own, 2: DENSE(4)}, 2: both})
  small = init({1: {0: DENSE(4), 1: layers.OutputLayer(4)}})
  chex.assert_trees_all_equal(small['to1_from0'], whole['to1_from0'])
  flat = [np.ravel(leaf)[1:5] for leaf in jax.tree.leaves(whole)]
  for i, left in enumerate(flat):
    assert all(np.all(left != right) for right in flat[:i])


def test_trees_are_named_by_edges_and_hold_what_learns():
  """Truth: the layers of the map above."""
  params, constants, _ = problem()
  learned = {'to1_from0', 'to1_from1', 'to1_from2', 'to2_from1', 'to2_from2'}
  learned |= {'to3_from1', 'to3_from2'}
  assert set(params) == learned
  assert set(constants) == learned | {'to1_from3', 'to2_from3'}


@pytest.mark.parametrize('name', NETWORKS_TESTED)
def test_built_in_networks_keep_the_contract(name):
  """Truth: the laws of bionet_core.testing."""
  factory = plugins.load('bionet.networks', name, NETWORKS)
  network = factory(Sizes(), **NETWORKS_TESTED[name])
  testing.check_network(network, spins(), CLASSES)


@pytest.mark.slow
def test_two_hidden_rows_keep_the_contract():
  """Truth: the laws of bionet_core.testing, in parallel and stopping."""
  testing.check_network(make('parallel', True).network(), spins(), CLASSES)


def spins():
  generator = np.random.default_rng(1)
  return jnp.asarray(generator.choice([-1.0, 1.0], (3, INPUT)), jnp.float32)


def test_the_built_in_network_is_the_map_it_says():
  """Truth: the docstring of `asymmetric`: edges, scales and margins."""
  factory = plugins.load('bionet.networks', 'asymmetric', NETWORKS)
  network = factory(Sizes(), hidden=6, threshold_in=6.0, j_d=2.0)
  params, constants = network.init(jax.random.key(0), spins())
  assert set(params) == {'to1_from0', 'to1_from1', 'to2_from1'}
  assert constants['to1_from0']['threshold'] == 6.0
  assert constants['to1_from1']['j_d'] == 2.0
  assert set(constants['to1_from2']) == {'w'}
  rescaled = factory(Sizes(), hidden=6, rescaled_labels=True)
  _, constants = rescaled.init(jax.random.key(0), spins())
  assert set(constants['to1_from2']) == {'w', 'a', 'b'}
  with pytest.raises(ValueError, match=r'^hidden=0: '):
    factory(Sizes(), hidden=0)
