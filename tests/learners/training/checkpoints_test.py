# SPDX-License-Identifier: Apache-2.0
"""A saved state comes back whole, or says what differs.

Truth: what was saved, bit for bit; and what a damaged disk, a full one or a
killed process would have left, made by hand.
"""

import errno
import os
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from bionet_learners import base
from bionet_learners.training import checkpoints, files
from bionet_learners.training import state as states

TX = optax.adam(0.1)


def state(size=3):
  params = {'w': jnp.arange(float(size))}
  return base.LearnerState(
    params=params,
    constants={'j_d': jnp.float32(0.5)},
    rule_state=base.RuleState(shared=(), per_trial=(jnp.ones((2, 4)),)),
    opt_state=TX.init(params),
    step=jnp.int32(7),
  )


def apply(params, network_state, key, inputs):
  del key
  return inputs @ params['linear']['w'], network_state


def train_state(impl='threefry2x32'):
  return states.TrainState.create(
    apply,
    {'linear': {'w': jnp.float32([[0.1, 1e-40], [-0.0, 3.0]])}},
    TX,
    network_state={'norm': {'mean': jnp.float32([np.pi])}},
    key=jax.random.key(5, impl=impl),
  ).replace(step=jnp.int32(3))


def numbered(step):
  return {'w': jnp.full(3, float(step))}


def save(folder, *steps):
  for step in steps:
    path = checkpoints.save_checkpoint(numbered(step), folder, step)
  return path


def load(folder, step):
  return checkpoints.load_checkpoint(
    folder / f'checkpoint_{step}', jax.eval_shape(lambda: numbered(step))
  )


def latest(folder, warned=None):
  return checkpoints.restore_latest(
    folder,
    lambda step: jax.eval_shape(lambda: numbered(step)),
    [].append if warned is None else warned.append,
  )


def data(leaf):
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return np.asarray(leaf).tobytes()


def bits(tree):
  return [data(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
  'made', [state, train_state, lambda: train_state('rbg')]
)
def test_a_state_comes_back_bit_for_bit(tmp_path, made):
  """Truth: what was saved; structure from a template of shapes."""
  path = checkpoints.save_checkpoint(made(), tmp_path, 7)
  assert path == tmp_path / 'checkpoint_7'
  restored = checkpoints.load_checkpoint(path, jax.eval_shape(made))
  chex.assert_trees_all_equal_structs(restored, made())
  chex.assert_trees_all_equal_shapes_and_dtypes(restored, made())
  assert bits(restored) == bits(made())
  # A template may also hold arrays; they are not read.
  zeros = jax.tree.map(
    lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else 0 * x,
    made(),
  )
  assert bits(checkpoints.load_checkpoint(path, zeros)) == bits(made())


def test_a_restored_key_draws_what_the_saved_one_would(tmp_path):
  """Truth: the draws of the key before; functions are the template's."""
  before = train_state()
  path = checkpoints.save_checkpoint(before, tmp_path, 0)
  after = checkpoints.load_checkpoint(path, jax.eval_shape(train_state))
  assert after.key.dtype == before.key.dtype
  np.testing.assert_array_equal(
    jax.random.normal(jax.random.fold_in(after.key, after.step)),
    jax.random.normal(jax.random.fold_in(before.key, before.step)),
  )
  assert after.apply_fn is apply and after.tx is TX
  stepped = [
    jax.jit(lambda s: s.apply_gradients(s.params))(s) for s in (before, after)
  ]
  assert bits(stepped[0]) == bits(stepped[1])


def test_a_checkpoint_is_data_alone(tmp_path):
  """Truth: no file is a pickle, nor mentions a function."""
  path = checkpoints.save_checkpoint(train_state(), tmp_path, 0)
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
    (lambda: state(4), r'opt_state/0/mu/w is float32\[3\], and float32\[4\]'),
    (lambda: without_rule_state(state()), 'per_trial/0 is .* and nothing'),
    (
      lambda: with_more(state()),
      r'constants/mask is not there, and float32\[2\] is needed',
    ),
    (lambda: with_float_step(state()), r'step is int32\[\], and float32\[\]'),
    # Two leaves differ, and the first is named.
    (
      lambda: with_float_step(with_more(state())),
      'checkpoint_7: constants/mask is not there',
    ),
  ],
)
def test_another_template_is_refused_and_the_leaf_named(
  tmp_path, template, message
):
  """Truth: the first leaf, by name, that was saved otherwise."""
  path = checkpoints.save_checkpoint(state(), tmp_path, 7)
  with pytest.raises(ValueError, match=message):
    checkpoints.load_checkpoint(path, jax.eval_shape(template))


@pytest.mark.parametrize(
  'template, message',
  [
    (
      lambda: train_state().replace(key=None),
      r'key is uint32\[2\], and nothing is needed',
    ),
    (
      lambda: train_state('rbg'),
      r'key is key<threefry2x32>\[\], and key<rbg>\[\] is needed',
    ),
    (
      lambda: train_state().replace(network_state={}),
      r'network_state/norm/mean is float32\[1\], and nothing is needed',
    ),
  ],
)
def test_a_train_state_of_another_kind_is_refused(tmp_path, template, message):
  """Truth: the key and the network's state are leaves like any other."""
  path = checkpoints.save_checkpoint(train_state(), tmp_path, 7)
  with pytest.raises(ValueError, match=message):
    checkpoints.load_checkpoint(path, jax.eval_shape(template))


def test_no_checkpoint_is_named(tmp_path):
  """Truth: the path that is not there."""
  with pytest.raises(FileNotFoundError, match='checkpoint_3'):
    load(tmp_path, 3)


def truncated(content):
  return content[: len(content) // 2]


def emptied(content):
  del content
  return b''


def flipped(content):
  middle = len(content) // 2
  flip = bytes([content[middle] ^ 1])
  return content[:middle] + flip + content[middle + 1 :]


def longer(content):
  return content + b'\0'


@pytest.mark.parametrize('damage', [truncated, emptied, flipped, longer, None])
def test_damage_to_any_file_is_seen(tmp_path, damage):
  """Truth: each file of a checkpoint in turn; None: deleted."""
  template = jax.eval_shape(train_state)
  path = checkpoints.save_checkpoint(train_state(), tmp_path, 7)
  damaged = [file for file in path.rglob('*') if file.is_file()]
  assert len(damaged) > 5
  seen = 0
  for file in damaged:
    content = file.read_bytes()
    file.unlink()
    if damage is not None:
      file.write_bytes(damage(content))
    if damage is None or damage(content) != content:
      with pytest.raises(
        checkpoints.CorruptCheckpointError, match='checkpoint_7 is damaged'
      ):
        checkpoints.load_checkpoint(path, template)
      seen += 1
    file.write_bytes(content)
  assert seen >= len(damaged) - 1  # an empty file cannot be emptied
  restored = checkpoints.load_checkpoint(path, template)  # all as they were
  assert bits(restored) == bits(train_state())


@pytest.mark.parametrize('where', ['.', 'd', 'new_folder'])
def test_a_file_more_is_seen(tmp_path, where):
  """Truth: the file, by name."""
  path = save(tmp_path, 7)
  folder = path / where
  folder.mkdir(exist_ok=True)
  (folder / 'extra').write_bytes(b'1')
  with pytest.raises(checkpoints.CorruptCheckpointError, match='extra is not'):
    load(tmp_path, 7)


def test_any_bit_of_the_digests_may_flip(tmp_path):
  """Truth: 300 bits of the file that says what the others are, drawn."""
  path = save(tmp_path, 7)
  digests = path / 'digests.json'
  content = digests.read_bytes()
  rng = np.random.default_rng(0)
  for bit in rng.choice(8 * len(content), size=300, replace=False):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    digests.write_bytes(bytes(changed))
    with pytest.raises(checkpoints.CorruptCheckpointError):
      checkpoints.verify(path)


@pytest.mark.parametrize('content', ['[]', 'null', '{}', '{"a": 1}', '7'])
def test_digests_of_another_form_are_damage(tmp_path, content):
  """Truth: JSON, and yet not what was written."""
  path = save(tmp_path, 7)
  (path / 'digests.json').write_text(content)
  with pytest.raises(checkpoints.CorruptCheckpointError, match='is damaged'):
    checkpoints.verify(path)


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
  assert latest(tmp_path) is None
  save(tmp_path, 9, 10)
  warned = []
  restored, step = latest(tmp_path, warned)
  assert step == 10 and bits(restored) == bits(numbered(10))
  assert not warned


def break_one(folder, step):
  file = next(
    file
    for file in sorted((folder / f'checkpoint_{step}').rglob('*'))
    if file.is_file() and file.name != 'digests.json' and file.stat().st_size
  )
  file.write_bytes(flipped(file.read_bytes()))


def test_a_damaged_latest_falls_back_to_the_one_before(tmp_path):
  """Truth: the latest whole one; each that is passed over is told of."""
  save(tmp_path, 1, 2, 3)
  break_one(tmp_path, 3)
  warned = []
  restored, step = latest(tmp_path, warned)
  assert step == 2 and bits(restored) == bits(numbered(2))
  assert len(warned) == 1
  assert 'checkpoint_3 is damaged' in warned[0]

  break_one(tmp_path, 2)
  restored, step = latest(tmp_path, warned)
  assert step == 1 and bits(restored) == bits(numbered(1))
  assert len(warned) == 3 and 'checkpoint_2 is damaged' in warned[2]


def test_all_damaged_is_an_error(tmp_path):
  """Truth: starting over in silence would lose a run; the folder is named."""
  save(tmp_path, 1, 2)
  break_one(tmp_path, 1)
  break_one(tmp_path, 2)
  warned = []
  with pytest.raises(checkpoints.CorruptCheckpointError, match=r'\[1, 2\]'):
    latest(tmp_path, warned)
  assert not warned  # one line is enough


def test_each_checkpoint_has_the_template_of_its_step(tmp_path):
  """Truth: a state that grew by an array between steps 1 and 2."""

  def grown(step):
    return numbered(step) if step < 2 else {**numbered(step), 'b': jnp.ones(2)}

  def restored():
    return checkpoints.restore_latest(
      tmp_path, lambda step: jax.eval_shape(lambda: grown(step)), [].append
    )

  for step in (1, 2):
    checkpoints.save_checkpoint(grown(step), tmp_path, step)
  for step in (2, 1):
    found, at = restored()
    assert at == step and bits(found) == bits(grown(step))
    break_one(tmp_path, step)


def test_a_latest_of_another_template_is_no_damage(tmp_path):
  """Truth: it is refused, not passed over for an older one that would fit."""
  save(tmp_path, 1)
  checkpoints.save_checkpoint({'w': jnp.ones(4)}, tmp_path, 2)
  with pytest.raises(ValueError, match=r'w is float32\[4\]'):
    latest(tmp_path)


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
    (folder / 'file').write_text('1')
  checkpoints.prune(tmp_path, keep_last, keep)
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
  save(tmp_path, 1, 2)

  def die(path, *args, **kwargs):
    next(file for file in path.rglob('*') if file.is_file()).unlink()
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', die)
    with pytest.raises(KeyboardInterrupt):
      checkpoints.prune(tmp_path, 1)
  assert checkpoints.all_steps(tmp_path) == [2]
  save(tmp_path, 3)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['checkpoint_2', 'checkpoint_3']


def test_what_a_killed_process_leaves_is_never_listed_and_cleaned(tmp_path):
  """Truth: the whole ones alone, before and after the next save."""
  save(tmp_path, 5)
  left = [
    'checkpoint_6.partial',
    'checkpoint_6.partial.orbax-checkpoint-tmp',
    'checkpoint_4.old.partial',
  ]
  for name in left:  # with whole files: it is the name that counts
    shutil.copytree(tmp_path / 'checkpoint_5', tmp_path / name)
  assert checkpoints.all_steps(tmp_path) == [5]
  assert latest(tmp_path)[1] == 5
  checkpoints.prune(tmp_path, 1)
  assert checkpoints.all_steps(tmp_path) == [5]
  save(tmp_path, 6)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['checkpoint_5', 'checkpoint_6']
  assert bits(load(tmp_path, 6)) == bits(numbered(6))


def full(*args, **kwargs):
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_in_tensorstore(wait):
  """`wait_until_finished` that tells, once, what tensorstore would."""
  failed = []

  def waited(checkpointer):
    wait(checkpointer)  # no thread of Orbax's outlives the test
    if not failed:
      failed.append(checkpointer)
      raise ValueError(
        "RESOURCE_EXHAUSTED: Error writing [os_error_code='28'] " + 'x' * 500
      )

  return waited


def full_at_rename(rename):
  """`os.rename` that fails, once, where a checkpoint gets its name."""
  failed = []

  def renamed(source, target, **kwargs):
    named = pathlib.Path(target).name in ('checkpoint_2', 'checkpoint_3')
    if named and not failed:
      failed.append(target)
      full()
    return rename(source, target, **kwargs)

  return renamed


FAILURES = {
  'no room': lambda patch: patch.setattr(
    shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(1, 1, 0)
  ),
  'orbax': lambda patch: patch.setattr(ocp.StandardCheckpointer, 'save', full),
  'tensorstore': lambda patch: patch.setattr(
    ocp.StandardCheckpointer,
    'wait_until_finished',
    full_in_tensorstore(ocp.StandardCheckpointer.wait_until_finished),
  ),
  'digests': lambda patch: patch.setattr(files, 'write_atomically', full),
  'rename': lambda patch: patch.setattr(
    os, 'rename', full_at_rename(os.rename)
  ),
}


@pytest.mark.parametrize('step', [2, 3])
@pytest.mark.parametrize('failure', FAILURES)
def test_a_save_that_fails_leaves_what_was_there(
  tmp_path, monkeypatch, failure, step
):
  """Truth: checkpoints 1 and 2 as they were, also if 2 is saved again."""
  save(tmp_path, 1, 2)
  with monkeypatch.context() as patch:
    FAILURES[failure](patch)
    with pytest.raises(OSError, match=r'could not be written: No space left'):
      checkpoints.save_checkpoint({'w': jnp.zeros(3)}, tmp_path, step)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['checkpoint_1', 'checkpoint_2']
  for before in (1, 2):
    assert bits(load(tmp_path, before)) == bits(numbered(before))
  save(tmp_path, 3)  # when there is room again
  assert latest(tmp_path)[1] == 3


def test_saving_a_step_again_replaces_it(tmp_path):
  """Truth: the second state; nothing else is left."""
  save(tmp_path, 1, 2)
  checkpoints.save_checkpoint(numbered(20), tmp_path, 2)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['checkpoint_1', 'checkpoint_2']
  assert bits(load(tmp_path, 2)) == bits(numbered(20))
  # Also one that is damaged: a run that fell back comes by again.
  break_one(tmp_path, 2)
  save(tmp_path, 2)
  assert bits(load(tmp_path, 2)) == bits(numbered(2))


def test_the_folder_is_made(tmp_path):
  """Truth: a path of folders that are not there yet."""
  path = save(tmp_path / 'a' / 'b', 0)
  assert path == tmp_path / 'a' / 'b' / 'checkpoint_0'
  assert path.is_dir()
