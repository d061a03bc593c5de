# SPDX-License-Identifier: Apache-2.0
"""A run that is finished is still looked into, and what is written is named.

Truth: the files of the folder, before and after; updates counted by hand.
"""

import json

import numpy as np
import pytest

from bionet_learners.training import checkpoints, metrics
from experiments import session
from experiments.configs import copying
from experiments.figures import confusion_matrix, learning_curve
from experiments.runs import build, updates
from experiments.shell import workdirs

RESULT = {
  'updates': 6,
  'wall_seconds': 1.0,
  'train': {'accuracy': 0.5},
  'eval': {'accuracy': 0.25},
}


@pytest.fixture
def hollow(monkeypatch):
  """Makes updates count and do nothing else; `[(first, last)]` of ranges."""
  ranges = []

  def advance(state, first, last):
    ranges.append((first, last))
    state = state._replace(step=state.step + np.int32(last - first))
    return state, [metrics.Metrics({'loss': np.ones(last - first)})]

  monkeypatch.setattr(updates, 'make_advance_between', lambda _: advance)
  for figure in (learning_curve, confusion_matrix):
    monkeypatch.setattr(figure, 'draw', lambda *args: args[-1].touch())
  return ranges


@pytest.fixture
def finished(tmp_path):
  """A finished run of copying:smoke, as it began; nothing is trained."""
  config = copying.get_config('smoke')
  run, path = build.build(config), tmp_path / 'run'
  workdirs.create(path, config, run.first.task.spec)
  checkpoints.save_checkpoint(updates.init(run), path / 'checkpoints', 6)
  workdirs.write_json(path / 'result.json', RESULT)
  return path


def _new(path, before) -> set[str]:
  now = workdirs.listing(path)
  return {name for name in now if now[name] != before.get(name)}


def test_a_finished_run_is_probed_and_profiled(finished, hollow, capsys):
  """Truth: what is new are the files that are named; its result stands.

  The first range is made twice, of log_every = 2 updates: to compile, to trace.
  """
  before = workdirs.listing(finished)
  config = copying.get_config('smoke')
  session.train(config, finished, ['3', '0'], profile=True)
  out = capsys.readouterr().out.splitlines()
  assert out[0] == f'{finished} is finished already.'
  assert hollow == [(0, 2), (0, 2)]
  new = _new(finished, before)
  named = {line.removeprefix('wrote ') for line in out if line[:5] == 'wrote'}
  assert named == {str(finished / name) for name in new}
  assert {'probes.npz', 'figures/probes.png'} < new
  [trace] = [name for name in new if name.endswith('.trace.json.gz')]
  assert f'open {finished / trace} at https://ui.perfetto.dev' in out[-1]
  assert f'tensorboard --logdir={finished / "profile"}' in out[-1]
  recorded = np.load(finished / 'probes.npz')
  assert recorded['number'].tolist() == [3, 0]
  assert json.loads((finished / 'result.json').read_text()) == RESULT
  again = workdirs.listing(finished)
  session.train(config, finished)
  out = capsys.readouterr().out.splitlines()
  assert out[0] == f'{finished} is finished already; nothing to do.'
  assert len(out) == 2 and workdirs.listing(finished) == again


def test_a_run_of_one_range_is_profiled_too(tmp_path, hollow, capsys):
  """Truth: ranges by hand: the run's own, then twice as many updates again.

  The closing lines name every file, a checkpoint by its folder, result.json
  last; the lock is none of the run's.
  """
  config = copying.get_config('smoke')
  config.log_every = config.eval_every = config.checkpoint_every = 6
  session.train(config, tmp_path / 'run', profile=True)
  assert hollow == [(0, 6), (0, 6), (0, 6)]
  out = capsys.readouterr().out.splitlines()
  assert f'updates 0 to 6 are traced in {tmp_path / "run" / "profile"}/' in out
  named = [line.removeprefix('wrote ') for line in out if line[:5] == 'wrote']
  files = {
    str(path.relative_to(tmp_path / 'run'))
    for path in (tmp_path / 'run').rglob('*')
    if path.is_file() and path.name != '.lock'
  }
  inside = {name for name in files if name.startswith('checkpoints/')}
  wanted = {*files - inside, 'checkpoints/checkpoint_6/'}
  assert {name.removeprefix(f'{tmp_path}/run/') for name in named} == wanted
  assert {'config.json', 'metrics.jsonl', 'evaluation.json'} < wanted
  assert named[-1].endswith('result.json')
  assert 'to see the trace, open ' in out[-1]


def test_the_second_range_is_traced_in_passing(tmp_path, hollow, capsys):
  """Truth: the ranges of log_every = 2, and none beside them."""
  config = copying.get_config('smoke')
  config.eval_every = 6
  session.train(config, tmp_path / 'run', profile=True)
  assert hollow == [(0, 2), (2, 4), (4, 6)]
  assert 'updates 2 to 4 are traced in' in capsys.readouterr().out
