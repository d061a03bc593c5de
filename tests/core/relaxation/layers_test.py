# SPDX-License-Identifier: Apache-2.0
"""Messages, initial draws and activations of layers, against NumPy.

`LAYERS` is the table of all public layers: `{class: (settings, sender shape)}`;
`coverage_test` checks that none is missing.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core.relaxation import layers

KEY = jax.random.key(11)
LAYERS = {
  layers.FullyConnected: ({'out': 4, 'strength': 0.7, 'threshold': 3.5}, (3,)),
  layers.FrozenFullyConnected: ({'out': 4, 'strength': 0.3}, (3,)),
  layers.FrozenRescaledFullyConnected: ({'out': 4, 'strength': 0.3}, (3,)),
  layers.RecurrentDiscrete: (
    {'out': 4, 'j_d': 0.5, 'threshold': 0.25, 'strength': 1.0},
    (4,),
  ),
  layers.OutputLayer: ({'out': 4}, (4,)),
}
LEARNED = (layers.FullyConnected, layers.RecurrentDiscrete)
table = pytest.mark.parametrize(
  'layer, shape',
  [(kind(**settings), shape) for kind, (settings, shape) in LAYERS.items()],
  ids=[kind.__name__ for kind in LAYERS],
)

weighted = pytest.mark.parametrize(
  'kind', [kind for kind in LAYERS if kind is not layers.OutputLayer]
)


def draw(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return values.astype(np.float32)


def message(layer, params, constants, sender):
  return layer.message(layer.weights(params, constants), sender)


def expected_message(layer, params, constants, sender):
  """What the spec's table says of each layer, in NumPy."""
  flat = sender.reshape(len(sender), -1)
  match layer:
    case layers.OutputLayer():
      return np.zeros_like(sender)
    case layers.FullyConnected():
      out = flat @ params['w']
    case layers.FrozenFullyConnected():
      out = flat @ constants['w']
    case layers.FrozenRescaledFullyConnected():
      classes = flat.shape[1]
      high, low = math.sqrt(classes - 1) / 2, -1 / math.sqrt(classes - 1)
      line = low + (flat + 1) / 2 * (high - low)  # through both labels
      out = line @ constants['w']
    case layers.RecurrentDiscrete():
      coupling = np.array(params['w'])
      np.fill_diagonal(coupling, layer.j_d)
      out = flat @ coupling
  return out.reshape(len(sender), *layers.shape_of(layer.out))


@table
def test_messages_are_those_of_the_spec(layer, shape):
  """Truth: the spec's table in NumPy, at random states."""
  params, constants = layer.init(KEY, shape)
  sender = draw(6, *shape)
  result = message(layer, params, constants, sender)
  expected = expected_message(layer, params, constants, sender)
  np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@table
def test_only_what_learns_is_a_parameter(layer, shape):
  """Truth: the spec: margins, j_d and frozen weights are constants."""
  params, constants = layer.init(KEY, shape)
  assert bool(params) == isinstance(layer, LEARNED)
  assert not set(params) & set(constants)
  assert set(params) <= {'w'}
  if isinstance(layer, LEARNED):
    assert constants['threshold'] == layer.threshold
    assert layer.fan_in(shape) == math.prod(shape)


@weighted
def test_rows_of_any_shape_send_and_receive(kind):
  """Truth: the same layer on flattened rows."""
  settings = LAYERS[kind][0]
  flat = kind(**(settings | {'out': 6}))
  shaped = kind(**(settings | {'out': (3, 2)}))
  params, constants = shaped.init(KEY, (2, 3))
  sender = draw(5, 2, 3)
  result = message(shaped, params, constants, sender)
  assert result.shape == (5, 3, 2)
  expected = message(flat, params, constants, sender.reshape(5, 6))
  np.testing.assert_array_equal(result.reshape(5, 6), expected)


@weighted
def test_initial_weights_are_gaussian_with_the_stated_scale(kind):
  """Truth: strength / sqrt(n_j); mean, std and kurtosis within 5 sigma."""
  settings = LAYERS[kind][0] | {'out': 200, 'strength': 0.7}
  params, constants = kind(**settings).init(KEY, (200,))
  weights = np.asarray((params or constants)['w'], float)
  if kind is layers.RecurrentDiscrete:
    assert not np.any(np.diag(weights))
    weights = weights[~np.eye(200, dtype=bool)]
  unit = weights.ravel() / (0.7 / math.sqrt(200))
  root = math.sqrt(unit.size)
  assert abs(unit.mean()) * root < 5
  assert abs(unit.std() - 1) * root * math.sqrt(2) < 5
  assert abs(np.mean(unit**4) - 3) * root / math.sqrt(96) < 5


def test_couplings_are_asymmetric():
  """Truth: independent draws: corr(J, J^T) = 0 within 5 standard errors."""
  layer = layers.RecurrentDiscrete(100, 0.5)
  coupling = np.asarray(layer.init(KEY, (100,))[0]['w'])
  upper = np.triu_indices(100, 1)
  correlation = np.corrcoef(coupling[upper], coupling.T[upper])[0, 1]
  assert abs(correlation) * math.sqrt(len(upper[0])) < 5


def test_the_self_coupling_stays_whatever_the_parameters_say():
  """Truth: the diagonal is j_d, in the message and for the gradient."""
  layer = layers.RecurrentDiscrete(4, j_d=0.5)
  params, constants = layer.init(KEY, (4,))
  overwritten = {'w': params['w'] + 9 * jnp.eye(4)}
  np.testing.assert_array_equal(
    layer.weights(overwritten, constants), layer.weights(params, constants)
  )
  np.testing.assert_array_equal(
    np.diag(layer.weights(overwritten, constants)), np.full(4, 0.5)
  )
  gradient = jax.grad(
    lambda p: jnp.sum(message(layer, p, constants, jnp.ones((2, 4))))
  )(params)
  np.testing.assert_array_equal(gradient['w'], 2 * (1 - np.eye(4)))


@pytest.mark.parametrize('classes', [2, 10])
def test_rescaled_labels(classes):
  """Truth: +1 -> sqrt(C-1) / 2 and -1 -> -1 / sqrt(C-1), by hand."""
  layer = layers.FrozenRescaledFullyConnected(classes)
  _, constants = layer.init(KEY, (classes,))
  constants = constants | {'w': jnp.eye(classes)}
  label = 2 * np.eye(classes, dtype=np.float32) - 1
  sent = message(layer, {}, constants, label)
  high, low = math.sqrt(classes - 1) / 2, -1 / math.sqrt(classes - 1)
  expected = np.where(np.eye(classes), high, low)
  np.testing.assert_allclose(sent, expected, rtol=1e-6)


def test_rescaled_labels_need_two_classes():
  """Truth: sqrt(C - 1) divides."""
  with pytest.raises(ValueError, match='at least 2 classes'):
    layers.FrozenRescaledFullyConnected(3).init(KEY, (1,))


def test_activations():
  """Truth: +1 where h >= 0 (a tie too), else -1; scores pass through."""
  field = jnp.array([[-0.5, -0.0, 0.0, 3.0]])
  discrete = layers.RecurrentDiscrete(4, 0.5).activation(field)
  np.testing.assert_array_equal(discrete, [[-1, 1, 1, 1]])
  assert discrete.dtype == field.dtype
  np.testing.assert_array_equal(layers.OutputLayer(4).activation(field), field)


@pytest.mark.parametrize('kind', LEARNED)
def test_losses_are_hinges_at_the_margin(kind):
  """Truth: sum_i max(0, theta - y h) in NumPy, ties on purpose."""
  layer = kind(**(LAYERS[kind][0] | {'threshold': 1.0}))
  _, constants = layer.init(KEY, (4,))
  field = np.array([[1.0, 2.0, -1.0, 0.5], [-1.0, 1.0, 0.0, 3.0]], np.float32)
  target = np.array([[1, 1, 1, -1], [-1, -1, 1, 1]], np.float32)
  result = layer.losses(constants, field, target)
  np.testing.assert_allclose(result, [0 + 0 + 2 + 1.5, 0 + 2 + 1 + 0])
  slopes = jax.grad(lambda h: jnp.sum(layer.losses(constants, h, target)))(
    field
  )
  learns = target * field <= 1.0
  np.testing.assert_array_equal(slopes, -target * learns)


def test_sizes_as_shapes():
  """Truth: the documented example."""
  assert layers.shape_of(256) == (256,)
  assert layers.shape_of((2, 3)) == (2, 3)
