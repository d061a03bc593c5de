# SPDX-License-Identifier: Apache-2.0
"""Several devices compute what one does.

Truth: the same run on one device, after 20 updates: within 1e-5 in float32, and
in float64 within 1e-8 where signs make a rule brittle. Mutants: updates that
are not averaged; a population loss that is not gathered.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
from bionet_learners import base
from bionet_learners.training import ranges
from experiments import session
from experiments.configs import compose
from experiments.configs import copying as copying_config
from experiments.configs import prototypes as prototypes_config
from experiments.runs import build, parallel, saved, updates
from experiments.shell import workdirs

UPDATES = 20


def copying(devices=1, **overrides):
  config = copying_config.get_config('smoke')
  config.num_updates = UPDATES
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 0.1
  return _with(config, devices, overrides)


def plasticity(devices=1, **overrides):
  config = prototypes_config.get_config('smoke')
  config.num_epochs, config.num_updates = 0, UPDATES
  return _with(config, devices, overrides)


def _with(config, devices, overrides):
  config.devices = devices
  config.update_from_flattened_dict(overrides)
  return config


# A learner that splits a population, written as another package would.
POPULATION = """\
import dataclasses

import jax
import jax.numpy as jnp
import optax

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.training import ranges
from bionet_tasks import base as tasks


def evolution(cell, loss, *, devices=base.ONE, population: int = 8):
  model = unroll.model_from_cell(cell)

  def fitness(params, constants, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    keys = unroll.trial_keys(key, trials.index)
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    return unroll.unroll(
      cell, loss, params, constants, state, keys, steps, trials
    )[0]

  def init(key, trials):
    keys = jax.random.split(key, population)
    drawn = jax.vmap(lambda k: model.init(k, trials))(keys)
    params, constants = jax.tree.map(lambda x: x[0], drawn)
    members, _ = drawn
    memory = base.RuleState(shared=members, per_trial=())
    return base.LearnerState(params, constants, memory, (), jnp.int32(0))

  def update(state, key, trials):
    members = state.rule_state.shared
    share = population // devices.count
    mine = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, devices.index() * share, share),
      members,
    )
    losses = devices.gather(
      jax.vmap(lambda p: fitness(p, state.constants, key, trials))(mine)
    )
    order = jnp.argsort(losses)
    keys = jax.random.split(jax.random.fold_in(key, state.step), population)

    def next_generation(x):
      children = x[order[: population // 2]]
      noise = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:]))(keys)
      return jnp.concatenate([children, children]) + 0.1 * (noise - 0.5)

    shared = jax.tree.map(next_generation, members)
    best = jax.tree.map(lambda x: x[order[0]], members)
    return state._replace(
      params=best, rule_state=base.RuleState(shared, ()), step=state.step + 1
    ), {'loss': losses[order[0]]}

  def predict(state, key, trials):
    return model.predict(state.params, state.constants, key, trials)

  return base.Learner(init, update, predict, partition='population')


def spread(outputs, targets, mask):
  # A statistic over the trials: it cannot be averaged over parts of them.
  del targets
  centred = outputs - jnp.mean(outputs, axis=0, keepdims=True)
  loss = -jnp.mean(jnp.tanh(jnp.mean(centred**2, axis=0))) * mask[0]
  return loss, {'utility': -loss}


def population_task(*, seed: int = 0):
  def sample(key, index, batch_size=None):
    del batch_size
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    inputs = jax.vmap(lambda k: jax.random.normal(k, (3, 2)))(keys)
    mask = jnp.zeros((3, index.shape[0])).at[-1].set(1.0)
    return interfaces.Trials(
      inputs=jnp.moveaxis(inputs, 0, 1),
      targets=jnp.zeros((3, index.shape[0], 1)),
      mask=mask,
      index=index,
    )

  spec = tasks.TaskSpec(
    name='spread', input_shape=(2,), num_outputs=4, num_steps=3,
    metric='utility', chance={'utility': 0.0}, ceiling={'utility': 1.0},
    loss_kind='population',
  )
  return tasks.Task(
    spec, sample, {'held_out': tasks.Evaluation(16, sample)},
    spread, tasks.sum_over_steps(spread),
  )
"""


@pytest.fixture(scope='module', autouse=True)
def third_party(tmp_path_factory):
  """The module above, importable by name."""
  folder = tmp_path_factory.mktemp('third')
  (folder / 'population_toys.py').write_text(POPULATION)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(folder)
    yield


def population_learner(devices=1, **overrides):
  config = compose.get_config('copying,gru,population_toys:evolution')
  _with(config, 1, {'task.time_lag': 1, 'task.num_symbols': 2})
  config.network.hidden = 4
  config.num_updates = UPDATES
  return _with(config, devices, overrides)


def population_loss(devices=1, **overrides):
  config = compose.get_config('population_toys:population_task,gru,bptt')
  config.network.hidden = 4
  config.num_updates = UPDATES
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 0.1
  return _with(config, devices, overrides)


def population_of_population_loss(devices=1, **overrides):
  config = compose.get_config(
    'population_toys:population_task,gru,population_toys:evolution'
  )
  config.network.hidden = 4
  config.num_updates = UPDATES
  return _with(config, devices, overrides)


def _trained(config):
  run = build.build(config)
  return updates.trained(run)


def _close(got, wanted, tolerance):
  assert int(got.step) == int(wanted.step) == UPDATES
  start = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(got.params))
  assert start > 1e-2
  chex.assert_trees_all_close(
    (got.params, got.opt_state, got.rule_state),
    (wanted.params, wanted.opt_state, wanted.rule_state),
    rtol=tolerance,
    atol=tolerance,
  )


@pytest.fixture(scope='module')
def on_one():
  """`make_config -> state` after 20 updates on one device."""
  made = {}

  def state(make_config):
    if make_config not in made:
      made[make_config] = _trained(make_config())
    return made[make_config]

  return state


@pytest.mark.parametrize('count', [pytest.param(2, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize(
  'make_config',
  [copying, population_loss, population_learner, population_of_population_loss],
)
def test_devices_equal_one(make_config, count, on_one):
  """Truth: one device, float32, 1e-5."""
  _close(_trained(make_config(count)), on_one(make_config), 1e-5)


@pytest.mark.parametrize('count', [pytest.param(2, marks=pytest.mark.slow), 4])
def test_devices_equal_one_where_signs_are_brittle(count):
  """Truth: one device, float64, 1e-8."""
  with jax.enable_x64(True):
    one = _trained(plasticity())
    assert jax.tree.leaves(one.params)[0].dtype == jnp.float64
    _close(_trained(plasticity(count)), one, 1e-8)


@pytest.mark.parametrize('make_config', [copying, population_loss])
def test_mutant_without_collectives_differs(make_config, on_one, monkeypatch):
  """Truth: one device. The mutant neither averages nor gathers."""
  real = parallel.devices(2)
  mutant = real._replace(mean=lambda tree: tree)
  if make_config is population_loss:
    mutant = real._replace(gather=lambda tree: tree)
  monkeypatch.setattr(parallel, 'devices', lambda count: mutant)
  state = _trained(make_config(2))
  with pytest.raises(AssertionError):
    _close(state, on_one(make_config), 1e-5)


def test_integers_are_not_averaged():
  """Truth: a counter stays the integer that it is."""
  mean = jax.pmap(
    parallel.devices(2).mean, axis_name='devices', devices=jax.devices()[:2]
  )
  got = mean({'n': jnp.array([3, 3]), 'x': jnp.array([1.0, 2.0])})
  assert got['n'].dtype == jnp.int32 and got['n'].tolist() == [3, 3]
  assert got['x'].tolist() == [1.5, 1.5]


def test_a_state_comes_back_from_the_devices_as_it_went():
  """Truth: the state itself; the caller's own copy outlives donation."""
  run = build.build(copying(4, **{'learner.carry': True}))
  state = updates.init(run)
  before = jax.tree.map(np.asarray, state)
  laid = updates.place(run, state)
  [per_trial, *_] = jax.tree.leaves(laid.rule_state.per_trial)
  assert per_trial.shape[:2] == (4, run.first.batch_size // 4)
  chex.assert_trees_all_equal(updates.whole(run, laid, 0), before)
  updates.make_advance(run.first, run.devices)(laid, jnp.int32(0), 2)
  chex.assert_trees_all_equal(state, before)


def test_typed_keys_go_to_the_devices_and_back():
  """Truth: the key itself."""
  learner = base.Learner(None, None, None)
  state = base.LearnerState(
    {'key': jax.random.key(3)},
    {},
    base.RuleState((), {'keys': jax.random.split(jax.random.key(1), 4)}),
    (),
    jnp.int32(0),
  )
  back = parallel.whole(parallel.shard(state, learner, 2), learner)
  for got, wanted in zip(
    jax.tree.leaves(back), jax.tree.leaves(state), strict=True
  ):
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    assert bool(jnp.all(got == wanted))


@pytest.mark.parametrize(
  'make_config, counts',
  [
    (copying, [4]),
    pytest.param(copying, [1], marks=pytest.mark.slow),
    pytest.param(population_learner, [1, 4], marks=pytest.mark.slow),
  ],
)
def test_saved_on_two_goes_on_on_one_and_four(
  make_config, counts, on_one, tmp_path, no_figures
):
  """Truth: 20 updates on one device. Saved after 10 on two."""
  intervals = {'log_every': 5, 'eval_every': 20, 'checkpoint_every': 10}
  for then in counts:
    workdir = tmp_path / str(then)
    config = make_config(2, **intervals)
    run = build.build(config)
    workdirs.create(workdir, config, run.first.task.spec)
    answers = iter([False, True]).__next__
    state, first = saved.begin(config, run, workdir)
    with pytest.raises(ranges.InterruptedRun):
      session.train_from(
        config, run, workdir, state, first, interrupted=answers
      )
    config = make_config(then, **intervals)
    assert workdirs.find(workdir, config).status == 'unfinished'
    run = build.build(config)
    state, first = saved.begin(config, run, workdir)
    assert first == 10
    session.train_from(config, run, workdir, state, first)
    _, state, _ = saved.restore(workdir)
    _close(state, on_one(make_config), 1e-5)


def test_what_cannot_be_shared_is_refused():
  """Truth: 4 devices here, and a batch of 8."""
  with pytest.raises(ValueError, match='devices=5: must be at most 4'):
    build.build(copying(5))
  with pytest.raises(ValueError, match=r'must be a multiple of 3, .*; 6'):
    build.build(copying(3))
  with pytest.raises(ValueError, match='devices=0: '):
    build.build(copying(0))


def test_trials_are_split_and_not_reordered():
  """Truth: trial b of update n is in device b // (B / D), row b % (B / D)."""
  n, steps, trials = 3, 2, 8
  index = jnp.arange(n * trials).reshape(n, trials)
  batches = interfaces.Trials(
    inputs=jnp.broadcast_to(index[:, None, :, None], (n, steps, trials, 1)),
    targets=jnp.broadcast_to(index[:, None], (n, steps, trials)),
    mask=jnp.ones((n, steps, trials)),
    index=index,
  )
  parts = parallel._split_trials(batches, 4)
  assert parts.inputs.shape == (4, n, steps, 2, 1)
  for device in range(4):
    own = index[:, 2 * device : 2 * device + 2]
    assert jnp.array_equal(parts.index[device], own)
    assert jnp.array_equal(parts.targets[device, :, 1], own)
    assert jnp.array_equal(parts.inputs[device, :, 0, :, 0], own)
