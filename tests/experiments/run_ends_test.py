# SPDX-License-Identifier: Apache-2.0
"""How a run ends: well, early, or in one line that says what is wrong.

Truth: borders and messages, worked out by hand.
"""

import errno
import os
from importlib import metadata

import jax
import numpy as np
import pytest

from bionet_learners.training import (
  checkpoints,
  writers,
)
from experiments.configs import compose
from experiments.configs import copying as copying_config
from experiments.runs import build
from experiments.shell import workdirs
from tests.experiments import smoke

pytestmark = pytest.mark.usefixtures('compiled_once')

THIRD = """\
import jax
import jax.numpy as jnp

from bionet_learners.reverse import bptt


def breaks(cell, loss, *, after: int = 6):
  # Gives NaN for a gradient from its update number `after` on.
  rule = bptt.bptt(cell, loss)

  def init(*args):
    return rule.init(*args)._replace(shared=jnp.int32(0))

  def estimate(params, constants, rule_state, key, trials):
    found, state = rule.estimate(params, constants, rule_state, key, trials)
    broken = rule_state.shared >= after
    updates = jax.tree.map(
      lambda x: jnp.where(broken, jnp.nan, x), found.gradient
    )
    return found._replace(gradient=updates), state._replace(
      shared=rule_state.shared + 1
    )

  return rule._replace(init=init, estimate=estimate)
"""


def test_a_run_that_diverges_ends_in_one_line(
  tmp_path, monkeypatch, start, capsys, no_figures
):
  """Truth: the first update without a gradient is the 7th; status 1.

  The last good checkpoint stays, and the run goes on from it: to the same end.
  """
  (tmp_path / 'third_of_train.py').write_text(THIRD)
  monkeypatch.syspath_prepend(tmp_path)
  config = compose.get_config('copying,gru,third_of_train:breaks')
  config.update_from_flattened_dict(copying_config._VARIANTS['smoke'])
  config.num_updates = 12
  config.log_every = config.eval_every = config.checkpoint_every = 4
  workdir = tmp_path / 'run'
  for _ in range(2):
    with pytest.raises(SystemExit) as end:
      start(config, workdir)
    assert end.value.code == 1
    out, error = capsys.readouterr()
    assert error == (
      'error: update 7 (of the updates 5 to 8): gradient_norm is nan. Try a '
      'smaller learning rate, clip the gradient, or look in the data for NaN '
      'and labels of no class.\n'
    )
    assert smoke.saved_steps(workdir) == [4]
    assert {row['step'] for row in smoke.read_rows(workdir)} == {4}
    assert not (workdir / 'result.json').exists()
  assert 'resuming after update 4/12' in out
  assert all(
    np.all(np.isfinite(x)) for x in jax.tree.leaves(smoke.final_state(workdir))
  )


def _short():
  """Copying with a checkpoint at every other of six borders."""
  config = smoke.config('copying')
  config.num_updates, config.log_every = 12, 2
  config.eval_every = config.checkpoint_every = 4
  return config


@pytest.mark.parametrize(
  ('error', 'status', 'words'),
  [
    (
      OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
      1,
      'No space left on device',
    ),
    (KeyboardInterrupt(), 130, 'interrupted'),
  ],
)
def test_a_line_that_cannot_be_written_ends_the_run(
  error, status, words, tmp_path, monkeypatch, start, capsys, hollow
):
  """Truth: one line, its status, and the checkpoint from before.

  It ends in the row of update 6, behind the checkpoint of update 4.
  """
  write = writers.MetricsWriter.write

  def fails(self, step, split, scalars):
    if step == 6:
      raise error
    write(self, step, split, scalars)

  monkeypatch.setattr(writers.MetricsWriter, 'write', fails)
  with pytest.raises(SystemExit) as end:
    start(_short(), tmp_path)
  assert end.value.code == status
  text = capsys.readouterr().err
  assert text.startswith('error: ') and text.count('\n') == 1
  assert words in text and f'in {tmp_path}' in text
  assert smoke.saved_steps(tmp_path) == [4]
  checkpoints.verify(tmp_path / 'checkpoints' / 'checkpoint_4')


def test_a_full_disk_leaves_the_checkpoint_from_before(
  tmp_path, monkeypatch, start, capsys, no_figures
):
  """Truth: one line, status 1; then, with room again, the uninterrupted run."""
  usage, asked = checkpoints.shutil.disk_usage, []

  def full(path):
    asked.append(path)
    return usage(path)._replace(free=0 if len(asked) == 2 else 10**12)

  monkeypatch.setattr(checkpoints.shutil, 'disk_usage', full)
  with pytest.raises(SystemExit) as end:
    start(_short(), tmp_path / 'parts')
  assert end.value.code == 1
  text = capsys.readouterr().err
  assert text.startswith('error: ') and text.count('\n') == 1
  assert 'checkpoint_8 could not be written: No space left on device' in text
  assert smoke.saved_steps(tmp_path / 'parts') == [4]
  checkpoints.verify(tmp_path / 'parts' / 'checkpoints' / 'checkpoint_4')
  start(_short(), tmp_path / 'parts')
  assert 'resuming after update 4/12' in capsys.readouterr().out
  smoke.run(_short(), tmp_path / 'whole')
  assert smoke.read_rows(tmp_path / 'parts') == smoke.read_rows(
    tmp_path / 'whole'
  )
  assert smoke.bits(smoke.final_state(tmp_path / 'parts')) == smoke.bits(
    smoke.final_state(tmp_path / 'whole')
  )


def test_a_run_stops_early_where_nothing_improves(
  tmp_path, start, capsys, hollow
):
  """Truth: nothing improves at the evaluations after 3, 6 and 9.

  Killed just before its end, the run makes no further update.
  """
  config = smoke.config('copying')
  config.num_updates, config.log_every, config.eval_every = 30, 3, 3
  config.early_stopping.patience = 2
  start(config, tmp_path)
  result = smoke.read_json(tmp_path / 'result.json')
  assert result['updates'] == 9
  assert smoke.saved_steps(tmp_path) == [9]
  text = capsys.readouterr().out
  assert 'accuracy has not improved for 2 evaluations' in text
  rows = smoke.read_rows(tmp_path)
  assert [row['step'] for row in rows] == [3, 3, 6, 6, 9, 9]
  (tmp_path / 'result.json').unlink()
  start(config, tmp_path)
  assert 'resuming after update 9/30' in capsys.readouterr().out
  again = smoke.read_json(tmp_path / 'result.json')
  assert again['cpu_seconds'] is None  # of a part of the run they say nothing
  seconds = {'wall_seconds': 0, 'cpu_seconds': 0}
  assert {**again, **seconds} == {**result, **seconds}
  assert smoke.read_rows(tmp_path) == rows


def test_an_improvement_is_waited_for(tmp_path, hollow):
  """Truth: accuracies by hand; 0.05 more is none where 0.1 is the least.

  The best is that of update 6; two more without improvement end at 12.
  """
  hollow.update({3: 0.1, 6: 0.4, 9: 0.45, 12: 0.3})
  config = smoke.config('copying')
  config.num_updates, config.log_every, config.eval_every = 30, 3, 3
  config.early_stopping.patience, config.early_stopping.min_delta = 2, 0.1
  assert smoke.run(config, tmp_path)['updates'] == 12


def test_another_machine_is_noted(tmp_path, start, capsys, hollow):
  """Truth: a version that stands in config.json and was never installed."""
  config = smoke.config('copying')
  workdirs.create(tmp_path, config, build.build(config).first.task.spec)
  content = smoke.read_json(tmp_path / 'config.json')
  content['versions']['optax'] = '0.0.1'
  workdirs.write_json(tmp_path / 'config.json', content)
  start(config, tmp_path)
  optax = metadata.version('optax')
  assert capsys.readouterr().out.startswith(
    f'it may not go on bit for bit: optax was 0.0.1 and is {optax}.\n'
  )
  assert smoke.read_json(tmp_path / 'result.json')['updates'] == 6
