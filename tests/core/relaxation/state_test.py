# SPDX-License-Identifier: Apache-2.0
"""The buffers of a network, against NumPy and what they must refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core.relaxation import state as states

SIZES = (3, (2, 2), 4, 5)
X = jnp.arange(6.0).reshape(2, 3)
Y = -jnp.ones((2, 5))


def test_init_zeroes_all_rows_but_the_input_and_a_given_label():
  """Truth: NumPy zeros of the documented shapes."""
  free = states.SequentialState.init(SIZES, X)
  clamped = states.SequentialState.init(SIZES, X, Y)
  assert len(free) == len(clamped) == 4
  for row, shape in enumerate([(2, 3), (2, 2, 2), (2, 4), (2, 5)]):
    expected = np.asarray(X) if row == 0 else np.zeros(shape)
    np.testing.assert_array_equal(free[row], expected)
    np.testing.assert_array_equal(clamped[row], Y if row == 3 else expected)
    assert free[row].dtype == X.dtype


def test_labels_take_the_type_of_the_input():
  """Truth: a state has one float type, so that a scan can carry it."""
  half = states.SequentialState.init((3, 5), X.astype(jnp.bfloat16), Y)
  assert half[-1].dtype == jnp.bfloat16


@pytest.mark.parametrize(
  'x, y, message',
  [
    (X[:, :2], None, r'row 0 has shape \(2, 3\).*got \(2, 2\)'),
    (X, Y[:, :4], r'row 3 has shape \(2, 5\).*got \(2, 4\)'),
    (X, Y[:1], r'row 3 has shape \(2, 5\).*got \(1, 5\)'),
    (X, Y[0], r'row 3 has shape \(2, 5\).*got \(5,\)'),
  ],
)
def test_what_does_not_fit_is_refused_and_the_row_named(x, y, message):
  """Truth: batch and trailing shapes must be those of the sizes."""
  with pytest.raises(ValueError, match=message):
    states.SequentialState.init(SIZES, x, y)


@pytest.mark.parametrize('row', [0, 2, 3, -1, -3])
def test_at_row_replaces_one_row_and_leaves_the_old_state(row):
  """Truth: a Python list that is assigned to."""
  old = states.SequentialState.init(SIZES, X, Y)
  new = old.at_row(row, old[row] + 7)
  expected = [np.array(buffer) for buffer in old.buffers]
  expected[row] = expected[row] + 7
  for now, then, buffer in zip(new.buffers, old.buffers, expected, strict=True):
    np.testing.assert_array_equal(now, buffer)
    assert now is then or np.any(now != then)
  np.testing.assert_array_equal(old[0], X)
  np.testing.assert_array_equal(old[-1], Y)


def test_at_row_refuses_another_shape_and_an_unknown_row():
  """Truth: the shapes of a state never change."""
  state = states.SequentialState.init(SIZES, X)
  with pytest.raises(ValueError, match=r'row 3 has shape \(2, 5\)'):
    state.at_row(-1, jnp.zeros((2, 4)))
  with pytest.raises(IndexError):
    state.at_row(4, jnp.zeros((2, 4)))


def test_a_state_is_a_tree():
  """Truth: a law: flatten and unflatten is the identity, under jit too."""
  state = states.SequentialState.init(SIZES, X, Y)
  leaves, tree = jax.tree.flatten(state)
  assert len(leaves) == 4
  again = jax.jit(lambda s: s)(jax.tree.unflatten(tree, leaves))
  assert isinstance(again, states.SequentialState)
  np.testing.assert_array_equal(again[-1], Y)
