# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's keys are of the generator that its template says.

Truth: the generators that were saved. The words of two may have one shape.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_learners.training import checkpoints

KINDS = {
  'threefry2x32': lambda: jax.random.key(3, impl='threefry2x32'),
  'rbg': lambda: jax.random.key(3, impl='rbg'),
  'unsafe_rbg': lambda: jax.random.key(3, impl='unsafe_rbg'),
  'two words': lambda: jnp.array([0, 3], jnp.uint32),
  'numbers': lambda: jnp.array([0.0, 3.0]),
}
SHOWN = {
  'threefry2x32': 'key<threefry2x32>[]',
  'rbg': 'key<rbg>[]',
  'unsafe_rbg': 'key<unsafe_rbg>[]',
  'two words': 'uint32[2]',
  'numbers': 'float32[2]',
}


def state(kind):
  keys = jax.random.split(jax.random.key(1), 2)
  return {'rule': {'keys': keys}, 'noise': (jnp.ones(3), KINDS[kind]())}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp('kinds')
  return {
    kind: checkpoints.save_checkpoint(state(kind), folder, i)
    for i, kind in enumerate(KINDS)
  }


@pytest.mark.parametrize('kind', KINDS)
def test_a_key_of_another_kind_is_refused_by_its_leaf(saved, kind):
  """Truth: the generator that was saved. Mutant: the shape of its words."""
  for wanted in KINDS:
    template = jax.eval_shape(lambda wanted=wanted: state(wanted))
    if wanted == kind:
      again = checkpoints.load_checkpoint(saved[kind], template)
      leaf = again['noise'][1]
      assert leaf.dtype == template['noise'][1].dtype
      assert again['rule']['keys'].dtype == template['rule']['keys'].dtype
      if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        np.testing.assert_array_equal(
          jax.random.key_data(leaf), jax.random.key_data(KINDS[kind]())
        )
      continue
    with pytest.raises(ValueError) as info:
      checkpoints.load_checkpoint(saved[kind], template)
    message = str(info.value)
    assert f'noise/1 is {_seen(kind, wanted)}, and ' in message
    assert f'{SHOWN[wanted]} is needed.' in message


def _seen(kind, wanted):
  """Before a key is restored its words are all that is known of it."""
  words = {'threefry2x32': 'uint32[2]', 'rbg': 'uint32[4]'}
  words['unsafe_rbg'] = words['rbg']
  if wanted == 'numbers' or (wanted == 'two words' and kind != 'threefry2x32'):
    return words.get(kind, SHOWN[kind])
  return SHOWN[kind]
