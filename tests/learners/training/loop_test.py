# SPDX-License-Identifier: Apache-2.0
"""Epochs of batches with a step of one's own.

Truth: the uninterrupted run, bit for bit, for what restarts; sums and means by
hand for what is computed; and the six defects that a public module of this kind
has (numbered as in the specification), each of which would fail a test here.
"""

import io
import itertools
import json
import math
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_core import interfaces
from bionet_learners.training import (
  checkpoints,
  loop,
  metrics,
  ranges,
  stopping,
  writers,
)
from bionet_learners.training import (
  state as states,
)

KEY = jax.random.key(4)
NUM_BATCHES, NUM_EPOCHS = 3, 4


def network(inputs, *, is_training):
  """Batch statistics, dropout and a hidden layer."""
  inputs = hk.BatchNorm(True, True, 0.9)(inputs, is_training)
  hidden = jnp.tanh(hk.Linear(4)(inputs))
  if is_training:
    hidden = hk.dropout(hk.next_rng_key(), 0.5, hidden)
  return hk.Linear(1)(hidden)[:, 0]


NETWORK = hk.transform_with_state(network)
ADAM = optax.adam(0.05)


@jax.jit
def train_step(state, batch, key):
  def loss(params):
    outputs, network_state = state.apply_fn(
      params, state.network_state, key, batch['x'], is_training=True
    )
    return jnp.mean((outputs - batch['y']) ** 2), network_state

  (value, network_state), grads = jax.value_and_grad(loss, has_aux=True)(
    state.params
  )
  state = state.apply_gradients(grads).replace(network_state=network_state)
  return state, {'loss': value, 'norm': optax.tree.norm(grads)}


@jax.jit
def val_step(state, batch, key):
  outputs, _ = state.apply_fn(
    state.params, state.network_state, key, batch['x'], is_training=False
  )
  return state, {'loss': jnp.mean((outputs - batch['y']) ** 2)}


def batches(count=5, seed=0):
  rng = np.random.default_rng(seed)
  return [
    {
      'x': jnp.asarray(1 + 2 * rng.normal(size=(4, 3)), jnp.float32),
      'y': jnp.asarray(rng.normal(size=4), jnp.float32),
    }
    for _ in range(count)
  ]


# Five batches, and three an epoch: an epoch begins anywhere among them.
DATA, HELD_OUT = batches(), batches(2, seed=1)


def start():
  params, network_state = NETWORK.init(
    jax.random.key(1), DATA[0]['x'], is_training=True
  )
  return states.TrainState.create(
    NETWORK.apply, params, ADAM, network_state, jax.random.key(9)
  )


def train(folder=None, step=train_step, data=DATA, **settings):
  settings = {
    'num_epochs': NUM_EPOCHS,
    'num_batches': NUM_BATCHES,
    'rng_key': KEY,
    'val_step_fn': val_step,
    'val_data_iterator_fn': HELD_OUT,
    **settings,
  }
  return loop.train_loop(start(), step, data, checkpoint_dir=folder, **settings)


def bits(tree):
  """Every leaf as bytes, by name."""
  found = {}
  for path, leaf in jax.tree.leaves_with_path(tree):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    found[jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
  return found


def rows(folder):
  return (folder / 'metrics.jsonl').read_bytes()


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  """State and history as bits, and the bytes of metrics.jsonl."""
  folder = tmp_path_factory.mktemp('uninterrupted')
  state, history = train(folder, checkpoint_every=2)
  return bits(state), history, rows(folder)


def check_equal(resumed, folder, uninterrupted):
  state, history = resumed
  wanted_state, wanted_history, wanted_rows = uninterrupted
  assert history == wanted_history
  assert bits(state) == wanted_state
  assert rows(folder) == wanted_rows


class Killed(Exception):  # noqa: N818
  """What a step raises in place of a signal."""


def killed_at(number):
  """The step, which does not survive its call of that number."""
  calls = itertools.count()

  def step(state, batch, key):
    if next(calls) == number:
      raise Killed
    return train_step(state, batch, key)

  return step


# --- Defect 1: an exact resume is impossible. ---------------------------------


@pytest.mark.parametrize('batch', [1, 4, 6, 8, 11])
def test_1_a_killed_run_ends_where_the_uninterrupted_one_does(
  batch, tmp_path, uninterrupted
):
  """Truth: parameters, Adam, batch statistics, key, history, metrics.jsonl.

  Checkpoints are after batches 6 and 12; what came after is done again, with
  the rows of it. 1 and 4 are before the first: it begins from the start.
  """
  with pytest.raises(Killed):
    train(tmp_path, killed_at(batch), checkpoint_every=2)
  assert checkpoints.all_steps(tmp_path) == [6] * (batch >= 6)
  resumed = train(tmp_path, checkpoint_every=2)
  check_equal(resumed, tmp_path, uninterrupted)


def test_1_killed_again_and_again(tmp_path, uninterrupted):
  """Truth: the uninterrupted run; every session adds an epoch at most."""
  for _ in range(NUM_EPOCHS - 1):
    with pytest.raises(Killed):
      train(tmp_path, killed_at(NUM_BATCHES + 1))
  check_equal(train(tmp_path), tmp_path, uninterrupted)


@pytest.mark.parametrize('epoch', [1, 3])
def test_1_an_interrupted_run_saves_and_goes_on(epoch, tmp_path, uninterrupted):
  """Truth: the uninterrupted run; no batch is computed twice."""
  asked, steps = itertools.count(1), []

  def step(state, batch, key):
    steps.append(1)
    return train_step(state, batch, key)

  with pytest.raises(ranges.InterruptedRun) as info:
    train(
      tmp_path,
      step,
      checkpoint_every=2,
      interrupted=lambda: next(asked) == epoch,
    )
  assert info.value.update == epoch * NUM_BATCHES
  assert checkpoints.all_steps(tmp_path)[-1] == epoch * NUM_BATCHES
  resumed = train(tmp_path, step, checkpoint_every=2)
  assert len(steps) == NUM_EPOCHS * NUM_BATCHES
  check_equal(resumed, tmp_path, uninterrupted)


def test_1_fewer_epochs_first(tmp_path, uninterrupted):
  """Truth: 1, then 3, then all of the epochs are as all at once."""
  for num_epochs in (1, 3):
    _, history = train(tmp_path, num_epochs=num_epochs)
    assert len(history['train_loss']) == num_epochs
  check_equal(train(tmp_path), tmp_path, uninterrupted)


def test_1_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(
  tmp_path, uninterrupted, capsys
):
  """Truth: the uninterrupted run, from the checkpoint before."""
  train(tmp_path, num_epochs=3)
  (tmp_path / 'checkpoint_9' / 'digests.json').unlink()
  resumed = train(tmp_path)
  told = capsys.readouterr().err
  assert 'checkpoint_9 is damaged' in told
  assert 'going on after batch 6 of 12' in told
  check_equal(resumed, tmp_path, uninterrupted)
  checkpoints.verify(tmp_path / 'checkpoint_9')  # made again


def test_1_checkpoints_change_nothing(uninterrupted):
  """Truth: the run that keeps none."""
  state, history = train()
  assert bits(state) == uninterrupted[0]
  assert history == uninterrupted[1]


def test_1_a_finished_run_is_left_as_it_is(tmp_path, uninterrupted):
  """Truth: the same state and history, without a step."""
  train(tmp_path)
  again = train(tmp_path, killed_at(0))
  check_equal(again, tmp_path, uninterrupted)


def test_1_mutants_that_forget_where_they_were_differ(tmp_path, uninterrupted):
  """Truth: a resume with the data, or the keys, from the beginning.

  This is what the tests above would see if nothing were skipped.
  """
  train(tmp_path / 'data', num_epochs=2)
  consumed = [None] * (2 * NUM_BATCHES)  # what is skipped in the mutant
  state, history = train(tmp_path / 'data', data=[*consumed, *DATA, *DATA])
  assert bits(state) != uninterrupted[0]
  assert history['train_loss'][:2] == uninterrupted[1]['train_loss'][:2]
  assert history['train_loss'][2] != uninterrupted[1]['train_loss'][2]

  def another_key(state, batch, key):
    return train_step(state, batch, jax.random.fold_in(key, 1))

  train(tmp_path / 'key', num_epochs=2)
  state, _ = train(tmp_path / 'key', another_key)
  assert bits(state) != uninterrupted[0]


def test_1_every_step_has_a_key_of_its_own():
  """Truth: step i draws from fold_in(rng_key, i)."""
  keys = []

  def step(state, batch, key):
    keys.append(jax.random.key_data(key))
    return state, {'loss': 0.0}

  train(step=step, val_step_fn=None, val_data_iterator_fn=None)
  wanted = [jax.random.key_data(jax.random.fold_in(KEY, i)) for i in range(12)]
  np.testing.assert_array_equal(keys, wanted)


# --- Defect 2: a validation iterator is used up by the first epoch. -----------


def counting(state, batch, key):
  """A step of a state that counts the values it has seen."""
  del key
  return {'sum': state['sum'] + jnp.sum(batch)}, {'mean': jnp.mean(batch)}


def zero():
  return {'sum': jnp.float32(0)}


def count(data, num_epochs, num_batches, step=counting, **settings):
  return loop.train_loop(
    zero(), step, data, num_epochs, num_batches, KEY, **settings
  )


ONES = [jnp.ones(2)]


@pytest.mark.parametrize(
  'data',
  [
    [jnp.float32([1, 2]), jnp.float32([3, 6])],
    lambda: iter([jnp.float32([1, 2]), jnp.float32([3, 6])]),
    lambda: [jnp.float32([1, 2]), jnp.float32([3, 6])],
    jnp.float32([[1, 2], [3, 6]]),
  ],
  ids=['list', 'function', 'function of a list', 'array'],
)
def test_2_every_epoch_is_validated_on_all_of_it(data):
  """Truth: the mean of 1, 2, 3 and 6 at each of three epochs."""
  _, history = count(
    ONES, 3, 2, val_step_fn=counting, val_data_iterator_fn=data
  )
  assert history['val_mean'] == [3.0] * 3


@pytest.mark.parametrize('make', [iter, lambda x: (y for y in x)])
def test_2_an_iterator_proper_is_refused_before_the_first_step(make):
  """Truth: the message; an hour of training is not lost to it."""
  steps = []

  def step(state, batch, key):
    steps.append(1)
    return counting(state, batch, key)

  with pytest.raises(TypeError, match='iterated over only once'):
    loop.train_loop(
      zero(),
      step,
      ONES,
      3,
      2,
      KEY,
      val_step_fn=counting,
      val_data_iterator_fn=make(ONES),
    )
  assert not steps
  with pytest.raises(TypeError, match='iterated over only once'):
    count(make(ONES), 3, 2)


def test_2_a_part_of_the_validation_data_is_its_beginning_each_time():
  """Truth: the mean of the first two batches, at every epoch."""
  data = [jnp.float32([1]), jnp.float32([2]), jnp.float32([30])]
  _, history = count(
    ONES,
    3,
    2,
    val_step_fn=counting,
    val_data_iterator_fn=data,
    val_num_batches=2,
  )
  assert history['val_mean'] == [1.5] * 3


def test_2_every_validation_batch_sees_the_trained_state():
  """Truth: 4, then 8, was trained on; validation adds nothing on its way."""

  def step(state, batch, key):
    seen = {'sum': state['sum']}
    return counting(state, batch, key)[0], seen

  _, history = count(
    ONES, 2, 2, val_step_fn=step, val_data_iterator_fn=ONES * 3
  )
  assert history['val_sum'] == [4.0, 8.0]


def test_2_validation_changes_no_state_and_draws_the_same_each_time():
  """Truth: the state's sum without it; keys alike, and none of training's."""
  keys = {'train': [], 'val': []}

  def step(split):
    def take(state, batch, key):
      keys[split].append(tuple(np.asarray(jax.random.key_data(key))))
      return counting(state, batch, key)

    return take

  state, _ = loop.train_loop(
    zero(),
    step('train'),
    ONES,
    3,
    2,
    KEY,
    val_step_fn=step('val'),
    val_data_iterator_fn=ONES * 2,
  )
  assert float(state['sum']) == 3 * 2 * 2
  assert keys['val'][:2] == keys['val'][2:4] == keys['val'][4:]
  assert len({*keys['train'], *keys['val']}) == 6 + 2


# --- Defect 3: a mean of batch means is wrong for a short last batch. ---------

SHORT = [jnp.float32([1, 2, 3, 4]), jnp.float32([5, 6, 7, 8]), jnp.ones(1) * 99]
MEAN = (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 99) / 9


def as_tree(data):
  return [{'x': x, 'y': [jnp.stack([x, x], axis=1)]} for x in data]


def as_trials(data):
  return [
    interfaces.Trials(
      inputs=x[None, :, None],
      targets=x[None],
      mask=jnp.ones((1, *x.shape)),
      index=jnp.arange(len(x)),
    )
    for x in data
  ]


@pytest.mark.parametrize(
  'data, mean',
  [
    (SHORT, jnp.mean),
    (as_tree(SHORT), lambda batch: jnp.mean(batch['x'])),
    (as_trials(SHORT), lambda batch: jnp.mean(batch.targets)),
    ([np.asarray(x) for x in SHORT], np.mean),
  ],
  ids=['arrays', 'trees', 'trials', 'numpy'],
)
@pytest.mark.parametrize('weighed', [False, True], ids=['dict', 'Metrics'])
def test_3_a_short_batch_weighs_as_much_as_its_trials(data, mean, weighed):
  """Truth: the mean over all nine trials, of training and of validation."""
  sizes = itertools.cycle([4, 4, 1])

  def step(state, batch, key):
    found = {'loss': mean(batch)}
    return state, metrics.Metrics(found, next(sizes)) if weighed else found

  _, history = loop.train_loop(
    zero(),
    step,
    data,
    2,
    3,
    KEY,
    val_step_fn=step,
    val_data_iterator_fn=data,
  )
  assert sorted(history) == ['train_loss', 'val_loss']
  for values in history.values():
    assert values == pytest.approx([MEAN] * 2)


def test_3_the_mutant_that_weighs_batches_alike_differs():
  """Truth: weights of 1 give the mean of the batch means, (2.5+6.5+99)/3."""

  def step(state, batch, key):
    return state, metrics.Metrics({'loss': jnp.mean(batch)}, 1)

  _, history = loop.train_loop(zero(), step, SHORT, 1, 3, KEY)
  assert history['train_loss'] == pytest.approx([36.0])
  assert abs(36.0 - MEAN) > 1


# --- Defect 4: every metric of every batch is read on the host. ---------------


@pytest.fixture
def host_reads(monkeypatch):
  """The reads of the device: by jax.device_get, and by anything else."""
  reads, inside = {'device_get': 0, 'implicit': 0}, []
  device_get, array = jax.device_get, type(jnp.zeros(()))
  value = array._value

  def get(tree):
    reads['device_get'] += 1
    inside.append(1)
    try:
      return device_get(tree)
    finally:
      inside.pop()

  def read(self):
    reads['implicit'] += not inside
    return value.fget(self)

  monkeypatch.setattr(jax, 'device_get', get)
  monkeypatch.setattr(array, '_value', property(read))
  return reads


def test_4_the_host_reads_once_an_epoch_and_once_a_validation(host_reads):
  """Truth: counts of reads; the guard lets no other transfer pass."""
  begin = start()
  train_step(begin, DATA[0], KEY)  # compiled before anything is guarded
  val_step(begin, DATA[0], KEY)
  host_reads.update(device_get=0, implicit=0)
  with jax.transfer_guard('disallow'):
    loop.train_loop(begin, train_step, DATA, NUM_EPOCHS, NUM_BATCHES, KEY)
    assert host_reads == {'device_get': NUM_EPOCHS, 'implicit': 0}
    loop.train_loop(
      begin,
      train_step,
      DATA,
      NUM_EPOCHS,
      NUM_BATCHES,
      KEY,
      val_step_fn=val_step,
      val_data_iterator_fn=HELD_OUT,
    )
  assert host_reads == {'device_get': 3 * NUM_EPOCHS, 'implicit': 0}


def test_4_a_step_that_reads_every_loss_would_be_seen(host_reads):
  """Truth: the mutant: one read a batch."""

  def step(state, batch, key):
    state, found = counting(state, batch, key)
    return state, {'mean': float(found['mean'])}

  host_reads.update(implicit=0)
  loop.train_loop(zero(), step, ONES, 2, 3, KEY)
  assert host_reads['implicit'] == 6


def test_4_checkpoints_work_under_the_guard_too(tmp_path, uninterrupted):
  """Truth: the uninterrupted run; a restart moves nothing implicitly."""
  begin = start()
  with jax.transfer_guard('disallow'):
    for num_epochs in (2, NUM_EPOCHS):
      resumed = loop.train_loop(
        begin,
        train_step,
        DATA,
        num_epochs,
        NUM_BATCHES,
        KEY,
        tmp_path,
        val_step_fn=val_step,
        val_data_iterator_fn=HELD_OUT,
      )
  check_equal(resumed, tmp_path, uninterrupted)


# --- Defect 5: an untyped dict is restored. -----------------------------------


@pytest.mark.parametrize(
  'state, message',
  [
    (
      lambda s: s.replace(params={**s.params, 'more': jnp.ones(2)}),
      r'params/more is not there, and float32\[2\] is needed',
    ),
    (
      lambda s: s.replace(opt_state=optax.sgd(0.1).init(s.params)),
      r'opt_state/0/count is int32\[\], and nothing is needed',
    ),
    (
      lambda s: s.replace(step=jnp.float32(0)),
      r'step is int32\[\], and float32\[\] is needed',
    ),
    (
      lambda s: jax.tree.map(lambda x: x, s).replace(
        params=jax.tree.map(lambda x: x[..., None], s.params)
      ),
      r'params/batch_norm/offset is float32\[1, 3\], and float32\[1, 3, 1\]',
    ),
  ],
)
def test_5_a_state_of_another_form_is_refused_and_the_leaf_named(
  tmp_path, state, message
):
  """Truth: structure, dtype and shape; the first leaf that differs."""
  train(tmp_path, num_epochs=1)
  before = rows(tmp_path)
  with pytest.raises(ValueError, match=message):
    loop.train_loop(
      state(start()), train_step, DATA, NUM_EPOCHS, NUM_BATCHES, KEY, tmp_path
    )
  assert rows(tmp_path) == before
  assert checkpoints.all_steps(tmp_path) == [NUM_BATCHES]


def test_5_what_is_restored_is_of_the_template_not_a_dict(tmp_path):
  """Truth: the same tree of classes as the state that was handed in."""
  train(tmp_path)
  state, _ = train(tmp_path)
  assert isinstance(state, states.TrainState)
  assert jax.tree.structure(state) == jax.tree.structure(start())


# --- Defect 6: no early stopping, schedules, accumulation. --------------------


def scored(table, num_batches=2):
  """Steps of a state that counts batches, validated by a table of epochs."""
  table = jnp.float32(table)

  def step(state, batch, key):
    return {'done': state['done'] + 1}, {'loss': jnp.float32(1)}

  def score(state, batch, key):
    return state, {'score': table[state['done'] // num_batches - 1]}

  return step, score


def score(table, folder=None, **settings):
  step, score_fn = scored(table)
  settings = {'num_epochs': len(table), 'num_batches': 2, **settings}
  return loop.train_loop(
    {'done': jnp.int32(0)},
    step,
    ONES,
    rng_key=KEY,
    checkpoint_dir=folder,
    val_step_fn=score_fn,
    val_data_iterator_fn=ONES,
    **settings,
  )


@pytest.mark.parametrize(
  'rule, epochs',
  [
    (stopping.EarlyStopping('score', 2), 4),  # best at 2
    (stopping.EarlyStopping('score', 3), 6),  # 5 beats 2
    (stopping.EarlyStopping('score', 1, mode='min'), 2),
    (stopping.EarlyStopping('score', 0), 6),
  ],
)
def test_6_early_stopping(rule, epochs, tmp_path):
  """Truth: the epochs by hand; it saves there and stays there."""
  table = [0.5, 0.75, 0.5, 0.5, 1.0, 0.5]
  for _ in range(2):
    state, history = score(
      table, tmp_path, early_stopping=rule, checkpoint_every=100
    )
    assert int(state['done']) == 2 * epochs
    assert history['val_score'] == table[:epochs]
    assert len(history['train_loss']) == epochs
    assert checkpoints.all_steps(tmp_path) == [2 * epochs]


@pytest.mark.parametrize('first', [1, 2, 3])
def test_6_early_stopping_remembers_over_a_restart(first, tmp_path):
  """Truth: best at epoch 1, patience 3: it ends with 4, wherever it paused."""
  table = [1.0, 0.5, 0.75, 0.5, 0.5, 0.5]
  rule = stopping.EarlyStopping('score', 3)
  score(table, tmp_path, early_stopping=rule, num_epochs=first)
  state, history = score(table, tmp_path, early_stopping=rule)
  assert int(state['done']) == 8 and history['val_score'] == table[:4]


BEST = {'keep_best': True, 'early_stopping': stopping.EarlyStopping('score')}


@pytest.mark.parametrize(
  'settings, pauses, left',
  [
    ({}, (), [5, 6]),
    ({}, (1, 4), [5, 6]),
    ({'keep_last': 3}, (2,), [4, 5, 6]),
    ({'keep_last': 1, 'checkpoint_every': 4}, (), [6]),
    (BEST, (), [2, 5, 6]),
    (BEST, (1, 2, 3, 5), [2, 5, 6]),
    ({**BEST, 'keep_last': 1}, (4,), [2, 6]),
    ({**BEST, 'checkpoint_every': 3}, (), [2, 3, 6]),
    ({**BEST, 'checkpoint_every': 3, 'keep_last': 9}, (), [1, 2, 3, 6]),
    ({'checkpoint_every': 3, 'keep_last': 9}, (), [3, 6]),
    ({'checkpoint_every': 4, 'keep_last': 9}, (), [4, 6]),
  ],
)
def test_6_the_last_checkpoints_and_the_best_stay(
  settings, pauses, left, tmp_path
):
  """Truth: by hand, in epochs; 1 was the best until 2, which stays it."""
  table = [0.5, 1.0, 0.25, 0.5, 0.75, 0.5]
  for num_epochs in (*pauses, len(table)):
    score(table, tmp_path, num_epochs=num_epochs, **settings)
  assert checkpoints.all_steps(tmp_path) == [2 * epoch for epoch in left]
  for epoch in left:
    found = checkpoints.load_checkpoint(
      tmp_path / f'checkpoint_{2 * epoch}', {'done': jnp.int32(0)}
    )
    assert int(found['done']) == 2 * epoch


def descend(tx, data, num_epochs, num_batches, folder=None, **settings):
  """Least squares from zero weights."""

  @jax.jit
  def step(state, batch, key):
    x, y = batch

    def loss(params):
      return jnp.mean((x @ params['w'] - y) ** 2)

    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads), {'loss': value}

  state = states.TrainState.create(None, {'w': jnp.zeros(3)}, tx)
  return loop.train_loop(
    state, step, data, num_epochs, num_batches, KEY, folder, **settings
  )


def test_6_a_schedule_goes_on_where_it_was(tmp_path):
  """Truth: by hand: a slope of -1 gives w = 1 + 0.75 + 0.5 + 0.25 + 0 + 0."""
  tx = optax.sgd(optax.linear_schedule(1.0, 0.0, 4))

  def step(state, batch, key):
    return state.apply_gradients({'w': -jnp.ones(())}), {'w': state.params['w']}

  def run(num_epochs):
    state = states.TrainState.create(None, {'w': jnp.zeros(())}, tx)
    return loop.train_loop(state, step, ONES, num_epochs, 3, KEY, tmp_path)

  assert float(run(1)[0].params['w']) == 2.25
  state, history = run(2)
  assert float(state.params['w']) == 2.5
  # The weight before each of the steps: 0, 1, 1.75; 2.25, 2.5, 2.5.
  assert history['train_w'] == pytest.approx([2.75 / 3, 7.25 / 3])


def regression(sizes):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(sum(sizes), 3)).astype(np.float32)
  y = x @ np.float32([1, -2, 3]) + rng.normal(size=len(x)).astype(np.float32)
  cuts = np.cumsum(sizes)[:-1]
  return list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))


def test_6_accumulated_batches_are_one_large_batch(tmp_path):
  """Truth: SGD over 3 batches of 4 at a time = over batches of 12."""
  few = optax.MultiSteps(optax.sgd(0.1), 3).gradient_transformation()
  small, history = descend(few, regression([4] * 12), 2, 12)
  large, wanted = descend(optax.sgd(0.1), regression([12] * 4), 2, 4)
  np.testing.assert_allclose(small.params['w'], large.params['w'], rtol=1e-5)
  assert history['train_loss'] == pytest.approx(wanted['train_loss'], rel=1e-5)

  # A restart in the middle of an accumulation: epochs of 4 batches.
  for num_epochs in (1, 2, 6):
    resumed, _ = descend(few, regression([4] * 12), num_epochs, 4, tmp_path)
  assert bits(resumed.params) == bits(small.params)
  assert bits(resumed.opt_state) == bits(small.opt_state)

  mutant, _ = descend(optax.sgd(0.1), regression([4] * 12), 2, 12)
  assert not np.allclose(mutant.params['w'], large.params['w'], rtol=1e-2)


# --- Data, settings and steps that are not as they should be. -----------------


@pytest.mark.parametrize('num_data', [1, 2, 3, 5, 7])
def test_every_batch_of_an_iterator_is_used_in_turn(num_data):
  """Truth: 0, 1, ..., 0, 1, ...: shorter and longer than an epoch of 3."""
  used = []

  def step(state, batch, key):
    used.append(int(batch[0]))
    return state, {'loss': 0.0}

  data = [np.full(2, i) for i in range(num_data)]
  loop.train_loop(zero(), step, lambda: iter(data), 4, 3, KEY)
  assert used == [i % num_data for i in range(12)]


def test_only_what_is_needed_is_drawn():
  """Truth: an iterator without end is asked for 6 batches."""
  drawn = []

  def data():
    for i in itertools.count():
      drawn.append(i)
      yield jnp.ones(2)

  state, _ = count(data, 2, 3)
  assert float(state['sum']) == 12 and drawn == list(range(6))


def test_history_has_one_value_an_epoch_of_each_metric():
  """Truth: names with their split, and means by hand of batches 0 to 5."""
  data = [jnp.full(2, float(i)) for i in range(6)]
  _, history = count(
    data, 2, 3, val_step_fn=counting, val_data_iterator_fn=data
  )
  assert history == {'train_mean': [1.0, 4.0], 'val_mean': [2.5, 2.5]}
  assert all(type(v) is float for values in history.values() for v in values)


def test_a_nan_names_the_batch_and_leaves_the_last_good_checkpoint(
  tmp_path, uninterrupted
):
  """Truth: batch 8, the second of the third epoch; then good data go on."""
  bad = [jax.tree.map(lambda x: x * jnp.nan, DATA[7 % 5])]
  data = [*DATA, *DATA]
  with pytest.raises(FloatingPointError) as info:
    train(tmp_path, data=data[:7] + bad + data[8:])
  message = str(info.value)
  assert message.startswith('update 8 (of the updates 7 to 9): '), message
  assert 'loss is nan' in message or 'norm is nan' in message
  assert checkpoints.all_steps(tmp_path) == [3, 6]
  assert b'NaN' not in rows(tmp_path)
  check_equal(train(tmp_path), tmp_path, uninterrupted)


def test_a_validation_that_is_not_finite_stops_too(tmp_path):
  """Truth: the epoch's batch; its checkpoint is not written."""
  with pytest.raises(FloatingPointError, match='evaluation after update 4'):
    score([1.0, math.inf, 1.0], tmp_path)
  assert checkpoints.all_steps(tmp_path) == [2]


def test_fewer_epochs_than_are_done_are_refused(tmp_path):
  """Truth: the folder and both numbers are named; nothing is lost."""
  count(ONES, 3, 2, checkpoint_dir=tmp_path)
  before = rows(tmp_path)
  with pytest.raises(ValueError, match=r'a run of 6 batches, .* = 4'):
    count(ONES, 2, 2, checkpoint_dir=tmp_path)
  assert rows(tmp_path) == before
  assert checkpoints.all_steps(tmp_path) == [4, 6]


@pytest.mark.parametrize(
  'change, message',
  [
    ({'rng_key': jax.random.key(5)}, r'with rng_key=\[0, 4\], not \[0, 5\]'),
    ({'rng_key': jax.random.key(4, impl='rbg')}, 'with rng_key='),
    ({'num_batches': 3}, 'with num_batches=2, not 3'),
  ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, change, message):
  """Truth: the folder and the setting are named, and nothing changes."""
  settings = {'rng_key': KEY, 'num_epochs': 2, 'num_batches': 2}

  def run(**settings):
    return loop.train_loop(
      zero(), counting, ONES, checkpoint_dir=tmp_path, **settings
    )

  run(**settings)
  before = rows(tmp_path)
  with pytest.raises(ValueError, match=message) as info:
    run(**{**settings, **change})
  assert str(tmp_path) in str(info.value)
  assert rows(tmp_path) == before


def test_a_raw_key_is_as_good_as_a_typed_one(tmp_path):
  """Truth: the same numbers; a folder knows both for the same."""
  raw = jax.random.key_data(KEY)

  def step(state, batch, key):
    return {'sum': state['sum'] + jax.random.normal(key)}, {'loss': 0.0}

  ends = [
    loop.train_loop(zero(), step, ONES, epochs, 2, key, folder)[0]
    for epochs, key, folder in (
      (1, raw, tmp_path),
      (2, KEY, tmp_path),
      (2, raw, None),
    )
  ]
  ends = [float(end['sum']) for end in ends]
  assert ends[1] == ends[2] != ends[0]


@pytest.mark.parametrize('data', [[], lambda: iter(())])
def test_an_iterator_without_a_batch_is_refused(data):
  """Truth: the message, in place of a loop without end."""
  with pytest.raises(ValueError, match='without a batch'):
    count(data, 1, 1)


@pytest.mark.parametrize(
  'data, error', [([], ValueError), (iter(ONES), TypeError)]
)
def test_data_that_are_refused_at_a_restart_leave_no_file_open(
  tmp_path, monkeypatch, data, error
):
  """Truth: every writer that was opened is closed."""
  count(ONES, 1, 2, checkpoint_dir=tmp_path)
  opened = []

  class Watched(writers.MetricsWriter):
    def __init__(self, *args, **kwargs):
      super().__init__(*args, **kwargs)
      opened.append(self)

    def close(self):
      opened.remove(self)
      super().close()

  monkeypatch.setattr(writers, 'MetricsWriter', Watched)
  try:
    with pytest.raises(error):
      count(data, 2, 2, checkpoint_dir=tmp_path)
    assert not opened
  finally:
    for writer in list(opened):
      writer.close()


def returns(found):
  return lambda state, batch, key: (state, found)


@pytest.mark.parametrize(
  'step, error, message',
  [
    (returns(1.5), TypeError, 'a step returned a float for its metrics'),
    (returns(None), TypeError, 'a step returned a NoneType'),
    (returns([('loss', 1.5)]), TypeError, 'a step returned a list'),
    (lambda state, batch, key: 7, TypeError, 'unpack'),
    (
      returns({'loss': jnp.ones((2, 2))}),
      ValueError,
      r"'loss' has shape \(2, 2\)",
    ),
    (returns(metrics.Metrics({'a': 1.0}, 0)), ValueError, 'not all 0'),
    (
      lambda state, batch, key: (
        {'sum': state['sum'] + 1},
        {f'loss{int(state["sum"])}': 1.0},
      ),
      ValueError,
      r"\['loss1'\] cannot be averaged with \['loss0'\]",
    ),
  ],
)
def test_a_step_that_returns_something_else_is_refused(step, error, message):
  """Truth: the message says what was returned, or what must be."""
  with pytest.raises(error, match=message):
    loop.train_loop(zero(), step, ONES, 1, 2, KEY)


def test_a_value_for_each_trial_is_refused_where_a_scalar_is_weighed():
  """Truth: a dict's metrics are `{name: []}`.

  A value a trial would be taken for a step a value, each as heavy as the whole
  batch: a short last batch would weigh too little, and a NaN be misplaced.
  """

  def step(state, batch, key):
    return state, {'loss': batch}

  with pytest.raises(ValueError, match='scalar'):
    loop.train_loop(zero(), step, SHORT, 1, 3, KEY)


@pytest.mark.parametrize('name', ['step', 'split'])
def test_a_metric_may_not_take_the_name_of_a_rows_field(name, tmp_path):
  """Truth: a row's `step` counts batches; a metric would overwrite it."""

  def step(state, batch, key):
    return state, {'loss': 1.0, name: 0.5}

  with pytest.raises(ValueError, match=name):
    loop.train_loop(zero(), step, ONES, 2, 2, KEY, tmp_path)


@pytest.mark.parametrize(
  'batch',
  [
    {'x': jnp.ones((4, 2)), 'y': jnp.ones(3)},
    {'x': jnp.ones(4), 'scale': 0.5},
    jnp.float32(1),
    None,
  ],
  ids=['4 and 3', '4 and none', 'scalar', 'nothing'],
)
def test_a_batch_of_an_unclear_number_of_trials_is_refused(batch):
  """Truth: the way out is named, and is one."""
  with pytest.raises(ValueError, match=r'return Metrics\(values, weight\)'):
    loop.train_loop(zero(), returns({'a': 1.0}), [batch], 1, 2, KEY)
  weighed = returns(metrics.Metrics({'a': 1.5}, 4))
  _, history = loop.train_loop(zero(), weighed, [batch], 1, 2, KEY)
  assert history == {'train_a': [1.5]}


SCORE = stopping.EarlyStopping('mean')


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'num_epochs': 0}, r'^num_epochs=0'),
    ({'num_batches': -1}, r'^num_batches=-1'),
    ({'checkpoint_every': 0}, r'^checkpoint_every=0'),
    ({'keep_last': 0}, r'^keep_last=0'),
    ({'val_step_fn': counting}, 'belong together'),
    ({'val_data_iterator_fn': ONES}, 'belong together'),
    ({'early_stopping': SCORE}, 'choose by a validation metric'),
    ({'keep_best': True}, 'choose by a validation metric'),
    (
      {
        'keep_best': True,
        'val_step_fn': counting,
        'val_data_iterator_fn': ONES,
      },
      'choose by a validation metric',
    ),
    (
      {
        'early_stopping': SCORE._replace(mode='best'),
        'val_step_fn': counting,
        'val_data_iterator_fn': ONES,
      },
      r"^mode='best'",
    ),
  ],
)
def test_settings_that_cannot_be_are_refused(settings, message, tmp_path):
  """Truth: the message names the setting; no file was made."""
  settings = {'num_epochs': 2, 'num_batches': 2, **settings}
  with pytest.raises(ValueError, match=message):
    count(ONES, checkpoint_dir=tmp_path / 'run', **settings)
  assert not (tmp_path / 'run').exists()


def test_the_folder_holds_rows_for_programs_and_events_for_people(tmp_path):
  """Truth: the history, row by row, with the batches done."""
  data = [jnp.full(2, float(i)) for i in range(6)]
  count(
    data,
    2,
    3,
    checkpoint_dir=tmp_path / 'a' / 'b',
    val_step_fn=counting,
    val_data_iterator_fn=data,
  )
  folder = tmp_path / 'a' / 'b'
  assert [json.loads(line) for line in rows(folder).splitlines()] == [
    {'step': 3, 'split': 'train', 'mean': 1.0},
    {'step': 3, 'split': 'eval', 'mean': 2.5},
    {'step': 6, 'split': 'train', 'mean': 4.0},
    {'step': 6, 'split': 'eval', 'mean': 2.5},
  ]
  (events,) = folder.glob('*tfevents*')
  assert b'train/mean' in events.read_bytes()
  assert checkpoints.all_steps(folder) == [3, 6]


class Terminal(io.StringIO):
  def isatty(self):
    """A terminal, or so it says."""
    return True


def test_there_is_a_bar_on_a_terminal_and_nowhere_else(monkeypatch):
  """Truth: what is written to standard error; off by the setting too."""
  written = {}
  for name, stream, show in (
    ('terminal', Terminal(), True),
    ('file', io.StringIO(), True),
    ('off', Terminal(), False),
  ):
    monkeypatch.setattr(sys, 'stderr', stream)
    count(ONES, 2, 3, show_progress=show)
    written[name] = stream.getvalue()
  assert '6/6' in written['terminal'] and 'mean: 1.0000' in written['terminal']
  assert written['file'] == written['off'] == ''
