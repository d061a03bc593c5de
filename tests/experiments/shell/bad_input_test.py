# SPDX-License-Identifier: Apache-2.0
"""What a user gets wrong ends in one line, exit status 2, and nothing written.

Truth: the words that a reader of the line needs, written out here by hand. All
cases run as `python -m experiments.train` would, in forks of one process.
"""

import pathlib
import shutil
import subprocess
import sys

import pytest

from bionet_learners.training import checkpoints
from experiments.configs import copying as copying_config
from experiments.runs import build, optimizer_settings, updates
from experiments.shell import workdirs
from tests.experiments import smoke
from tests.experiments.shell import bad_inputs

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """What stands there before any case runs."""
  folder = tmp_path_factory.mktemp('bad_input')
  for name in ('third.py', 'miscredited.py'):
    shutil.copyfile(HERE / name, folder / name)
  (folder / 'unimportable.py').write_text('import not_there_at_all\n')
  (folder / 'broken_config.py').write_text('def get_config(:\n')
  (folder / 'file').write_text('a regular file\n')
  _run(folder / 'bare')
  _run(folder / 'narrow', 4, hidden=4)
  _run(folder / 'damaged', 4)
  _damage(folder / 'damaged' / 'checkpoints' / 'checkpoint_4')
  _run(folder / 'mangled')
  (folder / 'mangled' / 'config.json').write_text('{"config":')
  _run(folder / 'finished')
  (folder / 'finished' / 'result.json').write_text('{}\n')
  with workdirs.locked(folder / 'busy'):
    yield folder


def _run(path: pathlib.Path, step: int = 0, *, hidden: int = 8) -> None:
  """What an unfinished run of copying:smoke left, saved after `step`."""
  config = copying_config.get_config('smoke')
  config.network.hidden = hidden
  optimizer_settings.complete(config, {})  # as the command does
  run = build.build(config)
  with workdirs.locked(path):
    workdirs.create(path, config, run.first.task.spec)
    if step:
      state = updates.init(run)
      checkpoints.save_checkpoint(state, path / 'checkpoints', step)


def _damage(path: pathlib.Path) -> None:
  """Flips one bit of a checkpoint's largest file."""
  file = max(path.rglob('*'), key=lambda p: p.stat().st_size * p.is_file())
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


@pytest.fixture(scope='module')
def start(folder, command):
  """`arguments -> result` of a run that is started in the folder."""

  def start(arguments):
    case = [a.replace('TMP', str(folder)) for a in arguments]
    return command(*_from(smoke.REPO, case), cwd=folder, paths=[folder])

  return start


def _from(root: pathlib.Path, arguments: list[str]) -> list[str]:
  """The arguments with config files of the repository given from its root."""
  return [
    a.replace('=experiments/', f'={root}/experiments/') for a in arguments
  ]


def _content(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b''
    for path in sorted(folder.rglob('*'))
  }


@pytest.mark.parametrize('name', bad_inputs.CASES)
def test_one_line_says_what_is_wrong(name, start, folder):
  """Truth: the words of the table; status 2; one line; nothing written.

  The folder, in which the case also runs, is compared before and after.
  """
  arguments, words = bad_inputs.CASES[name]
  shutil.rmtree(folder / 'run', ignore_errors=True)  # of a case that failed
  before = _content(folder)
  result = start(arguments)
  error = result['stderr']
  assert error.startswith('error: ') and error.count('\n') == 1, error
  assert error.endswith('\n')
  assert result['status'] == 2
  assert result['stdout'] == ''
  for word in words:
    word = word.replace('TMP', str(folder))
    assert word in error.replace(f'{smoke.REPO}/', ''), error
  assert _content(folder) == before


@pytest.mark.parametrize(
  ('arguments', 'word'),
  [
    (
      [bad_inputs.COPYING, '--config.batch_sizes=3'],
      "Did you mean 'batch_size'",
    ),
    pytest.param(
      [bad_inputs.PROTOTYPES, '--config.task.p_noise=.6'],
      'task.p_noise=0.6: must be',
      marks=pytest.mark.slow,
    ),
  ],
)
def test_as_a_user_starts_it(arguments, word, tmp_path):
  """Truth: a process of its own, where nothing was imported or forked."""
  workdir = tmp_path / 'run'
  answer = subprocess.run(
    [
      sys.executable,
      '-m',
      'experiments.train',
      *arguments,
      f'--workdir={workdir}',
    ],
    cwd=smoke.REPO,
    capture_output=True,
    text=True,
    check=False,
  )
  assert answer.returncode == 2
  assert answer.stderr.startswith('error: ')
  assert answer.stderr.count('\n') == 1
  assert word in answer.stderr
  assert answer.stdout == ''
  assert not workdir.exists()
