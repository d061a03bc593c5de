# SPDX-License-Identifier: Apache-2.0
"""The train command checks the credit of a cell that is not built in."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

MINE = """
import bionet_core as core
import bionet_learners as bl
import jax

def cell(spec, *, hidden: int = 4):
  return core.vanilla_rnn(spec, hidden=hidden)

def half(cell, loss):
  rule = bl.d_rtrl(cell, loss)
  def estimate(*args):
    result, state = rule.estimate(*args)
    gradient = jax.tree.map(lambda x: x / 2, result.gradient)
    return result._replace(gradient=gradient), state
  return rule._replace(estimate=estimate)
"""

SMALL = (
  '--config.task.num_symbols=2',
  '--config.task.time_lag=1',
  '--config.task.num_held_out=4',
  '--config.batch_size=4',
  '--config.num_updates=2',
)


def train(folder, learner, *flags):
  (folder / 'mine.py').write_text(MINE, encoding='utf-8')
  config = ROOT / 'experiments' / 'configs' / 'compose.py'
  paths = [str(folder), str(ROOT), os.environ.get('PYTHONPATH', '')]
  return subprocess.run(
    [
      sys.executable,
      '-m',
      'experiments.train',
      f'--config={config}:copying,mine:cell,{learner}',
      f'--workdir={folder / "run"}',
      *SMALL,
      *flags,
    ],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
    cwd=folder,
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
  )


def test_a_rule_that_keeps_its_claim_trains(tmp_path):
  """Truth: `d_rtrl` on a vanilla RNN claims to be the cut cell's BPTT."""
  ran = train(tmp_path, 'd_rtrl')
  assert ran.returncode == 0, ran.stderr
  assert 'credit checked in float64' in ran.stdout
  assert (tmp_path / 'run' / 'result.json').exists()


@pytest.mark.parametrize('flags, status', [((), 2), (('--nocheck_credit',), 0)])
def test_a_wrong_gradient_ends_before_anything_is_written(
  tmp_path, flags, status
):
  """Truth: half a gradient is not that of BPTT on one step."""
  ran = train(tmp_path, 'mine:half', *flags)
  assert ran.returncode == status, ran.stderr
  if status:
    assert 'on one step it is not BPTT' in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert not (tmp_path / 'run').exists()
