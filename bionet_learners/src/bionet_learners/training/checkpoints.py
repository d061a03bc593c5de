# SPDX-License-Identifier: Apache-2.0
"""Saving a state whole, and restoring it against a template.

A checkpoint is a folder `checkpoint_{step}`: Orbax's files, and `digests.json`
with the SHA-256 of each. It is written under another name and renamed when all
of it is on the disk; it is renamed again before it is deleted. So a folder of
that name is whole, whenever the process was killed; and one that the disk
damaged since is known before Orbax reads it, which would load a flipped bit as
it is. Orbax saves no array without elements: of these `empty.json` has names,
types and shapes.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from bionet_core import interfaces
from bionet_learners.training import files, folders, keywords, paths

_DIGESTS = 'digests.json'
_EMPTY = 'empty.json'
_NAME = 'checkpoint_'  # then the step, as Python prints it
_OWN_BYTES = 2**18  # about what a checkpoint takes beside its arrays
_ROOT = 'state'  # Orbax saves no single array; it saves a dict of one


class CorruptCheckpointError(Exception):
  """A checkpoint's files are not what was written."""


@keywords.answered(target='state', ckpt_dir='directory')
def save_checkpoint(
  state: interfaces.ArrayTree, directory: str | os.PathLike[str], step: int
) -> pathlib.Path:
  """Writes `directory/checkpoint_{step}`, atomically, and returns its path.

  Args:
    state: a tree of arrays, on one device or on the host.
    directory: made if it is not there.
    step: what to call it, 0 or more; a checkpoint of that step is replaced.

  Raises:
    OSError: if it cannot be written; what was there before still is.
    TypeError: for a leaf that is no array; names it.
    ValueError: for a step below 0.
  """
  for where, leaf in jax.tree.leaves_with_path(state):
    if not hasattr(leaf, 'dtype'):
      name = jax.tree_util.keystr(where, simple=True, separator='/')
      raise TypeError(
        f'a checkpoint holds arrays; {name} is a {type(leaf).__name__}.'
      )
  if int(step) != step or step < 0:  # `all_steps` would not find it
    raise ValueError(f'step={step}: must be a whole number, 0 or more.')
  path = _path(directory, int(step)).absolute()
  arrays, empty = _without_empty(state)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    folders.clear(path.parent, _NAME)
    _check_room(path.parent, state)
    with folders.draft(path) as draft:
      new = draft / 'new'
      with _quiet(), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(new, {_ROOT: arrays})
        checkpointer.wait_until_finished()
      if empty:
        files.write_atomically(new / _EMPTY, json.dumps(empty))
      files.write_atomically(new / _DIGESTS, json.dumps(_digests(new)))
      folders.put(new, path)
  except (OSError, ValueError) as error:  # tensorstore's are ValueErrors
    raise OSError(f'{path} could not be written: {_short(error)}') from error
  return path


@keywords.answered(target='template', state='template', ckpt_dir='path')
def load_checkpoint(
  path: str | os.PathLike[str], template: interfaces.ArrayTree
) -> interfaces.ArrayTree:
  """Restores a checkpoint into the structure of a template.

  Args:
    path: a `checkpoint_{step}` folder.
    template: a tree of arrays, or of their shapes (`jax.eval_shape`).

  Returns:
    A tree like the template with the saved values.

  Raises:
    FileNotFoundError: if there is none, or another process deletes it.
    CorruptCheckpointError: if its files are not what was written.
    ValueError: if the saved tree, a shape, a dtype or the generator of a key is
      not the template's; it names the first leaf that differs.
  """
  path = paths.local('path', path).absolute()
  try:
    return _load(path, template)
  except Exception as error:
    if path.is_dir():
      raise
    raise FileNotFoundError(f'there is no checkpoint {path}.') from error


def _load(
  path: pathlib.Path, template: interfaces.ArrayTree
) -> interfaces.ArrayTree:
  verify(path)
  with ocp.StandardCheckpointer() as checkpointer:
    saved = checkpointer.metadata(path).item_metadata.tree[_ROOT]
    # The metadata know of a key its words alone: whether they are a key, and of
    # which generator, is seen when they are there.
    wanted = _keys_as_saved(template, saved)
    leaves = {**_leaves(saved), **_read_empty(path)}
    _check_leaves(leaves, _leaves(wanted), f'checkpoint {path}: ')
    arrays, _ = _without_empty(wanted)
    placed = {_ROOT: jax.tree.map(_placed, arrays)}
    arrays = checkpointer.restore(path, placed)[_ROOT]
  restored = _with_empty(arrays, template)
  check_like(restored, template, f'checkpoint {path}: ')
  return restored


def verify(path: pathlib.Path) -> None:
  """Raises CorruptCheckpointError unless the files are what was written."""
  try:
    wanted = json.loads((path / _DIGESTS).read_text(encoding='utf-8'))
    digests = _digests(path)
    if not isinstance(wanted, dict):
      raise ValueError(f'{_DIGESTS} is not what was written')
  except (OSError, ValueError) as error:
    raise CorruptCheckpointError(
      f'checkpoint {path} is damaged: {_short(error)}.'
    ) from error
  if wanted != digests:
    names = sorted(
      name
      for name in wanted.keys() | digests.keys()
      if wanted.get(name) != digests.get(name)
    )
    raise CorruptCheckpointError(
      f'checkpoint {path} is damaged: {names[0]} is not what was written.'
    )


def check_like(
  tree: interfaces.ArrayTree, template: interfaces.ArrayTree, where: str
) -> None:
  """Raises ValueError if two trees differ; it names the first leaf that does.

  Args:
    tree: arrays, or what tells their shapes and dtypes.
    template: what they should be like.
    where: how the message begins.
  """
  _check_leaves(_leaves(tree), _leaves(template), where)


def _check_leaves(
  given: dict[str, str], wanted: dict[str, str], where: str
) -> None:
  for name in sorted(given.keys() | wanted.keys()):
    if given.get(name) != wanted.get(name):
      raise ValueError(
        f'{where}{name} is {given.get(name, "not there")}, and '
        f'{wanted.get(name, "nothing")} is needed.'
      )


def all_steps(directory: str | os.PathLike[str]) -> list[int]:
  """The steps of the checkpoints in a folder, ascending."""
  matches = (
    re.fullmatch(_NAME + '(0|[1-9][0-9]*)', path.name)
    for path in paths.local('directory', directory).glob(f'{_NAME}*')
    if path.is_dir()
  )
  return sorted(int(match[1]) for match in matches if match)


def restore_latest(
  directory: str | os.PathLike[str],
  template: Callable[[int], interfaces.ArrayTree],
  warn: Callable[[str], None],
) -> tuple[interfaces.ArrayTree, int] | None:
  """The state and the step of the latest checkpoint that is whole.

  Args:
    directory: the folder of checkpoints.
    template: from a step to its template; see `load_checkpoint`.
    warn: told of each damaged one that is passed over.

  Returns:
    None if there is no checkpoint.

  Raises:
    CorruptCheckpointError: if there are some, and all are damaged.
    ValueError: if one is not of the template.
  """
  steps = all_steps(directory)[::-1]
  while True:
    try:
      return restore_first(directory, steps, template, warn)
    except FileNotFoundError:
      # A run that goes on meanwhile deletes old ones where newer ones are.
      before, steps = steps, all_steps(directory)[::-1]
      if steps == before:
        raise


def restore_first(
  directory: str | os.PathLike[str],
  steps: Sequence[int],
  template: Callable[[int], interfaces.ArrayTree],
  warn: Callable[[str], None],
) -> tuple[interfaces.ArrayTree, int] | None:
  """As `restore_latest`, of the first of these steps whose checkpoint is whole.

  Args:
    directory: the folder of checkpoints.
    steps: those of checkpoints in it, the most wanted first.
    template: as there.
    warn: as there.

  Raises:
    FileNotFoundError: if another process deletes one.
    CorruptCheckpointError, ValueError: as there.
  """
  damages = []
  for step in steps:
    path = _path(directory, step)
    try:
      state = load_checkpoint(path, template(step))
    except CorruptCheckpointError as error:
      damages.append(error)
      continue
    for damage in damages:
      warn(f'{damage} Falling back to {path.name}.')
    return state, step
  if steps:
    raise CorruptCheckpointError(
      f'none of the checkpoints {sorted(steps)} in {directory} is whole; '
      'delete that folder to start over.'
    )
  return None


def prune(
  directory: str | os.PathLike[str], keep_last: int, keep: Iterable[int] = ()
) -> None:
  """Deletes all checkpoints but the last few, and one of any age.

  A damaged checkpoint takes the place of none that is whole: it counts nowhere,
  and is deleted where it is older than the last few. To know, those that stay
  are read.

  Args:
    directory: the folder of checkpoints.
    keep_last: how many of the latest stay, at least 1.
    keep: steps, of which the first whose checkpoint is whole stays, too: those
      of the evaluations, best first.

  Raises:
    ValueError: if none would be kept.
  """
  if keep_last < 1:
    raise ValueError(f'keep_last={keep_last}: must be at least 1.')
  older, last = all_steps(directory), []
  while older and len(last) < keep_last:
    step = older.pop()
    if _is_whole(directory, step):
      last.append(step)
  best = next(
    (step for step in keep if step in last or _is_whole(directory, step)), None
  )
  for step in older:
    if step != best:
      folders.delete(_path(directory, step))


def _path(directory: str | os.PathLike[str], step: int) -> pathlib.Path:
  return paths.local('directory', directory) / f'{_NAME}{step}'


def _is_whole(directory: str | os.PathLike[str], step: int) -> bool:
  try:
    verify(_path(directory, step))
  except CorruptCheckpointError:
    return False
  return True


def _digests(path: pathlib.Path) -> dict[str, str]:
  return {
    file.relative_to(path).as_posix(): hashlib.sha256(
      file.read_bytes()
    ).hexdigest()
    for file in sorted(path.rglob('*'))
    if file.is_file() and file != path / _DIGESTS
  }


def _keys_as_saved(
  template: interfaces.ArrayTree, saved: interfaces.ArrayTree
) -> interfaces.ArrayTree:
  """The template, its keys replaced by the words that are saved of them."""
  by_name = {_name(where): x for where, x in jax.tree.leaves_with_path(saved)}

  def as_saved(where, leaf):
    words = by_name.get(_name(where))
    if not _is_key(leaf) or words is None or words.dtype != np.uint32:
      return leaf
    return jax.ShapeDtypeStruct(words.shape, words.dtype)

  return jax.tree.map_with_path(as_saved, template)


def _leaves(tree: interfaces.ArrayTree) -> dict[str, str]:
  """Every array of a tree, or of a checkpoint's metadata: 'float32[3, 4]'."""
  return {
    _name(where): _describe(leaf)
    for where, leaf in jax.tree.leaves_with_path(tree)
  }


def _without_empty(
  tree: interfaces.ArrayTree,
) -> tuple[interfaces.ArrayTree, dict[str, str]]:
  """A tree with None for its arrays without elements, and these by name."""
  arrays = jax.tree.map(lambda leaf: leaf if leaf.size else None, tree)
  names = _leaves(tree).items() - _leaves(arrays).items()
  return arrays, dict(sorted(names))


def _with_empty(
  arrays: interfaces.ArrayTree, template: interfaces.ArrayTree
) -> interfaces.ArrayTree:
  """A tree with the template's arrays without elements where they belong."""

  def with_empty(leaf, array):
    if leaf.size:
      return array
    # Compiled, for nothing may be moved to the device in a loop's restart.
    return jax.jit(lambda: jax.lax.full(leaf.shape, 0, leaf.dtype))()

  return jax.tree.map(with_empty, template, arrays)


def _read_empty(path: pathlib.Path) -> dict[str, str]:
  file = path / _EMPTY
  return json.loads(file.read_text(encoding='utf-8')) if file.exists() else {}


def _name(where) -> str:
  return jax.tree_util.keystr(where, simple=True, separator='/')


def _is_key(leaf) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _placed(leaf) -> jax.ShapeDtypeStruct:
  """A leaf of a template, to be restored to this machine's first device."""
  device = jax.local_devices()[0]
  return jax.ShapeDtypeStruct(
    leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(device)
  )


def _describe(leaf) -> str:
  if _is_key(leaf):
    names = []  # of a key whose shape alone is known
    jax.eval_shape(lambda key: names.append(jax.random.key_impl(key)), leaf)
    return f'key<{names[0]}>{list(leaf.shape)}'
  return f'{np.dtype(leaf.dtype)}{list(leaf.shape)}'


def _check_room(folder: pathlib.Path, state: interfaces.ArrayTree) -> None:
  """Raises OSError for a full disk, before Orbax stumbles on it loudly."""
  wanted = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _OWN_BYTES
  if shutil.disk_usage(folder).free < wanted:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _quiet():
  """Keeps Orbax from logging the traceback of an error that it raises too."""
  logger = logging.getLogger('absl')

  def never(record):
    del record
    return False

  logger.addFilter(never)
  try:
    yield
  finally:
    logger.removeFilter(never)


def _short(error: BaseException) -> str:
  """The cause of an error on one line of bearable length."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  code = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore's
  if code:
    return os.strerror(int(code[1]))
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 200 else text[:200] + ' ...'
