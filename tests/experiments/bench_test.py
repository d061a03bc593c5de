# SPDX-License-Identifier: Apache-2.0
"""The suites of measurements and their tables; nothing is timed here.

Truth: the files of experiments/suites; tables written out by hand; the lower
bound as the point where a one-sided t-test turns.
"""

import importlib
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bionet_tasks.static import digits
from experiments import suites
from experiments.configs import prototypes as configs
from experiments.judge import scoring
from experiments.runs import build, updates
from experiments.suites import accuracy

SUITES = pathlib.Path(suites.__file__).parent
SHARED = ('__init__', 'accuracy', 'growth')


def test_every_suite_is_listed():
  """Truth: the files of experiments/suites."""
  files = {path.stem for path in SUITES.glob('*.py')} - set(SHARED)
  assert set(suites.SUITES) == files


@pytest.mark.parametrize('name', suites.SUITES)
def test_a_suite_has_seeds_and_runs(name):
  """Truth: what `bench` reads of a suite."""
  suite = importlib.import_module(f'experiments.suites.{name}')
  assert len(suite.SEEDS) >= 1
  assert all(isinstance(seed, int) for seed in suite.SEEDS)
  assert callable(suite.run)
  assert suites.SUITES[name]


def test_a_table_is_aligned():
  """Truth: the table, written out."""
  rows = [
    {'learner': 'bptt', 'mean': 0.5, 'seeds': 3},
    {'learner': 'local plasticity', 'mean': 10.25, 'seeds': 10},
  ]
  assert suites.table(rows).split('\n') == [
    'learner           mean     seeds',
    '----------------  -------  -----',
    'bptt              0.5000   3',
    'local plasticity  10.2500  10',
  ]


def test_a_row_says_mean_and_spread():
  """Truth: the t-test whose p-value at the bound is 5 %, and literals."""
  values = {0: 0.91, 1: 0.87, 2: 0.94, 5: 0.90}
  row = accuracy.row('rule', values.__getitem__, list(values))
  assert row['learner'] == 'rule'
  assert row['mean'] == pytest.approx(0.905)
  assert (row['min'], row['max']) == (0.87, 0.94)
  assert row['lower 95 %'] < row['mean']
  test = stats.ttest_1samp(
    list(values.values()), row['lower 95 %'], alternative='greater'
  )
  assert test.pvalue == pytest.approx(0.05, rel=1e-6)
  # By a printed table: t(0.95, 3) = 2.3534.
  error = np.sqrt(np.var(list(values.values())) / 3)
  assert row['lower 95 %'] == pytest.approx(0.905 - 2.3534 * error, abs=1e-5)


def test_one_seed_has_no_bound():
  """Truth: one value has no spread."""
  row = accuracy.row('rule', lambda _: 0.5, [3])
  assert math.isnan(row['lower 95 %'])
  assert row['mean'] == row['min'] == row['max'] == 0.5


def test_arrays_are_the_data_once_each():
  """Truth: the images of scikit-learn, counted by class."""
  (inputs, classes), (test, truth) = accuracy.arrays(digits.digits())
  assert inputs.shape == (1297, 64) and test.shape == (500, 64)
  images = np.concatenate([inputs, test])
  assert len(np.unique(images, axis=0)) == 1797
  labels = np.concatenate([classes, truth])
  expected = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
  np.testing.assert_array_equal(np.bincount(labels), expected)


def test_held_out_is_what_a_run_reports():
  """Truth: the same updates one after the other, scored by hand."""
  found = accuracy.held_out(
    configs.get_config('smoke'), {'num_updates': 5, 'num_epochs': 0}, 0
  )
  run = build.build(configs.get_config('smoke'))
  advance, state = updates.make_advance(run.first), updates.init(run)
  for step in range(5):
    state, _ = advance(state, jnp.int32(step), 1)
  _, outputs, trials = scoring.score_run(run, state)
  answers = np.argmax(np.asarray(outputs[0]), axis=-1)
  assert found == pytest.approx(np.mean(answers == trials.targets[0]).item())


def test_overrides_and_seed_reach_the_run(monkeypatch):
  """Truth: the config that is built."""
  seen = []

  def build_(config):
    seen.append(config.to_dict())
    raise InterruptedError

  monkeypatch.setattr(accuracy.build, 'build', build_)
  with pytest.raises(InterruptedError):
    accuracy.held_out(configs.get_config(), {'network.hidden': 16}, 2)
  assert (seen[0]['seed'], seen[0]['network']['hidden']) == (2, 16)
