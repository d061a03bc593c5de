# SPDX-License-Identifier: Apache-2.0
"""Runs of several seeds beside each other.

Truth: folders written here, with rows of which the answers follow; a printed
table of Student's t.
"""

import json

import numpy as np
import pytest
from matplotlib import figure

from experiments.configs import copying, digits, lorenz, prototypes
from experiments.figures import comparison as figures
from experiments.judge import comparison, seeds
from experiments.runs import factories
from experiments.shell import workdirs


def _folder(path, config, values, step=2):
  """The folder of a run that was evaluated after 2, 4, ... updates."""
  spec = factories.make_task(config).spec
  workdirs.create(path, config, spec)
  rows = [
    {'step': step * (i + 1), 'split': 'eval', spec.metric: value}
    for i, value in enumerate(values)
  ]
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (path / 'metrics.jsonl').write_text(lines)
  return str(path)


def _seed(config, seed, **changes):
  config.seed = seed
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def three(tmp_path_factory):
  """Three seeds of prototypes, whose ceilings differ in the fourth digit."""
  values = ([0.1, 0.4], [0.2, 0.5, 0.9], [0.3, 0.9])
  path = tmp_path_factory.mktemp('three')
  return [
    _folder(
      path / f'local_{seed}', _seed(prototypes.get_config('smoke'), seed), rows
    )
    for seed, rows in enumerate(values)
  ]


def test_seeds_of_one_config_are_one_curve(three):
  """Truth: means by hand; t(.975, 2) = 4.30265; the third row is of one alone.

  Chance is that of all; the ceiling is the mean of those of three seeds.
  """
  title, [compared] = comparison.compare(three, [], 'eval')
  [curve] = compared.curves
  assert title == (
    'prototypes, held out; means over seeds and their 95 % intervals'
  )
  assert curve.label == 'local (local_plasticity, 3 seeds)'
  np.testing.assert_allclose(curve.values, [0.2, 0.6])
  assert curve.costs['updates'].tolist() == [2, 4]
  assert curve.costs['trials simulated'].tolist() == [32, 64]
  deviations = np.array([0.1, np.std([0.4, 0.5, 0.9], ddof=1)])
  half = 4.30265 * deviations / np.sqrt(3)
  np.testing.assert_allclose(curve.interval[0], curve.values - half, rtol=1e-4)
  np.testing.assert_allclose(curve.interval[1], curve.values + half, rtol=1e-4)
  np.testing.assert_allclose(curve.extremes, [[0.1, 0.4], [0.3, 0.9]])
  specs = [run.spec for run in comparison.load(three)]
  ceilings = [spec.ceiling['accuracy'] for spec in specs]
  assert len({*ceilings}) == 3
  assert compared.levels == {
    'ceiling': pytest.approx(np.mean(ceilings)),
    'chance': pytest.approx(0.1),
  }


def test_groups_are_those_that_differ_by_seed_alone():
  """Truth: by hand. The devices change nothing; twice one seed is no sample."""
  base, other = copying.get_config, {'optimizer.learning_rate': 0.5}
  configs = [
    _seed(base('smoke'), 0),
    _seed(base('smoke'), 0, **other),
    _seed(base('smoke'), 1, devices=2),
    _seed(base('smoke'), 1, **other),
    _seed(base('smoke'), 1, **{'task.time_lag': 3}),
    _seed(prototypes.get_config('smoke'), 3),
    _seed(prototypes.get_config('smoke'), 4, **{'task.seed': 3}),
    _seed(digits.get_config('smoke'), 3),
    _seed(digits.get_config('smoke'), 4),
  ]
  wanted = [[0, 2], [1, 3], [4], [5, 6], [7, 8]]
  assert seeds.groups(configs) == wanted
  again = [*configs, _seed(base('smoke'), 1)]
  assert seeds.groups(again) == [[0], [1, 3], [2], *wanted[2:], [9]]


@pytest.mark.parametrize(
  ('first', 'other', 'words'),
  [
    (copying.get_config('smoke'), {}, ''),
    (copying.get_config('smoke'), {'network.hidden': 3}, ''),
    (prototypes.get_config('smoke'), {'task.seed': 7}, ''),
    (digits.get_config(), {'task.split': 7}, ''),
    # Learning as data arrive changes the training alone.
    (lorenz.get_config('smoke'), {'task.stream': True}, ''),
    (copying.get_config('smoke'), {'task.time_lag': 3}, 'task.time_lag is 2'),
    (prototypes.get_config('smoke'), {'task.p_noise': 0.1}, 'task.p_noise is'),
    (
      lorenz.get_config('smoke'),
      {'task.stream': True, 'task.horizon': 3},
      'task.horizon is 10 in the one and 3 in the other',
    ),
    (
      lorenz.get_config('smoke'),
      {'task.num_held_out': 9},
      'task.num_held_out is 20',
    ),
  ],
)
def test_tasks_compare_by_what_they_hold_out(first, other, words):
  """Truth: the settings' documentation; chance tells few of them apart."""
  second = first.copy_and_resolve_references()
  with second.unlocked():
    second.update_from_flattened_dict(other)
  said = seeds.difference(first, second)
  assert said.startswith(words) and bool(said) == bool(words)


def test_a_mean_and_its_interval_are_drawn(three, tmp_path, monkeypatch):
  """Truth: the curve above; as high as the runs and the levels reach."""
  saved = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *_, **__: saved.append(self)
  )
  title, compared = comparison.compare(three, [], 'eval')
  figures.draw(title, compared, tmp_path / 'c.png')
  axes = saved[0].axes[0]
  assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.2, 0.6])
  [band] = axes.collections
  low, high = compared[0].curves[0].interval
  heights = band.get_paths()[0].vertices[:, 1]
  assert heights.min() == pytest.approx(min(low))
  assert heights.max() == pytest.approx(max(high)) and max(high) > 1.1
  assert axes.get_ylim()[1] < 1.1


def test_seeds_without_a_common_update_have_no_mean(tmp_path):
  """Truth: the words; rows after 2 updates, and after 3."""
  folders = [
    _folder(
      tmp_path / f'{seed}',
      _seed(copying.get_config('smoke'), seed),
      [0.5],
      step,
    )
    for seed, step in ((0, 2), (1, 3))
  ]
  with pytest.raises(ValueError, match='no eval row at the same update'):
    comparison.compare(folders, [], 'eval')
  [first, _] = comparison.load(folders)
  assert comparison.mean_curve([first], 'accuracy', 'eval').label == '0 (bptt)'
