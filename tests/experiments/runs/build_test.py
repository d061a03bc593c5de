# SPDX-License-Identifier: Apache-2.0
"""From a config to a run: every task x network x learner.

Truth: which kind of dynamics each rule takes, as the table of plugins says.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import plugins
from bionet_learners import base
from bionet_learners.training import notebook
from bionet_tasks import base as tasks
from experiments.runs import build, factories, updates
from tests.experiments.runs import small_runs

# Every learner on every task that its dynamics run, on one of them, and on
# every one of its dynamics, on one task.
TRAINED = [
  (task, network, learner)
  for task, network, learner in small_runs.COMPATIBLE
  if task == 'copying' or network in ('vanilla_rnn', 'tissue', 'asymmetric')
]
# Each learner; the others are slow, but for the tasks, whose experiments run.
DEFAULT = {
  *(
    ('copying', 'vanilla_rnn', name)
    for name in (*small_runs.ANY_CELL, 'three_factor')
  ),
  *(('cell_fate', 'tissue', name) for name in ('bptt', 'score_function')),
  ('digits', 'asymmetric', 'local_plasticity'),
}
# Of each kind of learner one that is compiled; the others are traced.
COMPILED = {
  *(('copying', 'vanilla_rnn', name) for name in ('bptt', 'd_rtrl')),
  ('copying', 'vanilla_rnn', 'evolution'),
  ('cell_fate', 'tissue', 'score_function'),
  ('digits', 'asymmetric', 'local_plasticity'),
}


@pytest.mark.parametrize(
  ('group', 'table'),
  [
    ('bionet.tasks', small_runs.TASKS),
    ('bionet.cells', small_runs.CELLS),
    ('bionet.networks', small_runs.NETWORKS),
    ('bionet.learners', small_runs.LEARNERS),
    ('bionet.learners', small_runs.TAKES),
  ],
)
def test_every_plugin_is_in_the_table(group, table):
  """Truth: the names installed."""
  builtin = factories.BUILTIN[group]
  assert sorted(table) == plugins.names(group, builtin)


def test_the_cases_reach_every_pair():
  """Truth: what fits, by learner and task, and by learner and dynamics."""
  for a, b in ((0, 2), (1, 2)):
    pairs = {(case[a], case[b]) for case in small_runs.COMPATIBLE}
    assert pairs == {(case[a], case[b]) for case in TRAINED}
  assert set(TRAINED) >= DEFAULT >= COMPILED
  assert {learner for _, _, learner in DEFAULT} == set(small_runs.LEARNERS)


@pytest.mark.parametrize(
  'case',
  [
    pytest.param(
      case,
      id='-'.join(case),
      marks=[] if case in COMPILED else pytest.mark.slow,
    )
    for case in TRAINED
  ],
)
def test_what_fits_trains(case):
  """Truth: an update changes parameters, keeps constants, and is finite.

  A gradient over several steps changes every parameter; in a single one nothing
  recurs, and a margin may be met. Biases are 0 in all of a first generation.
  """
  run = build.build(small_runs.config(*case))
  state = updates.init(run)
  before, constants = (
    small_runs.bits(state.params),
    small_runs.bits(state.constants),
  )
  trials = run.first.task.sample(
    run.first.keys.data, jnp.arange(run.first.batch_size)
  )
  update = jax.jit(run.first.learner.update)
  state, metrics = update(state, run.first.keys.noise, trials)
  assert base.objective(metrics)
  assert all(math.isfinite(value) for value in metrics.values())
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))
  changed = [
    a != b for a, b in zip(before, small_runs.bits(state.params), strict=True)
  ]
  everything = case[0] not in small_runs.STATIC and case[2] in (
    'bptt',
    'rtrl',
  )
  assert all(changed) if everything else any(changed)
  assert small_runs.bits(state.constants) == constants
  assert int(state.step) == 1


@pytest.mark.parametrize('case', sorted(DEFAULT - COMPILED), ids='-'.join)
def test_what_fits_keeps_the_state(case):
  """Truth: the shapes and types before the update; no number is computed."""
  run = build.build(small_runs.config(*case))
  state = jax.eval_shape(lambda: updates.init(run))
  trials = jax.eval_shape(
    run.first.task.sample, run.first.keys.data, jnp.arange(3)
  )
  after, metrics = jax.eval_shape(
    run.first.learner.update, state, run.first.keys.noise, trials
  )
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
  assert jax.tree.leaves(state.params)
  assert base.objective(metrics)
  assert {x.shape for x in metrics.values()} == {()}


NETWORK_FOR_A_CELL = r'takes a Cell, and got a RelaxationNetwork'
MISFITS = {
  **{
    ('digits', 'asymmetric', name): (TypeError, name + ' ' + NETWORK_FOR_A_CELL)
    for name in small_runs.LEARNERS
    if name != 'local_plasticity'
  },
  ('digits', 'gru', 'local_plasticity'): (
    TypeError,
    'local_plasticity takes a RelaxationNetwork, and got a Cell',
  ),
  ('copying', 'gru', 'score_function'): (
    TypeError,
    'this Cell has no log_density',
  ),
  # Both have 5 steps: 2 symbols, a lag of 1, 2 answers; a duration of 5 dt.
  ('copying', 'asymmetric', 'local_plasticity'): (
    ValueError,
    r'relaxation network takes static trials \(T = 1\).*T = 5',
  ),
  # What chex says of the inputs.
  ('copying', 'tissue', 'bptt'): (AssertionError, r'\(3, 10\).*\(None, 2\)'),
  # It asks for the loss of each trial alone.
  ('cell_fate', 'tissue', 'three_factor'): (ValueError, 'a single replicate'),
}
"""One misfit of every kind: the error, and what its message says."""


@pytest.mark.parametrize('case', MISFITS, ids='-'.join)
def test_what_does_not_fit_says_what_would(case):
  """Truth: the kinds of dynamics, by the names of their types."""
  kind, message = MISFITS[case]
  assert case not in small_runs.COMPATIBLE
  with pytest.raises(kind, match=message):
    build.build(small_runs.config(*case))


@pytest.mark.parametrize('settings', [{'every': 2}, {'carry': True}])
def test_the_schedule_is_the_learners_not_the_rules(settings):
  """Truth: the settings of `descend`, which no rule's factory names."""
  config = small_runs.config('copying', 'gru', 'bptt')
  config.learner.update(settings)
  run = build.build(config)
  assert run.first.learner.partition == 'trials'


def test_precision_is_of_what_is_computed_and_not_of_what_is_kept():
  """Truth: the types that the policy names, by hand."""
  config = small_runs.config('copying', 'gru', 'bptt')
  config.precision = 'params=float32,compute=bfloat16,output=float32'
  config.learner.carry = True  # else nothing is kept of a cell's state
  run = build.build(config)
  state = jax.eval_shape(lambda: updates.init(run))
  assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {'float32'}
  assert state.rule_state.per_trial.state.dtype == jnp.bfloat16
  trials = jax.eval_shape(
    run.first.task.sample, run.first.keys.data, jnp.arange(3)
  )
  outputs = jax.eval_shape(
    run.first.learner.predict, state, run.first.keys.noise, trials
  )
  assert outputs.dtype == jnp.float32
  after, _ = jax.eval_shape(
    run.first.learner.update, state, run.first.keys.noise, trials
  )
  chex.assert_trees_all_equal_dtypes(after, state)


def test_epochs_are_counted_in_updates():
  """Truth: ceil(epochs x samples / batch); 12 samples in batches of 5."""
  config = small_runs.config('prototypes', 'asymmetric', 'local_plasticity')
  config.num_updates, config.num_epochs, config.batch_size = 0, 2, 5
  assert build.build(config).num_updates == 5
  config.num_updates = 7
  with pytest.raises(ValueError, match='num_updates=7, num_epochs=2: '):
    build.build(config)
  config.num_epochs = 0
  assert build.build(config).num_updates == 7


def test_keys_differ_and_follow_from_the_seed():
  """Truth: each other."""
  keys = [jax.random.key_data(key) for key in notebook.run_keys(3)]
  again = [jax.random.key_data(key) for key in notebook.run_keys(3)]
  other = [jax.random.key_data(key) for key in notebook.run_keys(4)]
  np.testing.assert_array_equal(keys, again)
  assert len({np.asarray(key).tobytes() for key in (*keys, *other)}) == 10


def test_no_key_of_a_run_is_a_key_of_its_task():
  """Truth: every key that follows from one seed in two steps, by its bits.

  A trial's data and noise are folds of a run's key; a task draws its instance
  from splits of its own.
  """
  seed = 3
  parents = [*notebook.run_keys(seed), tasks.instance_key(seed)]
  derived = [jax.random.key(seed), *parents]
  for parent in parents:
    derived += [jax.random.fold_in(parent, i) for i in range(6)]
  bits = {np.asarray(jax.random.key_data(key)).tobytes() for key in derived}
  assert len(bits) == len(derived)
