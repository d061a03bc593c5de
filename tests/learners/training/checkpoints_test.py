# SPDX-License-Identifier: Apache-2.0
"""A checkpoint: what comes back, for which template, and which ones stay.

Truth: what was saved, bit for bit; the names of leaves; steps by hand.
"""

import hashlib
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_learners import base
from bionet_learners.training import checkpoints
from tests.learners.training import small_states


@pytest.mark.parametrize(
  'made',
  [
    small_states.state,
    small_states.train_state,
    lambda: small_states.train_state('rbg'),
  ],
)
def test_a_state_comes_back_bit_for_bit(tmp_path, made):
  """Truth: what was saved; structure from a template of shapes."""
  path = checkpoints.save_checkpoint(made(), tmp_path, 7)
  assert path == tmp_path / 'checkpoint_7'
  restored = checkpoints.load_checkpoint(path, jax.eval_shape(made))
  chex.assert_trees_all_equal_structs(restored, made())
  chex.assert_trees_all_equal_shapes_and_dtypes(restored, made())
  assert small_states.bits(restored) == small_states.bits(made())
  # A template may also hold arrays; they are not read.
  zeros = jax.tree.map(
    lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else 0 * x,
    made(),
  )
  assert small_states.bits(
    checkpoints.load_checkpoint(path, zeros)
  ) == small_states.bits(made())


def test_a_restored_key_draws_what_the_saved_one_would(tmp_path):
  """Truth: the draws of the key before; functions are the template's."""
  before = small_states.train_state()
  path = checkpoints.save_checkpoint(before, tmp_path, 0)
  after = checkpoints.load_checkpoint(
    path, jax.eval_shape(small_states.train_state)
  )
  assert after.key.dtype == before.key.dtype
  np.testing.assert_array_equal(
    jax.random.normal(jax.random.fold_in(after.key, after.step)),
    jax.random.normal(jax.random.fold_in(before.key, before.step)),
  )
  assert after.apply_fn is small_states.apply and after.tx is small_states.TX
  stepped = [
    jax.jit(lambda s: s.apply_gradients(s.params))(s) for s in (before, after)
  ]
  assert small_states.bits(stepped[0]) == small_states.bits(stepped[1])


def test_a_checkpoint_is_data_alone(tmp_path):
  """Truth: no file is a pickle, nor mentions a function."""
  path = checkpoints.save_checkpoint(small_states.train_state(), tmp_path, 0)
  for file in path.rglob('*'):
    if file.is_file():
      content = file.read_bytes()
      assert not content.startswith(b'\x80')
      assert b'apply_fn' not in content and b'__main__' not in content


def without_rule_state(state):
  return state._replace(rule_state=base.RuleState(shared=(), per_trial=()))


def with_more(state):
  return state._replace(constants={**state.constants, 'mask': jnp.ones(2)})


def with_float_step(state):
  return state._replace(step=jnp.float32(7))


@pytest.mark.parametrize(
  'template, message',
  [
    (
      lambda: small_states.state(4),
      r'opt_state/0/mu/w is float32\[3\], and float32\[4\]',
    ),
    (
      lambda: without_rule_state(small_states.state()),
      'per_trial/0 is .* and nothing',
    ),
    (
      lambda: with_more(small_states.state()),
      r'constants/mask is not there, and float32\[2\] is needed',
    ),
    (
      lambda: with_float_step(small_states.state()),
      r'step is int32\[\], and float32\[\]',
    ),
    # Two leaves differ, and the first is named.
    (
      lambda: with_float_step(with_more(small_states.state())),
      'checkpoint_7: constants/mask is not there',
    ),
  ],
)
def test_another_template_is_refused_and_the_leaf_named(
  tmp_path, template, message
):
  """Truth: the first leaf, by name, that was saved otherwise."""
  path = checkpoints.save_checkpoint(small_states.state(), tmp_path, 7)
  with pytest.raises(ValueError, match=message):
    checkpoints.load_checkpoint(path, jax.eval_shape(template))


@pytest.mark.parametrize(
  'template, message',
  [
    (
      lambda: small_states.train_state().replace(key=None),
      r'key is uint32\[2\], and nothing is needed',
    ),
    (
      lambda: small_states.train_state('rbg'),
      r'key is key<threefry2x32>\[\], and key<rbg>\[\] is needed',
    ),
    (
      lambda: small_states.train_state().replace(network_state={}),
      r'network_state/norm/mean is float32\[1\], and nothing is needed',
    ),
  ],
)
def test_a_train_state_of_another_kind_is_refused(tmp_path, template, message):
  """Truth: the key and the network's state are leaves like any other."""
  path = checkpoints.save_checkpoint(small_states.train_state(), tmp_path, 7)
  with pytest.raises(ValueError, match=message):
    checkpoints.load_checkpoint(path, jax.eval_shape(template))


def test_no_checkpoint_is_named(tmp_path):
  """Truth: the path that is not there."""
  with pytest.raises(FileNotFoundError, match='checkpoint_3'):
    small_states.load(tmp_path, 3)


def test_steps_are_numbers_in_order(tmp_path):
  """Truth: 2 < 9 < 10, which their names are not; other names are none."""
  assert checkpoints.all_steps(tmp_path) == []
  assert checkpoints.all_steps(tmp_path / 'nothing') == []
  for name in (
    *('checkpoint_10', 'checkpoint_9', 'checkpoint_2', 'checkpoint_x'),
    *('checkpoint_', 'checkpoint_3.partial', 'checkpoint_4.old.partial'),
    *('checkpoint_5.partial.orbax-checkpoint-tmp-1', 'my_checkpoint_6'),
  ):
    (tmp_path / name).mkdir()
  assert checkpoints.all_steps(tmp_path) == [2, 9, 10]


def test_the_latest_is_restored(tmp_path):
  """Truth: step 10 comes after 9; no checkpoint is None."""
  assert small_states.latest(tmp_path) is None
  small_states.save(tmp_path, 9, 10)
  warned = []
  restored, step = small_states.latest(tmp_path, warned)
  assert step == 10 and small_states.bits(restored) == small_states.bits(
    small_states.numbered(10)
  )
  assert not warned


def test_each_checkpoint_has_the_template_of_its_step(tmp_path):
  """Truth: a state that grew by an array between steps 1 and 2."""

  def grown(step):
    return (
      small_states.numbered(step)
      if step < 2
      else {**small_states.numbered(step), 'b': jnp.ones(2)}
    )

  def restored():
    return checkpoints.restore_latest(
      tmp_path, lambda step: jax.eval_shape(lambda: grown(step)), [].append
    )

  for step in (1, 2):
    checkpoints.save_checkpoint(grown(step), tmp_path, step)
  for step in (2, 1):
    found, at = restored()
    assert at == step and small_states.bits(found) == small_states.bits(
      grown(step)
    )
    small_states.break_one(tmp_path, step)


def test_a_latest_of_another_template_is_no_damage(tmp_path):
  """Truth: it is refused, not passed over for an older one that would fit."""
  small_states.save(tmp_path, 1)
  checkpoints.save_checkpoint({'w': jnp.ones(4)}, tmp_path, 2)
  with pytest.raises(ValueError, match=r'w is float32\[4\]'):
    small_states.latest(tmp_path)


@pytest.mark.parametrize(
  'keep_last, keep, left',
  [
    (1, None, [10]),
    (2, None, [9, 10]),
    (2, 3, [3, 9, 10]),
    (2, 9, [9, 10]),
    (2, 4, [9, 10]),  # there is no 4
    (9, None, [1, 2, 3, 9, 10]),
  ],
)
def test_the_last_few_and_the_best_stay(tmp_path, keep_last, keep, left):
  """Truth: by hand, of the steps 1, 2, 3, 9 and 10."""
  for step in (1, 2, 3, 9, 10):
    folder = tmp_path / f'checkpoint_{step}'
    folder.mkdir()
    (folder / 'file').write_bytes(b'1')
    digests = {'file': hashlib.sha256(b'1').hexdigest()}
    (folder / 'digests.json').write_text(json.dumps(digests))
  checkpoints.prune(tmp_path, keep_last, [] if keep is None else [keep])
  assert checkpoints.all_steps(tmp_path) == left
  assert len(list(tmp_path.iterdir())) == len(left)


@pytest.mark.parametrize('keep_last', [0, -1])
def test_at_least_one_stays(tmp_path, keep_last):
  """Truth: the message names the setting, and all are still there."""
  (tmp_path / 'checkpoint_1').mkdir()
  with pytest.raises(ValueError, match=f'^keep_last={keep_last}: '):
    checkpoints.prune(tmp_path, keep_last)
  assert checkpoints.all_steps(tmp_path) == [1]


def test_a_prune_that_was_killed_leaves_no_half_checkpoint(
  tmp_path, monkeypatch
):
  """Truth: what is deleted has lost its name before its first file."""
  small_states.save(tmp_path, 1, 2)

  def die(path, *args, **kwargs):
    next(file for file in path.rglob('*') if file.is_file()).unlink()
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', die)
    with pytest.raises(KeyboardInterrupt):
      checkpoints.prune(tmp_path, 1)
  assert checkpoints.all_steps(tmp_path) == [2]
  small_states.save(tmp_path, 3)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['checkpoint_2', 'checkpoint_3']


def test_what_a_killed_process_leaves_is_never_listed_and_cleaned(tmp_path):
  """Truth: the whole ones alone, before and after the next save."""
  small_states.save(tmp_path, 5)
  left = [
    'checkpoint_6.partial',
    'checkpoint_6.partial.orbax-checkpoint-tmp',
    'checkpoint_4.old.partial',
  ]
  for name in left:  # with whole files: it is the name that counts
    shutil.copytree(tmp_path / 'checkpoint_5', tmp_path / name)
  assert checkpoints.all_steps(tmp_path) == [5]
  assert small_states.latest(tmp_path)[1] == 5
  checkpoints.prune(tmp_path, 1)
  assert checkpoints.all_steps(tmp_path) == [5]
  small_states.save(tmp_path, 6)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['checkpoint_5', 'checkpoint_6']
  assert small_states.bits(small_states.load(tmp_path, 6)) == small_states.bits(
    small_states.numbered(6)
  )


def test_saving_a_step_again_replaces_it(tmp_path):
  """Truth: the second state; nothing else is left."""
  small_states.save(tmp_path, 1, 2)
  checkpoints.save_checkpoint(small_states.numbered(20), tmp_path, 2)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['checkpoint_1', 'checkpoint_2']
  assert small_states.bits(small_states.load(tmp_path, 2)) == small_states.bits(
    small_states.numbered(20)
  )
  # Also one that is damaged: a run that fell back comes by again.
  small_states.break_one(tmp_path, 2)
  small_states.save(tmp_path, 2)
  assert small_states.bits(small_states.load(tmp_path, 2)) == small_states.bits(
    small_states.numbered(2)
  )


def test_the_folder_is_made(tmp_path):
  """Truth: a path of folders that are not there yet."""
  path = small_states.save(tmp_path / 'a' / 'b', 0)
  assert path == tmp_path / 'a' / 'b' / 'checkpoint_0'
  assert path.is_dir()
