# SPDX-License-Identifier: Apache-2.0
"""A state with arrays without elements is saved like any other.

Truth: what was saved; of such an array type and shape are all there is.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_learners import base
from bionet_learners.training import checkpoints
from bionet_learners.training import state as states

TX = optax.adam(0.1)
PARAMS = {'w': jnp.zeros((0, 3)), 'b': jnp.arange(2.0)}


def train_state():
  return states.TrainState.create(lambda: None, PARAMS, TX)


def learner_state():
  return base.LearnerState(
    params=PARAMS,
    constants={'mask': jnp.zeros((2, 0), bool)},
    rule_state=base.RuleState((), (jnp.zeros((0, 4), jnp.bfloat16),)),
    opt_state=TX.init(PARAMS),
    step=jnp.int32(7),
  )


STATES = {
  'an array alone': lambda: jnp.zeros((3, 0)),
  'nothing else': lambda: [jnp.zeros(0, jnp.int8), np.zeros((0, 1), bool)],
  'no key': lambda: {'keys': jax.random.split(jax.random.key(0), 2)[:0]},
  'a train state': train_state,
  'a learner state': learner_state,
}


@pytest.mark.parametrize('name', STATES)
def test_it_comes_back(tmp_path, name):
  """Truth: structure, types and shapes from before; also under a guard."""
  state = STATES[name]()
  path = checkpoints.save_checkpoint(state, tmp_path, 1)
  template = jax.eval_shape(lambda: state)
  with jax.transfer_guard('disallow'):
    restored = checkpoints.load_checkpoint(path, template)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  for before, after in zip(
    jax.tree.leaves(state), jax.tree.leaves(restored), strict=True
  ):
    assert (after.shape, after.dtype) == (before.shape, before.dtype)
    if before.size:
      np.testing.assert_array_equal(after, before)


OTHERS = {
  'another shape': (
    {'w': jnp.zeros((0, 4)), 'b': jnp.zeros(2)},
    r'w is float32\[0, 3\], and float32\[0, 4\] is needed',
  ),
  'another type': (
    {'w': jnp.zeros((0, 3), int), 'b': jnp.zeros(2)},
    r'w is float32\[0, 3\], and int32\[0, 3\] is needed',
  ),
  'elements': (
    {'w': jnp.zeros((1, 3)), 'b': jnp.zeros(2)},
    r'w is float32\[0, 3\], and float32\[1, 3\] is needed',
  ),
  'none there': (
    {'b': jnp.zeros(2)},
    r'w is float32\[0, 3\], and nothing is needed',
  ),
  'none here': (
    {'w': jnp.zeros((0, 3)), 'b': jnp.zeros(0)},
    r'b is float32\[2\], and float32\[0\] is needed',
  ),
  'one more': (
    {**PARAMS, 'c': jnp.zeros(0)},
    r'c is not there, and float32\[0\] is needed',
  ),
}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  return checkpoints.save_checkpoint(PARAMS, tmp_path_factory.mktemp('a'), 1)


@pytest.mark.parametrize('name', OTHERS)
def test_another_template_is_refused(saved, name):
  """Truth: the leaf that differs, by name."""
  template, message = OTHERS[name]
  with pytest.raises(ValueError, match=message):
    checkpoints.load_checkpoint(saved, template)


def test_what_is_known_of_them_is_guarded_by_digests(tmp_path):
  """Truth: the file that names them, changed."""
  path = checkpoints.save_checkpoint(PARAMS, tmp_path, 1)
  file = path / 'empty.json'
  assert json.loads(file.read_text()) == {'w': 'float32[0, 3]'}
  file.write_text('{"w": "float32[0, 4]"}')
  with pytest.raises(checkpoints.CorruptCheckpointError, match=r'empty\.json'):
    checkpoints.load_checkpoint(path, PARAMS)
