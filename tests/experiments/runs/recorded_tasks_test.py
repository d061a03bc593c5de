# SPDX-License-Identifier: Apache-2.0
"""A user's own data in a config: a CSV file, and a factory around arrays.

Truth: the file of the tests of tasks; sentences that begin with the config's
key.
"""

import pathlib

import numpy as np
import pytest

from experiments import runs, session
from experiments.configs import compose
from experiments.runs import build
from tests.experiments import smoke

TRIALS = pathlib.Path(__file__).parents[2] / 'tasks' / 'recorded' / 'trials.csv'
MINE = """\
import numpy as np

import bionet_tasks as tasks


def halves(*, num_trials: int = 20, split: int = 0):
  inputs = np.random.default_rng(0).normal(size=(num_trials, 3, 2))
  targets = (inputs[:, 0, 0] > 0).astype(int)
  return tasks.from_arrays(inputs, targets, split=split, name='halves')
"""


def config(task, **settings):
  found = compose.get_config(f'{task},vanilla_rnn,bptt')
  found.network.hidden = 3
  found.batch_size = 4
  found.num_updates = 2
  found.task.update(settings)
  return found


def test_a_csv_file_is_a_task_of_a_config():
  """Truth: the file: 60 trials of 3 to 5 steps, of which 12 are held out."""
  run = build.build(config('from_csv', path=str(TRIALS), trial='trial'))
  spec = run.first.task.spec
  assert (spec.num_steps, spec.num_outputs, spec.num_data) == (5, 2, 48)
  again = build.build(
    config('from_csv', path=str(TRIALS), trial='trial', split=1, held_out=0.5)
  )
  assert again.first.task.spec.num_data == 30


def test_a_file_that_changes_is_noticed(tmp_path, no_figures, capsys):
  """Truth: one label is another; then nothing goes on, and nothing is judged.

  Mutant: the path alone is what the run remembers.
  """
  file, workdir = tmp_path / 'trials.csv', tmp_path / 'run'
  file.write_bytes(TRIALS.read_bytes())
  settings = config('from_csv', path=str(file), trial='trial')
  smoke.run(settings, workdir)
  runs.open(workdir)
  head, *lines = TRIALS.read_text().splitlines()
  *cells, label = lines[-1].split(',')
  other = {'left': 'right', 'right': 'left'}[label]
  lines[-1] = ','.join([*cells, other])
  file.write_text('\n'.join([head, *lines, '']))
  with pytest.raises(ValueError, match='the data of its task have changed'):
    runs.open(workdir)
  for status in ('finished', 'unfinished'):
    if status == 'unfinished':
      (workdir / 'result.json').unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit, match='2'):
      session.train(settings, workdir)
    assert 'the data of its task have changed' in capsys.readouterr().err


def test_a_factory_of_somebody_else_makes_a_task_of_arrays(
  tmp_path, monkeypatch
):
  """Truth: the factory written above, named in a config as any other."""
  (tmp_path / 'my_recorded_task.py').write_text(MINE)
  monkeypatch.syspath_prepend(tmp_path)
  settings = config('my_recorded_task:halves', num_trials=30)
  settings.num_updates, settings.num_epochs = 0, 2
  run = build.build(settings)
  assert run.first.task.spec.name == 'halves'
  assert run.num_updates == 2 * 24 / 4
  assert np.isfinite(run.first.task.spec.chance['loss'])


@pytest.mark.parametrize(
  'settings, message',
  [
    ({}, r'^task\.path=None: must be set'),
    ({'path': 'nowhere.csv'}, r"^task\.path='nowhere\.csv': cannot be read"),
    (
      {'path': str(TRIALS), 'trial': 'tirals'},
      r"^task\.trial='tirals': the file has no column",
    ),
    (
      {'path': str(TRIALS), 'trial': 'trial', 'ceiling': 0.0},
      r'^task\.ceiling=0\.0: must be above the accuracy of chance',
    ),
    (
      {'path': str(TRIALS), 'trial': 'trial', 'held_out': 0.95},
      r'^batch_size=4: must be at most 3, the training samples',
    ),
  ],
)
def test_what_cannot_be_names_the_key(settings, message):
  """Truth: the sentence; the key is the config's."""
  with pytest.raises((TypeError, ValueError), match=message):
    build.build(config('from_csv', **settings))
