# SPDX-License-Identifier: Apache-2.0
"""From a config to a run: every task x network x learner, and the optimizer.

Truth: which kind of dynamics each rule takes, written out here; optimizers
against their formulas in NumPy.
"""

import importlib
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from bionet_core import plugins
from bionet_learners import base
from bionet_learners.training import notebook
from bionet_tasks import base as tasks
from experiments.configs import compose
from experiments.configs import copying as configs_copying
from experiments.runs import build, factories, optimizers, updates

# Small sizes of every plugin; a new one has to enter here.
TASKS = {
  'cell_fate': {
    'num_cells': 3,
    'dt': 0.1,
    'duration': 0.5,
    'num_held_out': 6,
    'held_out_dt': 0.1,
    'held_out_duration': 0.5,
  },
  'adding': {'length': 3, 'num_held_out': 4},
  'copying': {'num_symbols': 2, 'time_lag': 1, 'num_held_out': 4},
  'delayed_match': {'delay': 1, 'num_held_out': 4},
  'delayed_xor': {'delay': 1, 'num_held_out': 4},
  'digits': {},
  'evidence_accumulation': {
    'num_cues': 1,
    'dt': 50.0,
    'delay_ms': 50.0,
    'recall_ms': 50.0,
    'cue_rate': 20.0,
    'num_held_out': 4,
  },
  'flip_flop': {'length': 4, 'num_held_out': 4},
  'lorenz': {'length': 4, 'num_held_out': 4},
  'prototypes': {
    'num_prototypes': 3,
    'dim': 6,
    'num_data': 12,
    'num_held_out': 6,
  },
  'sequential_digits': {},
  'store_recall': {'delay': 1, 'min_delay': 0, 'num_held_out': 4},
  'temporal_parity': {'num_bits': 2, 'min_bits': 1, 'num_held_out': 4},
}
CELLS = {
  'gru': {'hidden': 4},
  'leaky': {'hidden': 4},
  'lru': {'hidden': 4},
  'lstm': {'hidden': 4},
  'min_gru': {'hidden': 4},
  'spiking': {'hidden': 4, 'scale_in': 3.0},
  'tissue': {'hidden': (4,)},
  'vanilla_rnn': {'hidden': 4},
}
NETWORKS = {'asymmetric': {'hidden': 4}}
# Cells that say the density of what they draw.
NOISY = {'tissue': CELLS['tissue']}
# Cells that run tasks whose trials are scored each by itself.
RECURRENT = {name: sizes for name, sizes in CELLS.items() if name != 'tissue'}
LEARNERS = {
  'bptt': {},
  'd_rtrl': {'window': 2},
  'e_prop': {'window': 2},
  'evolution': {'population_size': 4, 'elites': 2},
  'evosax': {'population_size': 4},
  'local_plasticity': {'clamped': 2, 'free': 2, 'evaluation_sweeps': 2},
  'open_es': {'population_size': 4},
  'pp_prop': {},
  'rflo': {'window': 2},
  'rtrl': {},
  'score_function': {},
  'snap': {},
  'three_factor': {'window': 2},
  'truncated_bptt': {'window': 2},
  'uoro': {},
}
ANY_CELL = (
  *('bptt', 'evolution', 'evosax', 'open_es', 'rtrl', 'snap'),
  *('truncated_bptt', 'uoro', 'd_rtrl', 'e_prop', 'pp_prop', 'rflo'),
)

# The dynamics that a learner takes.
TAKES = {
  **dict.fromkeys(ANY_CELL, CELLS),
  'local_plasticity': NETWORKS,
  'score_function': NOISY,
  'three_factor': RECURRENT,
}
STATIC = ('digits', 'prototypes')
# Tasks of trials over time that any recurrent cell runs.
SEQUENCES = tuple(sorted({*TASKS} - {'cell_fate', *STATIC}))
# Cells that read their inputs as something: they run one task alone.
RUNS = {'tissue': ('cell_fate',)}

PRODUCT = list(itertools.product(TASKS, (*CELLS, *NETWORKS), LEARNERS))


def _fits(task: str, network: str, learner: str) -> bool:
  if network in NETWORKS:
    runs = STATIC
  else:
    runs = RUNS.get(network, (*SEQUENCES, *STATIC))
  return network in TAKES[learner] and task in runs


COMPATIBLE = [case for case in PRODUCT if _fits(*case)]
# Every learner on every task that its dynamics run, on one of them, and on
# every one of its dynamics, on one task.
TRAINED = [
  (task, network, learner)
  for task, network, learner in COMPATIBLE
  if task == 'copying' or network in ('vanilla_rnn', 'tissue', 'asymmetric')
]
# Each learner; the others are slow, but for the tasks, whose experiments run.
DEFAULT = {
  *(('copying', 'vanilla_rnn', name) for name in (*ANY_CELL, 'three_factor')),
  *(('cell_fate', 'tissue', name) for name in ('bptt', 'score_function')),
  ('digits', 'asymmetric', 'local_plasticity'),
}


def _config(task: str, network: str, learner: str):
  config = compose.get_config(f'{task},{network},{learner}')
  config.batch_size = 3
  config.num_updates = 4
  sizes = {**CELLS, **NETWORKS}
  for section, settings in (
    ('task', TASKS[task]),
    ('network', sizes[network]),
    ('learner', LEARNERS[learner]),
  ):
    config[section].update(settings)
  return config


def _bits(tree) -> list[bytes]:
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


################################################################################
# The product


@pytest.mark.parametrize(
  ('group', 'table'),
  [
    ('bionet.tasks', TASKS),
    ('bionet.cells', CELLS),
    ('bionet.networks', NETWORKS),
    ('bionet.learners', LEARNERS),
    ('bionet.learners', TAKES),
  ],
)
def test_every_plugin_is_in_the_table(group, table):
  """Truth: the names installed."""
  builtin = factories.BUILTIN[group]
  assert sorted(table) == plugins.names(group, builtin)


def test_the_cases_reach_every_pair():
  """Truth: what fits, by learner and task, and by learner and dynamics."""
  for a, b in ((0, 2), (1, 2)):
    pairs = {(case[a], case[b]) for case in COMPATIBLE}
    assert pairs == {(case[a], case[b]) for case in TRAINED}
  assert set(TRAINED) >= DEFAULT
  assert {learner for _, _, learner in DEFAULT} == set(LEARNERS)


@pytest.mark.parametrize(
  'case',
  [
    pytest.param(
      case,
      id='-'.join(case),
      marks=[] if case in DEFAULT else pytest.mark.slow,
    )
    for case in TRAINED
  ],
)
def test_what_fits_trains(case):
  """Truth: an update changes parameters, keeps constants, and is finite.

  A gradient over several steps changes every parameter; in a single one nothing
  recurs, and a margin may be met. Biases are 0 in all of a first generation.
  """
  run = build.build(_config(*case))
  state = updates.init(run)
  before, constants = _bits(state.params), _bits(state.constants)
  trials = run.first.task.sample(
    run.first.keys.data, jnp.arange(run.first.batch_size)
  )
  update = jax.jit(run.first.learner.update)
  state, metrics = update(state, run.first.keys.noise, trials)
  assert base.objective(metrics)
  assert all(math.isfinite(value) for value in metrics.values())
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))
  changed = [a != b for a, b in zip(before, _bits(state.params), strict=True)]
  everything = case[0] not in STATIC and case[2] in ('bptt', 'rtrl')
  assert all(changed) if everything else any(changed)
  assert _bits(state.constants) == constants
  assert int(state.step) == 1


NETWORK_FOR_A_CELL = r'takes a Cell, and got a RelaxationNetwork'
MISFITS = {
  **{
    ('digits', 'asymmetric', name): (TypeError, name + ' ' + NETWORK_FOR_A_CELL)
    for name in LEARNERS
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
  assert case not in COMPATIBLE
  with pytest.raises(kind, match=message):
    build.build(_config(*case))


def _restarted(task='cell_fate', network='tissue', **settings):
  config = _config(task, network, 'bptt')
  few = {'count': 3, 'num_trials': 4, 'validate_every': 2}
  config.restarts.update({**few, **settings})
  return config


def test_restarts_are_set_in_the_config():
  """Truth: the counts; the pick is one of three, judged on fresh draws.

  Validation draws are no draws of an evaluation: the noise has another key.
  """
  run = build.build(_restarted())
  state = updates.trained(run)
  copies = state.rule_state.shared
  assert {len(x) for x in jax.tree.leaves(copies.params)} == {3}
  assert bool(copies.trained) and run.first.rule is None
  own = [
    np.array_equal(copies.params[m][k][n], state.params[m][k])
    for n in range(3)
    for m, k in (('rate/~/linear_0', 'w'),)
  ]
  assert sum(own) <= 1
  evaluation = run.first.task.evaluations['held_out']
  index = jnp.arange(4)
  trials = evaluation.sample(run.first.keys.held_out, index)
  outputs = run.first.learner.predict(
    state, run.first.keys.held_out_noise, trials
  )
  assert copies.score != run.first.task.metrics(outputs, trials)['utility']


@pytest.mark.parametrize(
  ('config', 'error', 'message'),
  [
    (_restarted('digits', 'gru'), ValueError, 'has none beside its data'),
    (_restarted(evaluations=('half',)), KeyError, "Did you mean 'half_dt'"),
    (_restarted(num_trials=0), ValueError, 'restarts.num_trials=0, '),
    (_restarted(count=0), ValueError, '^restarts.count=0: must be'),
    (_restarted(active=4), ValueError, '^restarts.active=4: must be'),
    (
      _restarted(validate_every=5),
      ValueError,
      'validate_every=5: .* 3 or less, .* updates 2 to 4 ',
    ),
  ],
)
def test_restarts_that_cannot_be_are_refused(config, error, message):
  """Truth: the messages."""
  with pytest.raises(error, match=message):
    build.build(config)


def test_the_last_stage_of_restarts_is_judged():
  """Truth: multiples of 3 and 4 among the updates of stages, by hand."""
  config = _restarted(validate_every=3)  # judged after update 3 of 1 to 4
  for every, steps, judged in ((3, 1, False), (3, 2, True), (4, 3, False)):
    config.stages.b = {
      'num_updates': steps,
      'restarts': {'validate_every': every},
    }
    if judged:
      build.build(config)
      continue
    with pytest.raises(ValueError, match=f'the updates 5 to {4 + steps} '):
      build.build(config)
  config.stages, config.num_updates = {}, 1
  with pytest.raises(ValueError, match=r'num_updates=1: .*count=3'):
    build.build(config)


@pytest.mark.parametrize('settings', [{'every': 2}, {'carry': True}])
def test_the_schedule_is_the_learners_not_the_rules(settings):
  """Truth: the settings of `descend`, which no rule's factory names."""
  config = _config('copying', 'gru', 'bptt')
  config.learner.update(settings)
  run = build.build(config)
  assert run.first.learner.partition == 'trials'


def test_precision_is_of_what_is_computed_and_not_of_what_is_kept():
  """Truth: the types that the policy names, by hand."""
  config = _config('copying', 'gru', 'bptt')
  config.precision = 'params=float32,compute=bfloat16,output=float32'
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
  config = _config('prototypes', 'asymmetric', 'local_plasticity')
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


################################################################################
# compose.py


def plain(spec, *, size: int, rate: 'float | None' = None, free=None):
  """A factory with every kind of parameter that compose.py has to show."""
  return spec, size, rate, free


def test_compose_shows_settings_without_a_default(monkeypatch):
  """Truth: the signature above; what has no value is asked for by name."""
  monkeypatch.setattr(factories, 'dynamics_group', lambda _: 'bionet.cells')
  builtin = {**factories.BUILTIN, 'bionet.cells': {'plain': 'a:b'}}
  monkeypatch.setattr(factories, 'BUILTIN', builtin)
  monkeypatch.setattr(
    plugins,
    'load',
    lambda _, name, table, load=plugins.load: (
      plain if name == 'plain' else load(_, name, table)
    ),
  )
  config = compose.get_config('copying,plain,bptt').lock()
  assert config.network.get_type('size') is int
  assert config.network.get_type('rate') is float
  assert config.network.free is None
  with pytest.raises(TypeError, match=r'network\.size=None: must be set'):
    build.build(config)
  config.network.size = 3
  made = factories.make('bionet.cells', 'network', config.network, 'spec')
  assert made == ('spec', 3, None, None)


################################################################################
# Factories of other packages

THIRD = """\
import jax
import jax.numpy as jnp

from bionet_learners import base
from bionet_learners.reverse import bptt
from bionet_tasks.temporal import copying

handed = []


def silent(*, row: int = -1):
  # Copying in which this row of every batch is asked at no step.
  task = copying.copying(num_symbols=2, time_lag=1, num_held_out=4)

  def sample(key, index, batch_size=None):
    trials = task.sample(key, index)
    here = index % (batch_size or len(index)) == row
    return trials.replace(mask=jnp.where(here, 0.0, trials.mask))

  return task._replace(sample=sample)


def rule(cell, loss, *, devices=base.ONE, remat: bool = False):
  handed.append(devices.count)
  return bptt.bptt(cell, loss, remat=remat)


def optimized(cell, loss, *, optimizer=None, remat: bool = False):
  handed.append(optimizer)
  return bptt.bptt(cell, loss, remat=remat)


def guesser(cell, loss, *, scale: float = 0.1):
  # No rule at all: draws its parameters anew at every update.
  def init(key, trials):
    del key
    params = {'w': jnp.zeros(trials.inputs.shape[-1])}
    state = base.RuleState(shared=(), per_trial=())
    return base.LearnerState(params, {}, state, (), jnp.int32(0))

  def update(state, key, trials):
    key = jax.random.fold_in(key, state.step)
    w = scale * jax.random.normal(key, state.params['w'].shape)
    return state._replace(params={'w': w}, step=state.step + 1), {
      'loss': jnp.sum(w**2)
    }

  def predict(state, key, trials):
    del key
    return trials.inputs * state.params['w'][None, None]

  return base.Learner(init, update, predict)
"""


@pytest.fixture(scope='module')
def third(tmp_path_factory):
  """The module above, found by its name."""
  folder = tmp_path_factory.mktemp('third')
  (folder / 'third_of_build.py').write_text(THIRD)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(folder)
    yield importlib.import_module('third_of_build')


def _third(factory: str):
  config = compose.get_config(f'copying,gru,third_of_build:{factory}')
  config.batch_size, config.num_updates, config.network.hidden = 4, 3, 4
  config.task.update(TASKS['copying'])
  return config.lock()


@pytest.mark.parametrize('count', [1, 2])
def test_a_factory_that_takes_devices_is_handed_them(count, third):
  """Truth: the config's number; no config names them."""
  config = _third('rule')
  assert 'devices' not in config.learner
  config.devices = count
  third.handed.clear()
  run = build.build(config)
  assert run.devices == third.handed[-1] == count
  assert run.first.rule is not None


@pytest.mark.parametrize(
  ('factory', 'devices', 'calls'),
  [('optimized', 1, 1), ('optimized', 2, 1), ('rule', 1, 1), ('rule', 2, 2)],
)
def test_a_rule_is_made_once(factory, devices, calls, third):
  """Truth: the factory's calls, counted by itself.

  With collectives the rule is another one: what is checked and probed outside
  of pmap has none.
  """
  config = _third(factory)
  config.devices = devices
  third.handed.clear()
  run = build.build(config)
  assert len(third.handed) == calls
  assert float(run.first.learning_rate(0)) == config.optimizer.learning_rate


def test_the_optimizer_is_made_before_the_rule(third):
  """Truth: a step of plain SGD, -rate x gradient, by the one handed in."""
  config = _third('optimized')
  config.optimizer.name, config.optimizer.learning_rate = 'sgd', 0.25
  third.handed.clear()
  build.build(config)
  [optimizer] = third.handed
  params = {'w': jnp.array([1.0, -2.0])}
  step, _ = optimizer.update(params, optimizer.init(params), params)
  np.testing.assert_allclose(step['w'], [-0.25, 0.5])


def test_trials_that_nothing_judges_are_refused(third):
  """Truth: the one row of four whose mask is zero, in a later stage too."""
  del third
  config = compose.get_config('third_of_build:silent,vanilla_rnn,bptt')
  config.batch_size, config.num_updates, config.network.hidden = 4, 3, 4
  build.build(config)
  words = "'copying': 1 of 4 trials are judged at no step .the first in row 2"
  config.stages.b_silent = {'task': {'row': 2}}
  with pytest.raises(ValueError, match=words):
    build.build(config)
  config.stages, config.task.row = {}, 2
  with pytest.raises(ValueError, match=words):
    build.build(config)


def test_no_config_sets_what_is_handed(third):
  """Truth: the words a user reads; `remat` is a setting of the factory."""
  config = _third('rule')
  config.learner.remat = True
  build.build(config)
  with config.unlocked():
    config.learner.devices = 3
  with pytest.raises(
    TypeError, match=r'learner\.devices=3: .* no such setting'
  ):
    build.build(config)


def test_a_learner_that_is_made_of_no_rule_trains(third):
  """Truth: the draws of its three updates, by hand; no optimizer is there."""
  config = _third('guesser')
  config.learner.scale = 0.5
  run = build.build(config)
  assert run.first.rule is None
  state = updates.place(run, updates.init(run))
  state, [part] = updates.make_advance_between(run)(state, 0, run.num_updates)
  drawn = [
    0.5
    * jax.random.normal(jax.random.fold_in(run.first.keys.noise, step), (10,))
    for step in range(3)
  ]
  np.testing.assert_allclose(state.params['w'], drawn[-1], rtol=1e-6)
  losses = [float(jnp.sum(w**2)) for w in drawn]
  np.testing.assert_allclose(part.values['loss'], losses, rtol=1e-5)
  assert int(state.step) == 3 and state.opt_state == ()
  assert not np.any(part.values['learning_rate'])


################################################################################
# The optimizer

_PARAMS = {
  'to1': {'w': jnp.array([1.0, -2.0, 3.0]), 'b': jnp.array([0.5])},
  'to2': {'w': jnp.array([[4.0, -1.0]])},
}
_GRADIENT = {
  'to1': {'w': jnp.array([3.0, 0.0, -1.0]), 'b': jnp.array([2.0])},
  'to2': {'w': jnp.array([[-1.0, 1.0]])},
}
_NORM = 4.0  # sqrt(9 + 0 + 1 + 4 + 1 + 1)
_STEPS = 4


def _settings(**changes) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      'name': 'sgd',
      'learning_rate': 0.5,
      'schedule': 'constant',
      'warmup': 0,
      'accumulate': 1,
      'clip_norm': 0.0,
      **changes,
    }
  )


def _descend(settings, num_updates=1):
  """The updates of a constant gradient, one after the other."""
  optimizer, _ = optimizers.make_optimizer(settings, _STEPS, _PARAMS)
  state, params, taken = optimizer.init(_PARAMS), _PARAMS, []
  for _ in range(num_updates):
    step, state = optimizer.update(_GRADIENT, state, params)
    params = jax.tree.map(jnp.add, params, step)
    taken.append(step)
  return taken, params


def _close(tree, scales):
  """Asserts that a tree is `-scale` times the gradient, module by module."""
  for module, scale in scales.items():
    for name, gradient in _GRADIENT[module].items():
      np.testing.assert_allclose(
        tree[module][name], -scale * gradient, rtol=1e-6, atol=1e-7
      )


def test_cosine_ends_at_zero():
  """Truth: rate (1 + cos(pi k / n)) / 2 at update k; 0 at k = n and after."""
  taken, _ = _descend(_settings(schedule='cosine'), _STEPS + 2)
  for k, step in enumerate(taken):
    rate = 0.25 * (1 + math.cos(math.pi * min(k, _STEPS) / _STEPS))
    _close(step, {'to1': rate, 'to2': rate})
  assert all(not np.any(x) for x in jax.tree.leaves(taken[_STEPS]))


@pytest.mark.parametrize(
  ('schedule', 'warmup', 'factors'),
  [
    ('linear', 0, [1, 3 / 4, 1 / 2, 1 / 4, 0, 0]),
    ('linear', 2, [0, 1 / 2, 1, 1 / 2, 0, 0]),
    ('constant', 3, [0, 1 / 3, 2 / 3, 1, 1, 1]),
    # (1 + cos(pi k / 3)) / 2 once it is warm.
    ('cosine', 1, [0, 1, 3 / 4, 1 / 4, 0, 0]),
  ],
)
def test_a_schedule_after_a_warm_up(schedule, warmup, factors):
  """Truth: the factors on the rate in a run of 4, and after it, by hand."""
  settings = _settings(schedule=schedule, warmup=warmup)
  taken, _ = _descend(settings, len(factors))
  _, rate = optimizers.make_optimizer(settings, _STEPS, _PARAMS)
  for k, factor in enumerate(factors):
    _close(taken[k], {'to1': 0.5 * factor, 'to2': 0.5 * factor})
    np.testing.assert_allclose(rate(k), 0.5 * factor, rtol=1e-6, atol=1e-7)


def test_a_warm_up_has_to_end_before_the_run():
  """Truth: 4 updates; a warm-up of 3 leaves one at the full rate."""
  optimizers.make_optimizer(_settings(warmup=3), _STEPS, _PARAMS)
  with pytest.raises(ValueError, match=r'warmup=4: .* the 4 updates'):
    optimizers.make_optimizer(_settings(warmup=4), _STEPS, _PARAMS)


def test_accumulated_gradients_make_one_step():
  """Truth: zero, zero, and the mean gradient of three calls; then again.

  The rate reported for a call is the one that its step is taken with.
  """
  settings = _settings(accumulate=3, schedule='linear')
  optimizer, rate = optimizers.make_optimizer(settings, 6, _PARAMS)
  state = optimizer.init(_PARAMS)
  for call, share in enumerate([0, 3, 6, 0, 0, 3]):  # means: 3 and 1
    gradient = jax.tree.map(lambda x, share=share: share * x, _GRADIENT)
    step, state = optimizer.update(gradient, state, _PARAMS)
    expected = {2: 3 * 0.5, 5: 1 * 0.25}.get(call, 0.0)  # linear: 1, then 1/2
    _close(step, {'to1': expected, 'to2': expected})
    np.testing.assert_allclose(rate(call), 0.5 if call < 3 else 0.25)


def test_accumulating_is_a_larger_batch():
  """Truth: half as many updates of twice the batch, by momentum SGD.

  The trials are the same, and everything that counts steps of the optimizer
  (momentum, the schedule, its warm-up, clipping) counts them alike.
  """
  states = []
  for batch_size, num_updates, accumulate, warmup in (
    (4, 8, 2, 2),
    (8, 4, 1, 1),
  ):
    config = configs_copying.get_config('smoke')
    config.batch_size, config.num_updates = batch_size, num_updates
    with config.unlocked():
      config.optimizer.update(
        name='sgd',
        learning_rate=0.5,
        momentum=0.9,
        clip_norm=0.1,
        schedule='cosine',
        warmup=warmup,
        accumulate=accumulate,
      )
    states.append(updates.trained(build.build(config)))
  parts, whole = (state.params for state in states)
  chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)
  start = updates.init(build.build(config)).params
  far = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), whole, start)
  assert min(jax.tree.leaves(far)) > 1e-3


@pytest.mark.parametrize('schedule', ['constant', 'cosine', 'linear'])
def test_the_rate_that_is_reported_is_the_one_applied(schedule):
  """Truth: of plain SGD, the step's norm over the gradient's."""
  config = configs_copying.get_config('smoke')
  config.optimizer.name, config.optimizer.schedule = 'sgd', schedule
  config.optimizer.clip_norm, config.optimizer.warmup = 0.0, 2
  run = build.build(config)
  state = updates.place(run, updates.init(run))
  _, [part] = updates.make_advance_between(run)(state, 0, run.num_updates)
  values = {name: np.asarray(x) for name, x in part.values.items()}
  applied = values['update_norm'] / values['gradient_norm']
  np.testing.assert_allclose(values['learning_rate'], applied, rtol=1e-5)
  assert applied[0] == 0 and applied[2] == pytest.approx(1e-2)


def test_a_warm_up_lasts_its_updates_with_updates_at_borders():
  """Truth: the comment in base.py: warm-up is counted in updates.

  Each has 3 windows, so the optimizer is called 3 times an update.
  """
  config = configs_copying.get_config('smoke')
  config.num_updates, config.learner.every = 4, 3
  config.optimizer.warmup = 2
  rate = build.build(config).first.learning_rate
  reported = [float(rate(update)) for update in range(4)]
  np.testing.assert_allclose(reported, [0, 5e-3, 1e-2, 1e-2], rtol=1e-6)


def test_cosine_lasts_as_long_as_the_run_with_updates_at_borders():
  """Truth: 3 updates of 8 steps in windows of 3: the optimizer steps 9 times.

  The last window still moves the weights, by rate (1 + cos(8 pi / 9)) / 2 of
  the first rate; a schedule over 3 steps would have ended in update 1.
  """
  config = configs_copying.get_config('smoke')
  config.num_updates, config.learner.every = 3, 3
  config.optimizer.name, config.optimizer.schedule = 'sgd', 'cosine'
  run = build.build(config)
  assert run.first.task.spec.num_steps == 8
  advance, state = updates.make_advance(run.first), updates.init(run)
  for step in range(3):
    before = jax.tree.map(np.array, state.params)
    state, _ = advance(state, jnp.int32(step), 1)
    assert _bits(state.params) != _bits(before)
  state, _ = advance(state, jnp.int32(3), 1)  # one more than the run has
  after, _ = advance(jax.tree.map(jnp.array, state), jnp.int32(4), 1)
  assert _bits(after.params) == _bits(state.params)


def test_each_module_has_its_rate():
  """Truth: plain descent, rate by rate."""
  [step], _ = _descend(_settings(rate_factors={'to2': 0.25}))
  _close(step, {'to1': 0.5, 'to2': 0.125})


def test_a_modules_rate_follows_the_schedule():
  """Truth: the cosine of each module's own peak, at update 1 of 4."""
  settings = _settings(schedule='cosine', rate_factors={'to2': 0.25})
  step = _descend(settings, 2)[0][1]
  share = (1 + math.cos(math.pi / 4)) / 2
  _close(step, {'to1': 0.5 * share, 'to2': 0.125 * share})


@pytest.mark.parametrize('name', ['adam', 'adamw', 'sgd'])
def test_rate_zero_freezes_bitwise(name):
  """Truth: the parameters before. Weight decay must not reach them either."""
  settings = _settings(name=name, rate_factors={'to1': 0.0})
  _, params = _descend(settings, 3)
  assert _bits(params['to1']) == _bits(_PARAMS['to1'])
  assert _bits(params['to2']) != _bits(_PARAMS['to2'])
  _, params = _descend(_settings(name=name, learning_rate=0.0), 3)
  assert _bits(params) == _bits(_PARAMS)


@pytest.mark.parametrize(
  ('clip_norm', 'share'), [(1.0, 1 / _NORM), (3.0, 3 / _NORM), (5.0, 1.0)]
)
def test_clip_bounds_the_norm_of_the_whole_tree(clip_norm, share):
  """Truth: the gradient's norm, 4 by hand, over all modules together."""
  settings = _settings(clip_norm=clip_norm, rate_factors={'to2': 0.5})
  [step], _ = _descend(settings)
  _close(step, {'to1': 0.5 * share, 'to2': 0.25 * share})


def test_adam_is_adam():
  """Truth: D. P. Kingma and J. Ba (2015), algorithm 1, in NumPy."""
  taken, _ = _descend(_settings(name='adam', b1=0.8, b2=0.9), 3)
  g = np.asarray(_GRADIENT['to1']['w'])
  m = v = np.zeros_like(g)
  for k, step in enumerate(taken, start=1):
    m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
    expected = (m / (1 - 0.8**k)) / (np.sqrt(v / (1 - 0.9**k)) + 1e-8)
    np.testing.assert_allclose(
      step['to1']['w'], -0.5 * expected, rtol=1e-5, atol=1e-7
    )


def test_an_unknown_module_is_refused():
  """Truth: the words a user reads."""
  with pytest.raises(KeyError, match=r"'to3'.*Did you mean 'to[12]'\?"):
    _descend(_settings(rate_factors={'to3': 0.1}))


def test_settings_of_optax_pass_and_others_do_not():
  """Truth: momentum belongs to optax.sgd, and to no adam."""
  taken, _ = _descend(_settings(momentum=0.5), 2)
  _close(taken[1], {'to1': 0.75, 'to2': 0.75})  # 0.5 (1 + 0.5)
  with pytest.raises(
    TypeError, match=r"momentum=0.5: 'adam' has no such setting"
  ):
    _descend(_settings(name='adam', momentum=0.5))


def test_constants_never_meet_the_optimizer():
  """Truth: bitwise the constants drawn; decay would shrink them at once."""
  config = _config('prototypes', 'asymmetric', 'local_plasticity')
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 0.1
  config.optimizer.weight_decay = 0.5
  run = build.build(config)
  state = updates.init(run)
  constants, params = _bits(state.constants), _bits(state.params)
  assert any(np.any(x) for x in jax.tree.leaves(state.constants))
  # Adam's two moments of the parameters, its counter and the schedule's.
  sizes = [optax.tree.size(state.opt_state), optax.tree.size(state.params)]
  assert sizes[0] == 2 * sizes[1] + 2
  state, _ = updates.make_advance(run.first)(state, jnp.int32(0), 4)
  assert _bits(state.constants) == constants
  assert all(a != b for a, b in zip(_bits(state.params), params, strict=True))
