# SPDX-License-Identifier: Apache-2.0
"""From a config to a run: every task x network x learner, and the optimizer.

Truth: which kind of dynamics each rule takes, written out here; optimizers
against their formulas in NumPy.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from bionet_core import plugins
from bionet_tasks import base as tasks
from experiments import build, train
from experiments.configs import compose
from experiments.configs import copying as configs_copying

# Small sizes of every plugin; a new one has to enter here.
TASKS = {
  'copying': {'num_symbols': 2, 'time_lag': 1, 'num_held_out': 4},
  'digits': {},
  'prototypes': {
    'num_prototypes': 3,
    'dim': 6,
    'num_data': 12,
    'num_held_out': 6,
  },
}
CELLS = {
  'gru': {'hidden': 4},
  'lstm': {'hidden': 4},
  'vanilla_rnn': {'hidden': 4},
}
NETWORKS = {'asymmetric': {'hidden': 4}}
LEARNERS = {
  'bptt': {},
  'local_plasticity': {'clamped': 2, 'free': 2, 'evaluation_sweeps': 2},
}

# The dynamics that a learner takes, and the tasks that dynamics can run.
TAKES = {'bptt': CELLS, 'local_plasticity': NETWORKS}
STATIC = ('digits', 'prototypes')

PRODUCT = list(itertools.product(TASKS, (*CELLS, *NETWORKS), LEARNERS))


def _fits(task: str, network: str, learner: str) -> bool:
  runs = network in CELLS or task in STATIC
  return network in TAKES[learner] and runs


COMPATIBLE = [case for case in PRODUCT if _fits(*case)]
# Each learner on each of its tasks, and each cell once; the others are slow.
DEFAULT = {
  *(('copying', cell, 'bptt') for cell in CELLS),
  *((task, 'vanilla_rnn', 'bptt') for task in TASKS),
  *((task, 'asymmetric', 'local_plasticity') for task in STATIC),
}


def _config(task: str, network: str, learner: str):
  config = compose.get_config(f'{task},{network},{learner}')
  config.batch_size = 3
  config.num_steps = 4
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
  builtin = build.BUILTIN[group]
  assert sorted(table) == plugins.names(group, builtin)


def test_every_learner_trains_every_task_of_its_dynamics():
  """Truth: a cell runs every task, a network every static one."""
  for learner, takes in TAKES.items():
    tasks = TASKS if takes is CELLS else STATIC
    trained = {task for task, _, name in DEFAULT if name == learner}
    assert trained == set(tasks)
  assert set(COMPATIBLE) >= DEFAULT
  assert {network for _, network, _ in DEFAULT} == {*CELLS, *NETWORKS}


@pytest.mark.parametrize(
  'case',
  [
    pytest.param(
      case,
      id='-'.join(case),
      marks=[] if case in DEFAULT else pytest.mark.slow,
    )
    for case in COMPATIBLE
  ],
)
def test_what_fits_trains(case):
  """Truth: an update changes parameters, keeps constants, and is finite.

  Over several steps it changes every parameter; in a single one nothing recurs,
  and a margin may be met.
  """
  run = build.build(_config(*case))
  state = train.init(run)
  before, constants = _bits(state.params), _bits(state.constants)
  trials = run.task.sample(run.keys.data, jnp.arange(run.batch_size))
  update = jax.jit(run.learner.update)
  state, metrics = update(state, run.keys.noise, trials)
  assert 'loss' in metrics
  assert all(math.isfinite(value) for value in metrics.values())
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))
  changed = [a != b for a, b in zip(before, _bits(state.params), strict=True)]
  assert any(changed) if case[0] in STATIC else all(changed)
  assert _bits(state.constants) == constants
  assert int(state.step) == 1


@pytest.mark.parametrize(
  'case',
  [
    pytest.param(case, id='-'.join(case))
    for case in PRODUCT
    if case not in COMPATIBLE
  ],
)
def test_what_does_not_fit_says_which_kinds_do(case):
  """Truth: the kinds of dynamics, by the names of their types."""
  task, network, learner = case
  kinds = ('Cell', 'RelaxationNetwork')
  with pytest.raises((TypeError, ValueError)) as error:
    build.build(_config(*case))
  message = str(error.value)
  if network in TAKES[learner]:  # the dynamics fit the rule, not the task
    assert task not in STATIC
    assert error.type is ValueError
    assert 'relaxation network takes static trials (T = 1)' in message
    assert 'T = 5' in message  # 2 symbols, a lag of 1, 2 answers
  else:
    needed, got = kinds if TAKES[learner] is CELLS else reversed(kinds)
    assert error.type is TypeError
    assert learner in message
    assert needed in message.split('got')[0]
    assert f'got a {got}' in message


@pytest.mark.parametrize('settings', [{'every': 2}, {'carry': True}])
def test_the_schedule_is_the_learners_not_the_rules(settings):
  """Truth: the settings of `descend`, which no rule's factory names."""
  config = _config('copying', 'gru', 'bptt')
  config.learner.update(settings)
  run = build.build(config)
  assert run.learner.partition == 'trials'


def test_epochs_are_counted_in_updates():
  """Truth: ceil(epochs x samples / batch); 12 samples in batches of 5."""
  config = _config('prototypes', 'asymmetric', 'local_plasticity')
  config.num_steps, config.num_epochs, config.batch_size = 0, 2, 5
  assert build.build(config).num_steps == 5
  config.num_steps = 7
  with pytest.raises(ValueError, match='num_steps is 7 and num_epochs 2'):
    build.build(config)
  config.num_epochs = 0
  assert build.build(config).num_steps == 7


def test_keys_differ_and_follow_from_the_seed():
  """Truth: each other."""
  keys = [jax.random.key_data(key) for key in build.make_keys(3)]
  again = [jax.random.key_data(key) for key in build.make_keys(3)]
  other = [jax.random.key_data(key) for key in build.make_keys(4)]
  np.testing.assert_array_equal(keys, again)
  assert len({np.asarray(key).tobytes() for key in (*keys, *other)}) == 10


def test_no_key_of_a_run_is_a_key_of_its_task():
  """Truth: every key that follows from one seed in two steps, by its bits.

  A trial's data and noise are folds of a run's key; a task draws its instance
  from splits of its own.
  """
  seed = 3
  parents = [*build.make_keys(seed), tasks.instance_key(seed)]
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
  monkeypatch.setattr(build, 'dynamics_group', lambda _: 'bionet.cells')
  builtin = {**build.BUILTIN, 'bionet.cells': {'plain': 'a:b'}}
  monkeypatch.setattr(build, 'BUILTIN', builtin)
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
  with pytest.raises(TypeError, match=r'network\.size has no default'):
    build.build(config)
  config.network.size = 3
  made = build.make('bionet.cells', 'network', config.network, 'spec')
  assert made == ('spec', 3, None, None)


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
      'clip_norm': 0.0,
      **changes,
    }
  )


def _descend(settings, num_updates=1):
  """The updates of a constant gradient, one after the other."""
  optimizer = build.make_optimizer(settings, _STEPS, _PARAMS)
  state, params, all_updates = optimizer.init(_PARAMS), _PARAMS, []
  for _ in range(num_updates):
    updates, state = optimizer.update(_GRADIENT, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    all_updates.append(updates)
  return all_updates, params


def _close(tree, scales):
  """Asserts that a tree is `-scale` times the gradient, module by module."""
  for module, scale in scales.items():
    for name, gradient in _GRADIENT[module].items():
      np.testing.assert_allclose(
        tree[module][name], -scale * gradient, rtol=1e-6, atol=1e-7
      )


def test_cosine_ends_at_zero():
  """Truth: rate (1 + cos(pi k / n)) / 2 at update k; 0 at k = n and after."""
  all_updates, _ = _descend(_settings(schedule='cosine'), _STEPS + 2)
  for k, updates in enumerate(all_updates):
    rate = 0.25 * (1 + math.cos(math.pi * min(k, _STEPS) / _STEPS))
    _close(updates, {'to1': rate, 'to2': rate})
  assert all(not np.any(x) for x in jax.tree.leaves(all_updates[_STEPS]))


def test_cosine_lasts_as_long_as_the_run_with_updates_at_borders():
  """Truth: 3 updates of 8 steps in windows of 3: the optimizer steps 9 times.

  The last window still moves the weights, by rate (1 + cos(8 pi / 9)) / 2 of
  the first rate; a schedule over 3 steps would have ended in update 1.
  """
  config = configs_copying.get_config('smoke')
  config.num_steps, config.learner.every = 3, 3
  config.optimizer.name, config.optimizer.schedule = 'sgd', 'cosine'
  run = build.build(config)
  assert run.task.spec.num_steps == 8
  advance, state = train.make_advance(run), train.init(run)
  for step in range(3):
    before = jax.tree.map(np.array, state.params)
    state, _ = advance(state, jnp.int32(step), 1)
    assert _bits(state.params) != _bits(before)
  state, _ = advance(state, jnp.int32(3), 1)  # one more than the run has
  after, _ = advance(jax.tree.map(jnp.array, state), jnp.int32(4), 1)
  assert _bits(after.params) == _bits(state.params)


def test_each_module_has_its_rate():
  """Truth: plain descent, rate by rate."""
  [updates], _ = _descend(_settings(rate_factors={'to2': 0.25}))
  _close(updates, {'to1': 0.5, 'to2': 0.125})


def test_a_modules_rate_follows_the_schedule():
  """Truth: the cosine of each module's own peak, at update 1 of 4."""
  settings = _settings(schedule='cosine', rate_factors={'to2': 0.25})
  updates = _descend(settings, 2)[0][1]
  share = (1 + math.cos(math.pi / 4)) / 2
  _close(updates, {'to1': 0.5 * share, 'to2': 0.125 * share})


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
  [updates], _ = _descend(settings)
  _close(updates, {'to1': 0.5 * share, 'to2': 0.25 * share})


def test_adam_is_adam():
  """Truth: D. P. Kingma and J. Ba (2015), algorithm 1, in NumPy."""
  all_updates, _ = _descend(_settings(name='adam', b1=0.8, b2=0.9), 3)
  g = np.asarray(_GRADIENT['to1']['w'])
  m = v = np.zeros_like(g)
  for k, updates in enumerate(all_updates, start=1):
    m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
    expected = (m / (1 - 0.8**k)) / (np.sqrt(v / (1 - 0.9**k)) + 1e-8)
    np.testing.assert_allclose(
      updates['to1']['w'], -0.5 * expected, rtol=1e-5, atol=1e-7
    )


def test_an_unknown_module_is_refused():
  """Truth: the words a user reads."""
  with pytest.raises(KeyError, match=r"'to3'.*Did you mean 'to[12]'\?"):
    _descend(_settings(rate_factors={'to3': 0.1}))


def test_settings_of_optax_pass_and_others_do_not():
  """Truth: momentum belongs to optax.sgd, and to no adam."""
  all_updates, _ = _descend(_settings(momentum=0.5), 2)
  _close(all_updates[1], {'to1': 0.75, 'to2': 0.75})  # 0.5 (1 + 0.5)
  with pytest.raises(TypeError, match=r"momentum is no setting of 'adam'"):
    _descend(_settings(name='adam', momentum=0.5))


def test_constants_never_meet_the_optimizer():
  """Truth: bitwise the constants drawn; decay would shrink them at once."""
  config = _config('prototypes', 'asymmetric', 'local_plasticity')
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 0.1
  config.optimizer.weight_decay = 0.5
  run = build.build(config)
  state = train.init(run)
  constants, params = _bits(state.constants), _bits(state.params)
  assert any(np.any(x) for x in jax.tree.leaves(state.constants))
  # Adam's two moments of the parameters and its counter: nothing else.
  sizes = [build.count(state.opt_state), build.count(state.params)]
  assert sizes[0] == 2 * sizes[1] + 1
  state, _ = train.make_advance(run)(state, jnp.int32(0), 4)
  assert _bits(state.constants) == constants
  assert all(a != b for a, b in zip(_bits(state.params), params, strict=True))
