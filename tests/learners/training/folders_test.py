# SPDX-License-Identifier: Apache-2.0
"""Two processes write in one folder, and neither harms the other.

Truth: what each of them wrote, bit for bit. Locks are of open files, so another
open file in this process stands for another process.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bionet_learners.training import checkpoints, folders, loop


def numbered(step):
  return {'w': jnp.full(3, float(step))}


def save(folder, step):
  checkpoints.save_checkpoint(numbered(step), folder, step)


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def check(folder, *steps):
  """Asserts that these checkpoints are there, whole, and nothing else is."""
  assert names(folder) == sorted(f'checkpoint_{step}' for step in steps)
  for step in steps:
    path = folder / f'checkpoint_{step}'
    found = checkpoints.load_checkpoint(path, numbered(step))
    np.testing.assert_array_equal(found['w'], numbered(step)['w'])


def meanwhile(monkeypatch, owner, name, action):
  """Calls `action` once, after the first call of `owner.name`."""
  real, called = getattr(owner, name), []

  def both(*args, **kwargs):
    if called:
      return real(*args, **kwargs)
    called.append(name)
    answer = real(*args, **kwargs)
    action()
    return answer

  monkeypatch.setattr(owner, name, both)
  return called


@pytest.mark.parametrize('other', [2, 7], ids=['another', 'the same'])
@pytest.mark.parametrize(
  'owner, name',
  [
    (ocp.StandardCheckpointer, 'save'),
    (ocp.StandardCheckpointer, 'wait_until_finished'),
    (checkpoints, '_digests'),
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_a_save_in_the_middle_of_anothers(
  tmp_path, monkeypatch, owner, name, other
):
  """Truth: both states; of one step, the last to end."""
  save(tmp_path, 1)
  called = meanwhile(monkeypatch, owner, name, lambda: save(tmp_path, other))
  save(tmp_path, 7)
  assert called
  check(tmp_path, 1, *{other, 7})


@pytest.mark.parametrize('keep_last', [1, 2])
def test_both_prune(tmp_path, monkeypatch, keep_last):
  """Truth: the last; what one deletes the other finds gone."""
  for step in (1, 2, 3):
    save(tmp_path, step)
  called = meanwhile(
    monkeypatch,
    checkpoints,
    'all_steps',
    lambda: checkpoints.prune(tmp_path, keep_last),
  )
  checkpoints.prune(tmp_path, keep_last)
  assert called
  check(tmp_path, *[2, 3][-keep_last:])


def test_a_reader_meets_a_run_that_goes_on(tmp_path, monkeypatch):
  """Truth: the newest; what is deleted while it is read is no damage."""
  save(tmp_path, 1)

  def go_on():
    save(tmp_path, 2)
    checkpoints.prune(tmp_path, 1)

  called = meanwhile(monkeypatch, checkpoints, 'all_steps', go_on)
  warned = []
  state, step = checkpoints.restore_latest(
    tmp_path, lambda step: numbered(step), warned.append
  )
  assert called and step == 2 and state['w'][0] == 2 and not warned

  monkeypatch.undo()
  called = meanwhile(
    monkeypatch, checkpoints, 'verify', lambda: (save(tmp_path, 3), go_on())
  )
  state, step = checkpoints.restore_latest(
    tmp_path, lambda step: numbered(step), warned.append
  )
  assert called and step == 3 and not warned


@contextlib.contextmanager
def written(path, text):
  """What is about to be put at a path."""
  with folders.draft(path) as draft:
    (draft / 'new').mkdir()
    (draft / 'new' / 'file').write_text(text)
    yield draft / 'new'


def test_two_put_one_name_at_once(tmp_path, monkeypatch):
  """Truth: the last one put, though the other's came since it looked."""
  path, real = tmp_path / 'checkpoint_7', os.rename
  with written(path, '1') as mine, written(path, '2') as other:

    def late(source, target):
      if source == mine and other.exists():
        real(other, path)
      return real(source, target)

    monkeypatch.setattr(os, 'rename', late)
    folders.put(mine, path)
    assert not other.exists()
  assert names(tmp_path) == ['checkpoint_7']
  assert (path / 'file').read_text() == '1'


def test_an_error_brings_back_what_was_there(tmp_path, monkeypatch):
  """Truth: the file from before."""
  path, real = tmp_path / 'checkpoint_7', os.rename
  with written(path, '1') as new:
    folders.put(new, path)
  with written(path, '2') as new:

    def full(source, target):
      if source == new:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      return real(source, target)

    monkeypatch.setattr(os, 'rename', full)
    with pytest.raises(OSError, match='No space left'):
      folders.put(new, path)
  assert names(tmp_path) == ['checkpoint_7']
  assert (path / 'file').read_text() == '1'


def test_a_living_draft_stays_and_a_dead_one_goes(tmp_path):
  """Truth: the lock, held or not; a draft with none has no process."""
  path = tmp_path / 'checkpoint_7'
  with folders.draft(path) as living:
    (living / 'half').write_text('1')
    dead = tmp_path / f'checkpoint_8.killed{folders.PARTIAL}'
    shutil.copytree(living, dead)  # with a lock that nobody holds
    bare = tmp_path / f'checkpoint_9.before_its_lock{folders.PARTIAL}'
    bare.mkdir()
    other = tmp_path / f'picture{folders.PARTIAL}'
    other.mkdir()
    folders.clear(tmp_path, 'checkpoint_')
    assert names(tmp_path) == sorted([living.name, other.name])
    assert (living / 'half').exists()
  assert names(tmp_path) == [other.name]


def test_a_killed_process_holds_nothing(tmp_path):
  """Truth: a process of its own, killed inside of a draft and of a lock."""
  program = (
    'import os, pathlib, runpy, signal\n'
    f'folders = runpy.run_path({folders.__file__!r})\n'  # it needs no JAX
    f'path = pathlib.Path({str(tmp_path)!r})\n'
    'with folders["locked"](path), folders["draft"](path / "checkpoint_7"):\n'
    '  os.kill(os.getpid(), signal.SIGKILL)\n'
  )
  ended = subprocess.run([sys.executable, '-c', program], check=False)
  assert ended.returncode == -9
  assert len(names(tmp_path)) == 2  # the lock and the draft
  with folders.locked(tmp_path):
    folders.clear(tmp_path, 'checkpoint_')
  assert names(tmp_path) == ['.lock']


def test_a_draft_that_is_cleared_before_it_is_locked(tmp_path, monkeypatch):
  """Truth: its maker makes another one."""
  real, cleared = fcntl.flock, []

  def late(stream, how):
    if how == fcntl.LOCK_EX and not cleared:
      cleared.append(pathlib.Path(stream.name).parent)
      folders.clear(tmp_path, 'checkpoint_')
    return real(stream, how)

  monkeypatch.setattr(fcntl, 'flock', late)
  with folders.draft(tmp_path / 'checkpoint_7') as draft:
    assert cleared and not cleared[0].exists()
    assert draft.exists()
    folders.clear(tmp_path, 'checkpoint_')
    assert draft.exists()
  assert names(tmp_path) == []


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.ENOLCK])
def test_without_locks_all_but_clearing_works(tmp_path, monkeypatch, number):
  """Truth: a file system that refuses to lock; no draft is anybody's to clear.

  The mutant that takes every error for that would hide a folder in use.
  """

  def refuses(stream, how):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, 'flock', refuses)
  with folders.locked(tmp_path), folders.draft(tmp_path / 'checkpoint_6') as d:
    save(tmp_path, 7)
    assert d.exists()
  (tmp_path / '.lock').unlink()
  check(tmp_path, 7)
  with monkeypatch.context() as patch:
    patch.setattr(fcntl, 'flock', lambda *_: (_ for _ in ()).throw(EOFError))
    with pytest.raises(EOFError), folders.locked(tmp_path):
      pass


def train(folder, num_epochs=1, **settings):
  return loop.train_loop(
    numbered(0),
    lambda state, batch, key: (state, {'loss': jnp.float32(1)}),
    [jnp.zeros(1)],
    num_epochs,
    1,
    jax.random.key(0),
    folder,
    **settings,
  )


def test_one_loop_at_a_time_trains_in_a_folder(tmp_path):
  """Truth: the second is told which folder; after the first, it may."""
  refused = pytest.raises(ValueError, match=r'^checkpoint_dir=.*another proc')
  with refused:
    train(tmp_path, interrupted=lambda: train(tmp_path))
  with refused, folders.locked(tmp_path):
    train(tmp_path)
  train(tmp_path)
  assert checkpoints.all_steps(tmp_path) == [1]
