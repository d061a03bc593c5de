# SPDX-License-Identifier: Apache-2.0
"""Compiled programs that a start finds: the same numbers, sooner.

A folder that cannot be used, or holds half a program, costs a warning.
"""

import json

import jax
import pytest

from experiments.shell import compiled

TRAIN = (
  'experiments.train',
  '--config=experiments/configs/prototypes.py',
  '--config.num_epochs=0',
  '--config.num_updates=4',
  '--config.log_every=2',
  '--config.eval_every=4',
  '--config.network.hidden=3',
  '--config.task.dim=5',
  '--config.task.num_data=20',
  '--config.task.num_held_out=20',
)


def entries(folder):
  return {path.name: path.stat().st_size for path in folder.glob('*-cache')}


def numbers(workdir):
  """What a run measured, without its times."""
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  result = json.loads((workdir / 'evaluation.json').read_text())
  times = ('seconds', 'cpu_seconds', 'ms_per_update')
  return result, [
    {k: v for k, v in json.loads(row).items() if k not in times} for row in rows
  ]


@pytest.fixture
def train(command, tmp_path):
  """`(name, folder) -> (numbers, standard error)` of a run."""

  def run(name, folder):
    workdir = tmp_path / name
    flags = f'--workdir={workdir}', f'--compilation_cache={folder}'
    result = command(*TRAIN, *flags)
    assert result['status'] == 0, result['stderr']
    return numbers(workdir), result['stderr']

  return run


def test_another_start_finds_all_and_ends_alike(train, tmp_path):
  """Truth: the run that compiles; a damaged program is told of and replaced."""
  folder = tmp_path / 'compiled'
  compiling, said = train('compiling', folder)
  whole = entries(folder)
  assert whole and not said
  for name, size in whole.items():  # as of a start that was killed
    (folder / name).write_bytes((folder / name).read_bytes()[: size // 2])
  damaged, said = train('damaged', folder)
  assert said.count('warning: ') == said.count('\n') == 1
  assert 'held a damaged program' in said and str(folder) in said
  replaced = entries(folder)
  assert replaced.keys() == whole.keys()
  found, said = train('found', folder)
  assert entries(folder) == replaced and not said
  assert compiling == damaged == found


def test_a_folder_that_cannot_be_made_costs_a_warning(train, tmp_path):
  """Truth: the sentence; and the run ends."""
  (tmp_path / 'file').write_text('')
  _, said = train('run', tmp_path / 'file' / 'compiled')
  assert said.startswith('warning: ') and said.count('\n') == 1
  assert 'Not a directory' in said and '--compilation_cache' in said


@pytest.fixture
def no_folder(monkeypatch):
  """JAX as it starts, without a folder; and as it was, afterwards."""
  set_to = []
  monkeypatch.setattr(jax.config, 'update', lambda *args: set_to.append(args))
  monkeypatch.setattr(compiled, '_empty_where_damaged', lambda path: None)
  return set_to


def test_the_folder_is_the_users_and_the_processors(
  no_folder, monkeypatch, tmp_path
):
  """Truth: another processor, another folder; the environment comes first."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setenv('HOME', str(tmp_path))
  ours = compiled.folder()
  assert ours.is_relative_to(tmp_path / 'bionet') and 'jaxlib-' in ours.name
  monkeypatch.setattr(compiled, '_processor', lambda: 'of another kind')
  assert compiled.folder() != ours
  compiled.keep(None)  # the tests' own folder is set already
  assert not no_folder
  compiled.keep('none')
  assert no_folder == [('jax_compilation_cache_dir', None)]
  compiled.keep('~/x')
  assert ('jax_compilation_cache_dir', str(tmp_path / 'x')) in no_folder
