# SPDX-License-Identifier: Apache-2.0
"""Folders that are there whole or not at all, where others write, too.

What is being written or deleted lies in a draft, `NAME.TOKEN.partial`, which
holds a locked file. The system takes the lock away when the process ends,
however it does. So an unlocked draft was left by a process that was killed.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import TextIO

PARTIAL = '.partial'
"""What the name of a draft ends in."""

_LOCK = 'lock'
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)  # what renaming to a taken name gives


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Inside, no other process is inside with the same folder, which exists.

  On a file system without locks (some of clusters) it promises nothing.

  Raises:
    BlockingIOError: if one is.
  """
  with (path / '.lock').open('w') as lock:
    _flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
      yield
    finally:
      # Said, since a forked process may hold the file open for longer.
      _flock(lock, fcntl.LOCK_UN)


@contextlib.contextmanager
def draft(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder beside `path` that no `clear` removes; in the end it is gone."""
  folder, lock = _locked_draft(path)
  try:
    yield folder
  finally:
    lock.close()  # before: a network's file system keeps a file that is open
    shutil.rmtree(folder, ignore_errors=True)


def put(new: pathlib.Path, path: pathlib.Path) -> None:
  """Renames what lies in a draft to a path; what was there stays if it fails.

  When it returns, the new name is on the disk.

  Args:
    new: lies in a draft, to which what was at the path is moved.
    path: its name from now on.
  """
  aside = new.with_name('before')
  while True:
    moved = _moved(path, aside)
    try:
      os.rename(new, path)
      break
    except OSError as error:
      if error.errno not in _TAKEN:
        if moved:
          os.rename(aside, path)
        raise
    # Another process put its own there just now; the last one stays.
    shutil.rmtree(aside, ignore_errors=True)
  parent = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(parent)
  finally:
    os.close(parent)


def delete(path: pathlib.Path) -> None:
  """Deletes a folder, which at once loses its name; of a link, the link."""
  with draft(path) as folder:
    _moved(path, folder / 'before')


def clear(directory: pathlib.Path, prefix: str) -> None:
  """Removes the drafts that killed processes have left.

  Args:
    directory: the folder they lie in.
    prefix: what their names begin with.
  """
  for folder in directory.glob(f'{prefix}*{PARTIAL}*'):
    # What cannot be locked is another process's; or it is gone by now.
    with contextlib.suppress(OSError), (folder / _LOCK).open('a') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # Its maker may be about to lock it: then it is gone, not half deleted.
      dead = folder.with_name(f'{prefix}{secrets.token_hex(8)}{PARTIAL}')
      os.rename(folder, dead)
      shutil.rmtree(dead, ignore_errors=True)


def _flock(lock: TextIO, how: int) -> None:
  """Locks a file, where the file system has locks."""
  try:
    fcntl.flock(lock, how)
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise


def _moved(path: pathlib.Path, aside: pathlib.Path) -> bool:
  """Renames a path, and whether there was one."""
  try:
    os.rename(path, aside)
  except FileNotFoundError:
    return False
  return True


def _locked_draft(path: pathlib.Path) -> tuple[pathlib.Path, TextIO]:
  while True:
    draft = tempfile.mkdtemp(PARTIAL, path.name + '.', path.parent)
    folder = pathlib.Path(draft)
    # Between its making and its locking another process may clear it.
    with (
      contextlib.suppress(FileNotFoundError),
      contextlib.ExitStack() as stack,
    ):
      lock = stack.enter_context((folder / _LOCK).open('w'))
      # Without locks `clear` gets none either, and leaves the draft alone.
      _flock(lock, fcntl.LOCK_EX)
      if os.path.samestat(os.stat(folder / _LOCK), os.fstat(lock.fileno())):
        stack.pop_all()
        return folder, lock
