# SPDX-License-Identifier: Apache-2.0
"""The train command checks the credit of a cell that is not built in."""

import pytest

from tests.experiments import smoke

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


@pytest.fixture
def train(tmp_path, command):
  """`(learner, *flags) -> result` of the command, with MINE in its folder."""
  (tmp_path / 'mine.py').write_text(MINE, encoding='utf-8')
  config = smoke.CONFIGS / 'compose.py'

  def result(learner, *flags):
    return command(
      'experiments.train',
      f'--config={config}:copying,mine:cell,{learner}',
      f'--workdir={tmp_path / "run"}',
      *SMALL,
      *flags,
      cwd=tmp_path,
      paths=[tmp_path],
    )

  return result


def test_a_rule_that_keeps_its_claim_trains(tmp_path, train):
  """Truth: `d_rtrl` on a vanilla RNN claims to be the cut cell's BPTT."""
  ran = train('d_rtrl')
  assert ran['status'] == 0, ran['stderr']
  assert 'credit checked in float64' in ran['stdout']
  assert (tmp_path / 'run' / 'result.json').exists()


@pytest.mark.parametrize('flags, status', [((), 2), (('--nocheck_credit',), 0)])
def test_a_wrong_gradient_ends_before_anything_is_written(
  tmp_path, train, flags, status
):
  """Truth: half a gradient is not that of BPTT on one step."""
  ran = train('mine:half', *flags)
  assert ran['status'] == status, ran['stderr']
  if status:
    assert 'on one step it is not BPTT' in ran['stderr']
    assert len(ran['stderr'].strip().splitlines()) == 1
    assert not (tmp_path / 'run').exists()
