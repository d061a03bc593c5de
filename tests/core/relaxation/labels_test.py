# SPDX-License-Identifier: Apache-2.0
"""Labels of a relaxation network that are no class.

Truth: the network without the trials that carry them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core.relaxation import asymmetric, rules


@pytest.mark.parametrize('label', [-1, -100, 3, 255])
def test_a_label_of_no_class_is_an_error_and_never_a_class(label):
  """Truth: the words; NaN where a program cannot raise. Mutant: all -1."""
  targets = jnp.array([2, label])
  with pytest.raises(ValueError, match=rf'^targets={label}: .* from 0 to 2 '):
    rules.signed_labels(targets, 3)
  labels = jax.jit(lambda x: rules.signed_labels(x, 3))(targets)
  np.testing.assert_array_equal(labels, [[-1, -1, 1], [np.nan] * 3])


class Sizes:
  input_shape = (4,)
  num_outputs = 3


@pytest.mark.parametrize('label', [-100, 255])
def test_a_label_of_weight_0_is_not_read(label):
  """Truth: the gradient with a class in its place."""
  network = asymmetric.asymmetric(Sizes(), hidden=5)
  inputs = jnp.sign(jax.random.normal(jax.random.key(0), (3, 4)))
  params, constants = network.init(jax.random.key(1), inputs)
  state = network.initial_state(params, constants, inputs, jnp.array([0, 1, 2]))
  state, _ = network.settle(
    params, constants, state, None, messages='all', sweeps=2
  )
  gate = jnp.array([[1.0], [0.0], [2.0]])

  @jax.jit
  def slope(targets):
    return jax.grad(network.local_loss)(params, constants, state, targets, gate)

  got, wanted = slope(jnp.array([0, label, 2])), slope(jnp.array([0, 1, 2]))
  assert any(np.any(x) for x in jax.tree.leaves(wanted))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_array_equal(a, b)
