# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what stands in it, and how it is written.

It holds:

  config.json     the resolved config, versions, device, git revision, seed
  metrics.jsonl   one JSON object a line: step, split, scalars
  events.out.*    the same scalars, for TensorBoard
  checkpoints/    the final state
  figures/        pictures
  result.json     written last: steps, wall seconds, final metrics
"""

import json
import os
import pathlib
import platform
import subprocess
import tempfile
from importlib import metadata

import jax
import ml_collections

_PACKAGES = ('jax', 'jaxlib', 'dm-haiku', 'optax', 'chex', 'numpy')


def create(path: str, config: ml_collections.ConfigDict) -> pathlib.Path:
  """Makes the folder and writes config.json.

  Raises:
    FileExistsError: if a run is in it already.
    OSError: if it cannot be made or written.
  """
  workdir = pathlib.Path(path)
  if (workdir / 'config.json').exists():
    done = (workdir / 'result.json').exists()
    raise FileExistsError(
      f'--workdir={path} holds {"a finished" if done else "an unfinished"} '
      'run already; choose another folder.'
    )
  (workdir / 'figures').mkdir(parents=True, exist_ok=True)
  devices = jax.devices()
  write_json(
    workdir / 'config.json',
    {
      'config': config.to_dict(),
      'seed': config.seed,
      'versions': {
        'python': platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
      },
      'device': {'kind': devices[0].device_kind, 'count': len(devices)},
      'git_revision': _git_revision(),
    },
  )
  return workdir


def read_config(path: str) -> ml_collections.ConfigDict:
  """The config of the run in a folder.

  Raises:
    FileNotFoundError: if there is none.
  """
  file = pathlib.Path(path) / 'config.json'
  if not file.exists():
    raise FileNotFoundError(f'--workdir={path} holds no run (no config.json).')
  with file.open(encoding='utf-8') as stream:
    return ml_collections.ConfigDict(json.load(stream)['config'])


def write_json(path: pathlib.Path, content: dict) -> None:
  """Writes a JSON file atomically: it is there whole or not at all."""
  with tempfile.NamedTemporaryFile(
    'w', dir=path.parent, prefix=path.name, delete=False, encoding='utf-8'
  ) as stream:
    json.dump(content, stream, indent=2)
    stream.write('\n')
    stream.flush()
    os.fsync(stream.fileno())
  os.chmod(stream.name, 0o644)
  os.replace(stream.name, path)


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
