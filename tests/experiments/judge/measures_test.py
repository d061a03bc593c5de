# SPDX-License-Identifier: Apache-2.0
"""Metrics have names that differ, units, and words that explain them.

Truth: the metrics themselves, which are only traced here; words by hand.
"""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from matplotlib import figure

from bionet_core import plugins
from bionet_tasks import base as tasks
from experiments.configs import cell_fate, evidence, prototypes
from experiments.figures import learning_curve
from experiments.judge import measures, table
from experiments.runs import build, factories, updates

_TESTS = pathlib.Path(__file__).parents[2]
_TRIALS = _TESTS / 'tasks' / 'recorded' / 'trials.csv'
_SETTINGS = {'from_csv': {'path': str(_TRIALS), 'trial': 'trial'}}
_EXPLAINED_BY_THE_FILES = {'gradient_norm', 'update_norm'}


@pytest.mark.parametrize('name', factories.BUILTIN['bionet.tasks'])
def test_every_metric_of_a_task_is_explained(name):
  """Truth: the names that the task's metrics give, traced."""
  group = 'bionet.tasks'
  task = plugins.load(group, name, factories.BUILTIN[group])(
    **_SETTINGS.get(name, {})
  )
  held_out = task.evaluations['held_out']
  trials = jax.eval_shape(held_out.sample, jax.random.key(0), jnp.arange(4))
  shape = (*trials.mask.shape, task.spec.num_outputs)
  outputs = jax.ShapeDtypeStruct(shape, jnp.float32)
  metrics = jax.eval_shape(task.metrics, outputs, trials)
  assert {*metrics} <= {*task.spec.measures}
  assert all(measure.meaning for measure in task.spec.measures.values())


def _training(config) -> set[str]:
  """The names of the metrics of an update, traced."""
  run = build.build(config)
  stage = run.first
  trials = jax.eval_shape(
    lambda: stage.task.sample(stage.keys.data, jnp.arange(stage.batch_size))
  )
  state = updates.template(run, 0)
  _, metrics = jax.eval_shape(
    stage.learner.update, state, stage.keys.noise, trials
  )
  assert {*metrics} - _EXPLAINED_BY_THE_FILES <= {*measures.of(stage.task.spec)}
  return {*metrics} - _EXPLAINED_BY_THE_FILES


def _smoke(module, variant='smoke', **changes):
  config = module.get_config(variant)
  config.update_from_flattened_dict(changes)
  return config


_ONE_STAGE = {
  'task.loss': 'hard',
  'task.dt': 0.5,
  'task.held_out_dt': 0.5,
  'task.num_held_out': 8,
  'batch_size': 4,
  'learner.population_size': 4,
  'learner.elites': 2,
}


@pytest.mark.parametrize(
  ('config', 'names'),
  [
    # A local loss is not the cross-entropy that an evaluation gives.
    (_smoke(prototypes), {'local_loss', 'changed'}),
    # Hits of steps are not decisions of trials, nor is a loss one with rates.
    (_smoke(evidence), {'loss', 'step_accuracy'}),
    (
      _smoke(evidence, **{'network.rate_weight': 0.1}),
      {'penalized_loss', 'step_accuracy'},
    ),
    # A graded utility is not that of fates.
    (
      _smoke(
        cell_fate,
        'bptt',
        **{'task.dt': 0.5, 'batch_size': 4, 'task.held_out_dt': 0.5},
      ),
      {'loss', 'soft_utility', 'soft_s_pat', 'soft_s_rep'},
    ),
    (
      _smoke(cell_fate, 'evolution', **_ONE_STAGE),
      {'loss', 'loss_mean', 'loss_std', 'utility', 's_pat', 's_rep'},
    ),
  ],
  ids=['local', 'steps', 'rates', 'graded', 'population'],
)
def test_two_quantities_have_two_names(config, names):
  """Truth: what the learner descends and reports, by hand."""
  assert _training(config) == names


def test_copies_are_explained():
  """Truth: the metrics that `replicas.restarts` adds, by hand."""
  known = measures.of(factories.make_task(_smoke(prototypes)).spec)
  for name in (
    *('loss_best', 'restarts', 'stood_still', 'validation'),
    *('validation_mean', 'untrained_best', 'untrained_mean'),
  ):
    assert known[name].meaning


def test_units_stand_beside_numbers():
  """Truth: the lines, written out."""
  known = {
    'loss': tasks.Measure('nats', 'what it costs'),
    'accuracy': tasks.Measure('', 'share of them'),
  }
  metrics = {'accuracy': 0.5, 'loss': 1.25, 'other': 2.0}
  assert table.line(metrics, known) == (
    'accuracy 0.5000  loss 1.2500 nats  other 2.0000'
  )
  assert measures.legend(metrics, known) == [
    '  accuracy: share of them',
    '  loss: what it costs, in nats',
  ]


def test_a_local_loss_has_a_panel_of_its_own(monkeypatch, tmp_path):
  """Truth: rows by hand; the held-out loss is no value of that panel."""
  saved = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *_, **__: saved.append(self)
  )
  rows = [
    {'step': 2, 'split': 'train', 'changed': 0.5, 'local_loss': 9.0},
    {'step': 2, 'split': 'eval', 'accuracy': 0.5, 'loss': 2.0},
    {'step': 4, 'split': 'train', 'changed': 0.5, 'local_loss': 8.0},
  ]
  spec = factories.make_task(prototypes.get_config('smoke')).spec
  learning_curve.draw(rows, spec, (), tmp_path / 'c.png')
  loss, accuracy, *_ = saved[0].axes
  assert loss.get_ylabel() == 'local loss descended'
  assert [line.get_ydata().tolist() for line in loss.lines] == [[9.0, 8.0]]
  assert accuracy.get_ylabel() == 'accuracy'
