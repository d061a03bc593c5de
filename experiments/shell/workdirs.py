# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what stands in it, and how it is written.

It holds:

  config.json     the resolved config, seed, git revision, and what the
                  numbers depend on beside: versions, device, flags
  metrics.jsonl   one JSON object a line: step, split, scalars
  events.out.*    the same scalars, for TensorBoard
  checkpoints/    the last states, and the best if asked for
  figures/        pictures
  probes.npz      states and traces of chosen trials, if asked for
  profile/        a trace of one range of updates, if asked for
  evaluation.json every evaluation, trained and untrained, and descriptions
  result.json     written last: updates, wall seconds of this session, CPU
                  seconds of the training without evaluations (null where it
                  was resumed), final metrics
"""

import contextlib
import json
import pathlib
import subprocess
from typing import Literal, NamedTuple

import ml_collections

from bionet_learners.training import environment, files, folders
from bionet_tasks import base as tasks

_MAY_DIFFER = ('devices',)  # a run goes on on any number of them


class Contents(NamedTuple):
  """What stands in a folder that is to hold a run.

  Attributes:
    status: 'nothing', an 'unfinished' run (to be gone on with), or a 'finished'
      one.
    notes: what differs from where the run began, see `notes`.
  """

  status: Literal['nothing', 'unfinished', 'finished']
  notes: tuple[str, ...] = ()


def find(path: pathlib.Path, config: ml_collections.ConfigDict) -> Contents:
  """Looks for the run of a config in a folder; writes nothing.

  Raises:
    ValueError: if a run of another config is in it, the number of devices
      apart; names the difference.
  """
  file = path / 'config.json'
  if not file.exists():
    return Contents('nothing')
  began = _read(file)
  _check_same(path, began['config'], config)
  done = (path / 'result.json').exists()
  return Contents('finished' if done else 'unfinished', _notes(began))


def notes(path: pathlib.Path) -> tuple[str, ...]:
  """What differs from where the run in a folder began, a clause for each.

  Versions, the device, precision or the flags of the compiler: then the run
  cannot be expected to go on, or to be scored, bit for bit. None where the
  folder holds no run.
  """
  file = path / 'config.json'
  return _notes(_read(file)) if file.exists() else ()


def create(
  path: pathlib.Path, config: ml_collections.ConfigDict, spec: tasks.TaskSpec
) -> None:
  """Makes the folder and writes config.json.

  Raises:
    OSError: if it cannot be made or written.
  """
  (path / 'figures').mkdir(parents=True, exist_ok=True)
  content = {
    'config': config.to_dict(),
    'seed': config.seed,
    'chance': dict(spec.chance),
    'ceiling': dict(spec.ceiling),
    'data_digest': spec.data_digest,
    **environment.record(),
    'git_revision': _git_revision(),
  }
  write_json(path / 'config.json', content)


def check_data(path: pathlib.Path, spec: tasks.TaskSpec) -> None:
  """Raises ValueError if recorded data changed since the run began there."""
  if _read(path / 'config.json')['data_digest'] != spec.data_digest:
    raise ValueError(
      f'--workdir={path}: the data of its task have changed since the run '
      'began; bring them back, or choose another folder.'
    )


@contextlib.contextmanager
def locked(path: pathlib.Path):
  """Inside, no other process may run in the folder.

  Left by an error before anything is written, the folder is gone again.

  Raises:
    ValueError: if one does.
    OSError: if the folder cannot be made or written.
  """
  path.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(folders.locked(path))
    except BlockingIOError as error:
      raise ValueError(
        f'--workdir={path}: a process runs there now.'
      ) from error
    try:
      yield
    finally:
      lock = path / '.lock'
      if [*path.iterdir()] == [lock]:
        lock.unlink()
        path.rmdir()


def _notes(began: dict) -> tuple[str, ...]:
  current = {**environment.record(), 'git_revision': _git_revision()}
  differ = environment.differences(began, current)
  revisions = [x.get('git_revision') for x in (began, current)]
  if None not in revisions and revisions[0] != revisions[1]:
    differ += (f'the git revision was {revisions[0]} and is {revisions[1]}',)
  return differ


def _check_same(path: pathlib.Path, before: dict, config) -> None:
  given = json.loads(json.dumps(config.to_dict()))
  flat, flat_given = _flat(before), _flat(given)
  differ = [
    f'{name} is {flat.get(name, "not set")!r} there and '
    f'{flat_given.get(name, "not set")!r} here'
    for name in sorted(flat.keys() | flat_given.keys())
    if flat.get(name) != flat_given.get(name) and name not in _MAY_DIFFER
  ]
  if differ:
    more = f', and {len(differ) - 1} more' if len(differ) > 1 else ''
    raise ValueError(
      f'--workdir={path} holds a run of another config: {differ[0]}{more}. '
      'Choose another folder; to start from what was learned there, add '
      f'--config.init_from={path}.'
    )


def _flat(tree: dict, prefix: str = '') -> dict:
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat.update(_flat(value, f'{prefix}{name}.'))
    else:
      flat[prefix + name] = value
  return flat


def read_config(path: pathlib.Path) -> ml_collections.ConfigDict:
  """The config of the run in a folder.

  Raises:
    FileNotFoundError: if there is none.
  """
  file = path / 'config.json'
  if not file.exists():
    raise FileNotFoundError(f'{path} holds no run (no config.json).')
  return ml_collections.ConfigDict(_with_tuples(_read(file)['config']))


def _with_tuples(content):
  """JSON knows lists only; a config holds tuples."""
  if isinstance(content, dict):
    return {name: _with_tuples(value) for name, value in content.items()}
  if isinstance(content, list):
    return tuple(_with_tuples(value) for value in content)
  return content


def read_result(path: pathlib.Path) -> dict:
  """The result of the finished run in a folder."""
  return _read(path / 'result.json')


def listing(path: pathlib.Path) -> dict[str, int]:
  """`{name: when it was written, in ns}` of what stands in a run's folder.

  A checkpoint is one entry, its folder, and ends with '/'.
  """
  sizes = {}
  for file in path.rglob('*'):
    name = file.relative_to(path)
    if name.parts[0] == 'checkpoints' and len(name.parts) > 1:
      name = f'checkpoints/{name.parts[1]}/'
    if file.is_file() and file.name != '.lock':
      sizes[str(name)] = max(sizes.get(str(name), 0), file.stat().st_mtime_ns)
  return sizes


def write_json(path: pathlib.Path, content: dict) -> None:
  """Writes a JSON file atomically: it is there whole or not at all."""
  files.write_atomically(path, json.dumps(content, indent=2) + '\n')


def _read(file: pathlib.Path) -> dict:
  try:
    return json.loads(file.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{file} cannot be read: {error}.') from error


def _git_revision() -> str | None:
  try:
    answer = subprocess.run(
      ['git', 'rev-parse', 'HEAD'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=False,
      timeout=10,
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return answer.stdout.strip() or None
