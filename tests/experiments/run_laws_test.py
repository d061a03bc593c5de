# SPDX-License-Identifier: Apache-2.0
"""What changes nothing in a run, and what does.

Truth: laws: the same seed gives the same run, how the updates are cut into
compiled ranges changes nothing, and a prediction reads no label.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_learners.training import (
  learner,
  metrics,
  ranges,
)
from bionet_learners.training import scoring as learner_scoring
from experiments.judge import scoring
from experiments.runs import build, updates
from tests.experiments import smoke


@pytest.mark.parametrize('name', ['copying', 'prototypes'])
def test_a_seed_gives_one_run(
  name, finished, tmp_path, no_figures, compiled_once
):
  """Truth: the run before it, row by row."""
  smoke.run(smoke.config(name), tmp_path)
  assert smoke.read_rows(tmp_path) == smoke.read_rows(finished(name))


@pytest.mark.parametrize(
  'name', ['prototypes', pytest.param('copying', marks=pytest.mark.slow)]
)
def test_another_seed_gives_another_run(name, finished):
  """Truth: the first row of the run of seed 0."""
  config = smoke.config(name)
  config.seed = 1
  run, length = build.build(config), config.log_every
  state = updates.place(run, updates.init(run))
  _, parts = updates.make_advance_between(run)(state, 0, length)
  mean = metrics.average_metrics(parts)
  first = smoke.read_rows(finished(name))[0]
  assert first['step'] == length
  assert mean.keys() == first.keys() - {'step', 'split'}
  descended = run.first.rule.objective
  assert mean[descended] != first[descended]


@pytest.mark.parametrize(
  'name', ['prototypes', pytest.param('copying', marks=pytest.mark.slow)]
)
def test_how_updates_are_cut_changes_nothing(name, monkeypatch):
  """Truth: bitwise the state, and the mean metrics, of one range of 6 updates.

  Cut where a log line stands after every 2, where memory holds 4 updates, and
  where it holds next to nothing.
  """
  run = build.build(smoke.config(name))
  advance = updates.make_advance(run.first)
  lengths = []

  def noted(state, first, count):
    lengths.append(count)
    return advance(state, first, count)

  monkeypatch.setattr(updates, 'make_advance', lambda *_: noted)

  def trained(*borders):
    between = updates.make_advance_between(run)
    state, step = updates.place(run, updates.init(run)), 0
    for border in borders:
      state, parts = between(state, step, border)
      step = border
    return state, metrics.average_metrics(parts)

  whole, mean = trained(6)
  assert smoke.bits(trained(2, 4, 6)[0]) == smoke.bits(whole)
  trials = run.first.task.sample(
    run.first.keys.data, jnp.arange(run.first.batch_size)
  )
  size = sum(x.nbytes for x in jax.tree.leaves(trials))
  for room, cut in ((4 * size, [4, 2]), (1, [1] * 6)):
    monkeypatch.setattr(learner, '_RANGE_BYTES', room)
    lengths.clear()
    state, again = trained(6)
    assert lengths == cut
    assert smoke.bits(state) == smoke.bits(whole)
    for key, value in mean.items():
      np.testing.assert_allclose(again[key], value, rtol=1e-5)


def test_where_borders_stand_changes_nothing(
  finished, tmp_path, no_figures, compiled_once
):
  """Truth: bitwise the state of the run that stopped at other updates."""
  config = smoke.config('prototypes')
  config.log_every, config.eval_every, config.checkpoint_every = 2, 7, 3
  smoke.run(config, tmp_path)
  assert smoke.bits(smoke.final_state(tmp_path)) == smoke.bits(
    smoke.final_state(finished('prototypes'))
  )


@pytest.mark.parametrize('name', ['copying', 'prototypes'])
def test_a_prediction_reads_no_label(name, compiled_once):
  """Truth: bitwise the outputs under the labels of other trials."""
  run = build.build(smoke.config(name))
  state = updates.init(run)
  state, _ = updates.make_advance(run.first)(state, jnp.int32(0), 2)
  truthful = run.first.task.evaluations['held_out']

  def shuffled(key, index):
    trials = truthful.sample(key, index)
    targets = jnp.roll(trials.targets, 1, axis=1)
    return dataclasses.replace(trials, targets=targets)

  def score(evaluation):
    return scoring.score(
      run.first.learner,
      state,
      run.first.task,
      evaluation,
      run.first.keys.held_out,
      run.first.keys.held_out_noise,
    )

  scores, outputs, trials = score(truthful)
  other_scores, other_outputs, other_trials = score(
    truthful._replace(sample=shuffled)
  )
  assert np.any(np.asarray(trials.targets) != other_trials.targets)
  assert smoke.bits(outputs) == smoke.bits(other_outputs)
  assert scores['loss'] != other_scores['loss']


def test_chunks_of_an_evaluation_change_nothing(monkeypatch):
  """Truth: one prediction of all 20 trials at once, measured by hand."""
  run = build.build(smoke.config('copying'))
  state = updates.init(run)
  held_out = run.first.task.evaluations['held_out']
  monkeypatch.setattr(learner_scoring, '_MAX_CHUNK', 7)  # 7 + 7 + 6, filled up
  scores, outputs, trials = scoring.score(
    run.first.learner,
    state,
    run.first.task,
    held_out,
    run.first.keys.held_out,
    run.first.keys.held_out_noise,
  )
  whole = run.first.learner.predict(
    state, run.first.keys.held_out_noise, trials
  )
  whole = np.asarray(whole)
  np.testing.assert_allclose(outputs, whole, rtol=1e-5, atol=1e-6)
  asked = np.asarray(trials.mask) > 0
  hits = np.argmax(whole, axis=-1) == np.asarray(trials.targets)
  assert scores['accuracy'] == pytest.approx(np.mean(hits[asked]))


@pytest.mark.parametrize('split', ['train', 'eval'])
def test_a_loss_that_is_not_finite_stops_the_run(split, tmp_path, monkeypatch):
  """Truth: the updates, named by hand; no NaN enters a file."""
  config = smoke.config('copying')

  def advance(state, first, last):
    losses = np.ones(last - first)
    if split == 'train' and first <= 3 < last:
      losses[3 - first] = math.nan
    return state, [metrics.Metrics({'loss': losses})]

  def score(state):
    loss = 1.0 if split == 'train' else math.inf
    return {'accuracy': 0.5, 'loss': loss}, None, None

  monkeypatch.setattr(updates, 'make_advance_between', lambda _: advance)
  monkeypatch.setattr(learner_scoring, 'make_score', lambda *_: score)
  where = {
    'train': r'update 4 \(of the updates 4 to 4\): loss is nan',
    'eval': 'the evaluation after update 3: loss is inf',
  }[split]
  with pytest.raises(FloatingPointError, match=f'^{where}'):
    smoke.run(config, tmp_path)
  assert not (tmp_path / 'result.json').exists()
  assert [row['loss'] for row in smoke.read_rows(tmp_path)] == (
    [1.0] * (3 if split == 'train' else 2)
  )


@pytest.mark.parametrize(
  'name', ['copying', pytest.param('prototypes', marks=pytest.mark.slow)]
)
def test_a_rate_beyond_all_bounds_is_noticed(name, tmp_path):
  """Truth: steps of 1e38 leave no finite number; nothing here is mocked."""
  config = smoke.config(name)
  config.optimizer.name, config.optimizer.learning_rate = 'sgd', 1e38
  config.optimizer.clip_norm = 0.0
  with pytest.raises(FloatingPointError, match=r'update \d.* is (nan|-?inf)\.'):
    smoke.run(config, tmp_path)
  assert not (tmp_path / 'result.json').exists()


def test_schedules_and_streams_see_the_update_and_the_row():
  """Truth: update s and row b of every trial, counted by hand.

  A task that anneals something reads `index // batch_size`; a stream without
  end continues in row `index % batch_size`, which it returns as the index, so
  that its noise goes on where it stopped. Both through the compiled range.
  """
  run = build.build(smoke.config('prototypes'))
  size, seen = run.first.batch_size, []

  def sample(key, index, batch_size=None):
    trials = run.first.task.sample(key, index)
    annealed = (index // batch_size)[None] * jnp.ones_like(trials.targets)
    return dataclasses.replace(
      trials, targets=annealed, index=index % batch_size
    )

  def update(state, key, trials):
    del key
    jax.debug.callback(
      lambda *x: seen.append([np.array(a) for a in x]),
      trials.targets[0],
      trials.index,
      ordered=True,
    )
    return state, {'loss': jnp.float32(0)}

  toy = run.first._replace(
    task=run.first.task._replace(sample=sample),
    learner=run.first.learner._replace(update=update),
  )
  jax.block_until_ready(
    updates.make_advance(toy)(updates.init(run), jnp.int32(3), 4)
  )
  jax.effects_barrier()
  assert len(seen) == 4
  for step, (targets, rows) in enumerate(seen, start=3):
    np.testing.assert_array_equal(targets, np.full(size, step))
    np.testing.assert_array_equal(rows, np.arange(size))
  # What is fitted is judged on these very trials.
  fitted = scoring.on_training_trials(toy.task, size)
  trials = fitted.sample(run.first.keys.data, jnp.arange(3 * size, 7 * size))
  np.testing.assert_array_equal(
    trials.targets[0], np.concatenate([targets for targets, _ in seen])
  )
  np.testing.assert_array_equal(trials.index, np.tile(np.arange(size), 4))


def _reads(monkeypatch) -> dict:
  """Counts reads of the device: those of `device_get`, and all others."""
  counts = {'device_get': 0, 'others': 0}
  kind = type(jnp.zeros(()))
  value, device_get = kind._value, jax.device_get
  inside = []

  def counted(self):
    counts['others'] += not inside
    return value.fget(self)

  def get(tree):
    counts['device_get'] += 1
    inside.append(True)
    try:
      return device_get(tree)
    finally:
      inside.pop()

  monkeypatch.setattr(kind, '_value', property(counted))
  monkeypatch.setattr(ranges.jax, 'device_get', get)
  return counts


@pytest.mark.parametrize(
  'devices', [1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_the_host_reads_once_a_border(devices, monkeypatch):
  """Truth: the borders of 7 updates: 2 4 6 7; then 2 3 4 6 7.

  Nothing goes between host and device unseen; a read of a loss would count.
  """
  config = smoke.config('copying')
  config.num_updates, config.devices = 7, devices
  run = build.build(config)
  advance = updates.make_advance_between(run)

  def borders(intervals):
    state, rows = updates.place(run, updates.init(run)), []
    with jax.transfer_guard('disallow'):
      ranges.train_ranges(
        state,
        advance,
        num_updates=run.num_updates,
        intervals=intervals,
        record=lambda step, split, values: rows.append(step),
        rows=rows,
      )
    return rows

  borders(ranges.Intervals(2))  # compiles both lengths, 2 and 1
  counts = _reads(monkeypatch)
  assert borders(ranges.Intervals(2)) == [2, 4, 6, 7]
  assert counts == {'device_get': 4, 'others': 0}
  assert borders(ranges.Intervals(3, checkpoint=2)) == [2, 3, 4, 6, 7]
  assert counts == {'device_get': 9, 'others': 0}
  float(jnp.zeros(()) + 1)
  assert counts['others'] == 1
