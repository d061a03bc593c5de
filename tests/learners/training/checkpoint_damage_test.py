# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that were damaged, or that could not be written.

Truth: each file damaged in turn; what was there before a save that failed.
"""

import errno
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bionet_learners.training import checkpoints, files
from tests.learners.training import small_states


def truncated(content):
  return content[: len(content) // 2]


def emptied(content):
  del content
  return b''


def longer(content):
  return content + b'\0'


@pytest.mark.parametrize(
  'damage', [truncated, emptied, small_states.flipped, longer, None]
)
def test_damage_to_any_file_is_seen(tmp_path, damage):
  """Truth: each file of a checkpoint in turn; None: deleted."""
  template = jax.eval_shape(small_states.train_state)
  path = checkpoints.save_checkpoint(small_states.train_state(), tmp_path, 7)
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
  assert small_states.bits(restored) == small_states.bits(
    small_states.train_state()
  )


@pytest.mark.parametrize('where', ['.', 'd', 'new_folder'])
def test_a_file_more_is_seen(tmp_path, where):
  """Truth: the file, by name."""
  path = small_states.save(tmp_path, 7)
  folder = path / where
  folder.mkdir(exist_ok=True)
  (folder / 'extra').write_bytes(b'1')
  with pytest.raises(checkpoints.CorruptCheckpointError, match='extra is not'):
    small_states.load(tmp_path, 7)


def test_any_bit_of_the_digests_may_flip(tmp_path):
  """Truth: 300 bits of the file that says what the others are, drawn."""
  path = small_states.save(tmp_path, 7)
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
  path = small_states.save(tmp_path, 7)
  (path / 'digests.json').write_text(content)
  with pytest.raises(checkpoints.CorruptCheckpointError, match='is damaged'):
    checkpoints.verify(path)


def test_a_damaged_latest_falls_back_to_the_one_before(tmp_path):
  """Truth: the latest whole one; each that is passed over is told of."""
  small_states.save(tmp_path, 1, 2, 3)
  small_states.break_one(tmp_path, 3)
  warned = []
  restored, step = small_states.latest(tmp_path, warned)
  assert step == 2 and small_states.bits(restored) == small_states.bits(
    small_states.numbered(2)
  )
  assert len(warned) == 1
  assert 'checkpoint_3 is damaged' in warned[0]

  small_states.break_one(tmp_path, 2)
  restored, step = small_states.latest(tmp_path, warned)
  assert step == 1 and small_states.bits(restored) == small_states.bits(
    small_states.numbered(1)
  )
  assert len(warned) == 3 and 'checkpoint_2 is damaged' in warned[2]


def test_all_damaged_is_an_error(tmp_path):
  """Truth: starting over in silence would lose a run; the folder is named."""
  small_states.save(tmp_path, 1, 2)
  small_states.break_one(tmp_path, 1)
  small_states.break_one(tmp_path, 2)
  warned = []
  with pytest.raises(checkpoints.CorruptCheckpointError, match=r'\[1, 2\]'):
    small_states.latest(tmp_path, warned)
  assert not warned  # one line is enough


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
  small_states.save(tmp_path, 1, 2)
  with monkeypatch.context() as patch:
    FAILURES[failure](patch)
    with pytest.raises(OSError, match=r'could not be written: No space left'):
      checkpoints.save_checkpoint({'w': jnp.zeros(3)}, tmp_path, step)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['checkpoint_1', 'checkpoint_2']
  for before in (1, 2):
    assert small_states.bits(
      small_states.load(tmp_path, before)
    ) == small_states.bits(small_states.numbered(before))
  small_states.save(tmp_path, 3)  # when there is room again
  assert small_states.latest(tmp_path)[1] == 3
