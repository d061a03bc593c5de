# SPDX-License-Identifier: Apache-2.0
"""A run is opened from its folder alone.

Truth: the run that trained there, bit for bit, and its result.json.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_learners.training import ranges
from experiments import runs
from experiments.configs import copying
from experiments.runs import build
from experiments.shell import workdirs
from tests.experiments import smoke

pytestmark = pytest.mark.usefixtures('no_figures')


def test_a_finished_run_is_opened(finished):
  """Truth: the held-out metrics of result.json, by the docstring's lines."""
  workdir = finished('copying')
  result = json.loads((workdir / 'result.json').read_text())
  before = {path: path.read_bytes() for path in workdir.rglob('*.json*')}
  run, state = runs.open(str(workdir))
  assert int(state.step) == run.num_updates == 6
  stage = run.last
  held_out = stage.task.evaluations['held_out']

  @jax.jit
  def measured(state):
    index = jnp.arange(held_out.num_trials)
    trials = held_out.sample(stage.keys.held_out, index)
    outputs = stage.learner.predict(state, stage.keys.held_out_noise, trials)
    return stage.task.metrics(outputs, trials)

  metrics = measured(state)
  assert metrics.keys() == result['eval'].keys()
  for name, value in metrics.items():
    assert float(value) == pytest.approx(result['eval'][name], rel=1e-5)
  assert {p: p.read_bytes() for p in workdir.rglob('*.json*')} == before


def test_an_interrupted_run_is_opened(tmp_path):
  """Truth: the first border, after two of six updates; not the seed's state."""
  with pytest.raises(ranges.InterruptedRun):
    smoke.run(smoke.config('copying'), tmp_path, interrupted=lambda: True)
  run, state = runs.open(tmp_path)
  assert int(state.step) == 2 and run.num_updates == 6
  start = build.build(copying.get_config('smoke')).first

  @jax.jit
  def init():
    trials = start.task.sample(start.keys.data, jnp.arange(start.batch_size))
    return start.learner.init(start.keys.init, trials)

  fresh = init()
  assert any(
    np.any(a != b)
    for a, b in zip(
      jax.tree.leaves(state.params), jax.tree.leaves(fresh.params), strict=True
    )
  )


def test_a_wrong_folder_is_named(tmp_path, finished):
  """Truth: the words; then a good folder opens as if nothing had been."""
  nowhere, bare = tmp_path / 'nowhere', tmp_path / 'bare'
  with pytest.raises(FileNotFoundError, match='nowhere holds no run'):
    runs.open(nowhere)
  assert not nowhere.exists()
  config = copying.get_config('smoke')
  spec = build.build(config).first.task.spec
  workdirs.create(bare, config, spec)
  with pytest.raises(FileNotFoundError, match='bare has no checkpoint'):
    runs.open(bare)
  other = tmp_path / 'other'
  workdirs.create(other, config, spec)
  content = json.loads((other / 'config.json').read_text())
  content['config']['task']['name'] = 'copyin'
  workdirs.write_json(other / 'config.json', content)
  with pytest.raises(KeyError, match=re.escape("Did you mean 'copying'?")):
    runs.open(other)
  _, state = runs.open(finished('copying'))
  assert int(state.step) == 6
