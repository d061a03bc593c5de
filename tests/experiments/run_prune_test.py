# SPDX-License-Identifier: Apache-2.0
"""A run keeps what restores, also where damaged checkpoints lie beside it.

Truth: the updates by hand; accuracies from a table.
"""

import pytest

from bionet_learners.training import checkpoints, ranges
from experiments import session
from experiments.runs import build, saved
from tests.experiments import smoke

pytestmark = pytest.mark.usefixtures('compiled_once')


def _cut_short(folder, step):
  (folder / f'checkpoint_{step}' / 'digests.json').write_text('{')


def test_a_run_goes_on_past_a_damaged_one_of_any_number(tmp_path, hollow):
  """Truth: 3 is the best and gets damaged; of the others that restore, 6 is.

  99 is no checkpoint of any run. A start that counts it would delete 12, and
  the next one would say that no checkpoint is whole.
  """
  hollow.update({3: 0.9, 6: 0.8, 9: 0.1, 12: 0.2})
  config, folder = smoke.config('copying'), tmp_path / 'checkpoints'
  config.num_updates, config.log_every, config.eval_every = 12, 3, 3
  config.checkpoint_every, config.keep_last, config.keep_best = 3, 1, True
  asked = iter([False, True])
  with pytest.raises(ranges.InterruptedRun):
    smoke.run(config, tmp_path, interrupted=lambda: next(asked))
  assert smoke.saved_steps(tmp_path) == [3, 6]
  _cut_short(folder, 3)
  (folder / 'checkpoint_99').mkdir()

  told, run = [], build.build(config)
  state, first = saved.begin(config, run, tmp_path, told.append)
  assert first == 6 and len(told) == 1
  assert 'checkpoint_99 is damaged' in told[0]
  assert told[0].endswith('Falling back to checkpoint_6.')
  session.train_from(config, run, tmp_path, state, first)
  assert smoke.saved_steps(tmp_path) == [6, 12, 99]
  assert saved.begin(config, run, tmp_path, told.append)[1] == 12
  assert saved.restore(tmp_path, 'best', told.append)[2] == 6

  _cut_short(folder, 6)
  assert saved.restore(tmp_path, 'best', told.append)[2] == 12
  assert 'checkpoint_6 is damaged' in told[-1]
  assert told[-1].endswith('Falling back to checkpoint_12.')
  _cut_short(folder, 12)
  with pytest.raises(
    checkpoints.CorruptCheckpointError, match=r'\[6, 12\] .* is whole'
  ):
    saved.restore(tmp_path, 'best', told.append)
