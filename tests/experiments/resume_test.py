# SPDX-License-Identifier: Apache-2.0
"""A run that was interrupted ends where the uninterrupted one does.

Truth: the uninterrupted run, bit for bit: parameters, the optimizer's state,
metrics.jsonl as bytes, result.json but for the seconds.
"""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from bionet_learners.training import checkpoints, ranges
from experiments import session
from experiments.configs import copying as copying_config
from experiments.runs import build, saved
from experiments.shell import workdirs
from tests.experiments import smoke

DRIVER = pathlib.Path(__file__).with_name('killed_runs.py')

# Some hundred updates a kill, with checkpoints all the time.
RUNS = {
  'prototypes': [
    '--config=experiments/configs/prototypes.py:smoke',
    '--config.num_epochs={}',
    '--config.log_every=50',
    '--config.eval_every=500',
    '--config.checkpoint_every=100',
    '--config.keep_best=True',
  ],
  'copying': [
    '--config=experiments/configs/copying.py:smoke',
    '--config.num_updates={}',
    '--config.log_every=50',
    '--config.eval_every=500',
    '--config.checkpoint_every=100',
  ],
}
# name, kills, and the epochs or updates of the run
KILLED = [
  ('prototypes', 1, 30),
  pytest.param('prototypes', 3, 160, marks=pytest.mark.slow),
  pytest.param('copying', 1, 800, marks=pytest.mark.slow),
  pytest.param('prototypes', 20, 800, marks=pytest.mark.slow),
  pytest.param('copying', 20, 5000, marks=pytest.mark.slow),
]


def _result(workdir) -> dict:
  result = json.loads((workdir / 'result.json').read_text())
  assert result.pop('wall_seconds') > 0
  result.pop('cpu_seconds')
  return result


def _final_leaves(workdir) -> list[bytes]:
  _, state, step = saved.restore(workdir)
  assert step == _result(workdir)['updates']
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def _check_equal(resumed, whole) -> None:
  lines = (resumed / 'metrics.jsonl').read_bytes()
  assert lines == (whole / 'metrics.jsonl').read_bytes()
  assert _result(resumed) == _result(whole)
  assert _final_leaves(resumed) == _final_leaves(whole)


@pytest.mark.parametrize('name, kills, length', KILLED)
def test_killed_again_and_again_equals_uninterrupted(
  name, kills, length, tmp_path, environment
):
  """Truth: the uninterrupted run; each kill came, some of them in a write."""
  workdir, whole = tmp_path / 'run', tmp_path / 'whole'
  arguments = [argument.format(length) for argument in RUNS[name]]
  answer = subprocess.run(
    [sys.executable, DRIVER, workdir, whole, str(kills), '7', '--', *arguments],
    cwd=smoke.REPO,
    env=environment(tmp_path / 'compiled'),
    capture_output=True,
    text=True,
    check=False,
  )
  assert answer.returncode == 0, answer.stderr
  report = json.loads(answer.stdout)
  assert report['statuses'] == [-9] * kills + [0], report['outputs'][-1]
  assert report['writes_hit'] >= kills // 3
  assert report['verified'] >= kills
  for text in report['outputs'][1:]:
    assert 'resuming after update' in text
    assert 'damaged' not in text
  _check_equal(workdir, whole)


################################################################################
# In one process


@pytest.fixture
def config():
  """A short copying run with a checkpoint at every second border."""
  config = copying_config.get_config('smoke')
  config.num_updates = 12
  config.log_every = 2
  config.eval_every = 6
  config.checkpoint_every = 4
  return config


def test_stopped_at_every_border_equals_uninterrupted(
  config, tmp_path, no_figures, compiled_once
):
  """Truth: the uninterrupted run; a session a border."""
  smoke.run(config, tmp_path / 'whole')
  sessions = []
  while not sessions or sessions[-1] < 12:
    try:
      smoke.run(config, tmp_path / 'parts', interrupted=lambda: True)
      sessions.append(12)
    except ranges.InterruptedRun as stop:
      sessions.append(stop.update)
  assert sessions == [2, 4, 6, 8, 10, 12]
  _check_equal(tmp_path / 'parts', tmp_path / 'whole')


def test_a_stream_goes_on_in_the_middle(
  config, tmp_path, no_figures, compiled_once
):
  """Truth: the uninterrupted run, states carried from batch to batch.

  Mutant: without what the rule keeps per trial the run goes another way.
  """
  config.learner.carry = True
  config.learner.every = 3
  smoke.run(config, tmp_path / 'whole')
  with pytest.raises(ranges.InterruptedRun):
    smoke.run(config, tmp_path / 'parts', interrupted=lambda: True)
  smoke.run(config, tmp_path / 'parts')
  _check_equal(tmp_path / 'parts', tmp_path / 'whole')

  run = build.build(config)
  workdirs.create(tmp_path / 'mutant', config, run.first.task.spec)
  state, first = saved.begin(config, run, tmp_path / 'whole')
  [early, *_] = checkpoints.all_steps(tmp_path / 'whole' / 'checkpoints')
  assert early < first
  state = checkpoints.load_checkpoint(
    tmp_path / 'whole' / 'checkpoints' / f'checkpoint_{early}', state
  )
  forgot = state._replace(
    rule_state=jax.tree.map(lambda x: x * 0, state.rule_state)
  )
  session.train_from(config, run, tmp_path / 'mutant', forgot, early)
  assert _final_leaves(tmp_path / 'mutant') != _final_leaves(tmp_path / 'whole')


def test_a_damaged_latest_checkpoint_costs_only_time(
  config, tmp_path, no_figures, capsys, compiled_once
):
  """Truth: the run from before; one bit of the latest checkpoint is flipped."""
  smoke.run(config, tmp_path)
  lines = (tmp_path / 'metrics.jsonl').read_bytes()
  result, leaves = _result(tmp_path), _final_leaves(tmp_path)
  (tmp_path / 'result.json').unlink()  # killed just before the end
  latest = tmp_path / 'checkpoints' / 'checkpoint_12'
  file = max(latest.rglob('*'), key=lambda p: p.stat().st_size * p.is_file())
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  capsys.readouterr()
  smoke.run(config, tmp_path)
  printed = capsys.readouterr().out
  assert 'checkpoint_12 is damaged' in printed
  assert 'Falling back to checkpoint_' in printed
  assert 'resuming after update 8/12' in printed
  assert (tmp_path / 'metrics.jsonl').read_bytes() == lines
  assert _result(tmp_path) == result and _final_leaves(tmp_path) == leaves


def test_killed_before_the_first_checkpoint_starts_over(
  config, tmp_path, no_figures, compiled_once
):
  """Truth: the uninterrupted run; rows without a checkpoint are dropped."""
  smoke.run(config, tmp_path / 'whole')
  run = build.build(config)
  workdirs.create(tmp_path / 'parts', config, run.first.task.spec)
  lines = (tmp_path / 'whole' / 'metrics.jsonl').read_text()
  cut = lines[: len(lines) // 3]  # in the middle of a line
  (tmp_path / 'parts' / 'metrics.jsonl').write_text(cut)
  smoke.run(config, tmp_path / 'parts')
  _check_equal(tmp_path / 'parts', tmp_path / 'whole')
