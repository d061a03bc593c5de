# SPDX-License-Identifier: Apache-2.0
"""A saved state comes back whole, or says what differs."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from bionet_learners import base
from bionet_learners.training import checkpoints


def state(size=3):
  params = {'w': jnp.arange(float(size))}
  return base.LearnerState(
    params=params,
    constants={'j_d': jnp.float32(0.5)},
    rule_state=base.RuleState(shared=(), per_trial=(jnp.ones((2, 4)),)),
    opt_state=optax.adam(0.1).init(params),
    step=jnp.int32(7),
  )


def test_a_state_comes_back_bit_for_bit(tmp_path):
  """Truth: what was saved; structure from a template of shapes."""
  path = checkpoints.save_checkpoint(state(), tmp_path, 7)
  assert path.name == 'checkpoint_7'
  template = jax.eval_shape(state)
  restored = checkpoints.load_checkpoint(path, template)
  chex.assert_trees_all_equal(restored, state())
  chex.assert_trees_all_equal_structs(restored, state())


def without_rule_state(state):
  return state._replace(rule_state=base.RuleState(shared=(), per_trial=()))


def with_float_step(state):
  return state._replace(step=jnp.float32(7))


@pytest.mark.parametrize(
  'template, message',
  [
    (lambda: state(4), r'opt_state/0/mu/w is float32\[3\], and float32\[4\]'),
    (lambda: without_rule_state(state()), 'per_trial/0 is .* and nothing'),
    (lambda: with_float_step(state()), r'step is int32\[\], and float32'),
  ],
)
def test_another_template_is_refused_and_the_leaf_named(
  tmp_path, template, message
):
  """Truth: the first leaf, by name, that was saved otherwise."""
  path = checkpoints.save_checkpoint(state(), tmp_path, 7)
  with pytest.raises(ValueError, match=message):
    checkpoints.load_checkpoint(path, jax.eval_shape(template))
