# SPDX-License-Identifier: Apache-2.0
"""An unknown keyword is answered with the name to use.

Truth: the names in the signatures, and those that Flax and Keras use.
"""

import inspect

import jax.numpy as jnp
import optax
import pytest

import bionet_learners
from bionet_learners import training

STATE = training.TrainState.create(
  lambda: None, {'w': jnp.ones(2)}, optax.sgd(0.1)
)

# What is called, with which keyword, and the name that is meant.
CASES = [
  (training.train_loop, 'val_data_iterator', 'val_data_iterator_fn'),
  (training.train_loop, 'data_iterator', 'data_iterator_fn'),
  (training.train_loop, 'train_step', 'train_step_fn'),
  (training.train_loop, 'rng', 'rng_key'),
  (training.train_loop, 'key', 'rng_key'),
  (training.train_loop, 'epochs', 'num_epochs'),
  (training.train_loop, 'steps_per_epoch', 'num_batches'),
  (training.train_loop, 'validation_data', 'val_data_iterator_fn'),
  (training.train_loop, 'workdir', 'checkpoint_dir'),
  (training.TrainState.create, 'batch_stats', 'network_state'),
  (training.TrainState.create, 'state', 'network_state'),
  (training.TrainState.create, 'optimizer', 'tx'),
  (STATE.replace, 'batch_stats', 'network_state'),
  (STATE.replace, 'rng', 'key'),
  (STATE.replace, 'parms', 'params'),
  (STATE.apply_gradients, 'gradients', 'grads'),
  (training.save_checkpoint, 'target', 'state'),
  (training.save_checkpoint, 'ckpt_dir', 'directory'),
  (training.load_checkpoint, 'state', 'template'),
  (bionet_learners.train, 'num_steps', 'num_updates'),
]


@pytest.mark.parametrize('function, given, meant', CASES)
def test_the_name_to_use_is_said(function, given, meant):
  """Truth: the name; the sentence lists all."""
  with pytest.raises(TypeError) as info:
    function(**{given: None})
  message = str(info.value)
  assert f' has no argument {given!r}. Did you mean {meant!r}? ' in message
  assert message.startswith(function.__qualname__)
  names = message.removesuffix('.').partition(' There are: ')[2].split(', ')
  assert meant in names
  assert 'self' not in message and 'cls' not in message


def test_what_is_like_nothing_has_no_suggestion():
  """Truth: the whole sentence."""
  with pytest.raises(TypeError) as info:
    training.save_checkpoint(STATE, '.', 0, overwrite=True)
  assert str(info.value) == (
    "save_checkpoint has no argument 'overwrite'. There are: state, directory, "
    'step.'
  )


def test_the_functions_are_what_they_were():
  """Truth: their own signatures; keywords that are known pass."""
  names = [*inspect.signature(training.TrainState.create).parameters]
  assert names == ['apply_fn', 'params', 'tx', 'network_state', 'key']
  assert training.train_loop.__doc__.startswith('Trains epochs of batches')
  stepped = STATE.apply_gradients(grads={'w': jnp.ones(2)})
  assert float(stepped.params['w'][0]) == pytest.approx(0.9)
  assert STATE.replace(network_state={'a': 1}).network_state == {'a': 1}
  with pytest.raises(TypeError, match='missing'):
    training.TrainState.create(None)
