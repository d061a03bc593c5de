# SPDX-License-Identifier: Apache-2.0
"""The batches that a loop takes, for training and for validation.

Truth: sums and means by hand; the messages. Defects of public modules of this
kind are numbered as in the specification.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
from bionet_learners.training import (
  loop,
  metrics,
  writers,
)
from tests.learners.training import toys


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
  _, history = toys.count(
    toys.ONES, 3, 2, val_step_fn=toys.counting, val_data_iterator_fn=data
  )
  assert history['val_mean'] == [3.0] * 3


@pytest.mark.parametrize('make', [iter, lambda x: (y for y in x)])
def test_2_an_iterator_proper_is_refused_before_the_first_step(make):
  """Truth: the message; an hour of training is not lost to it."""
  steps = []

  def step(state, batch, key):
    steps.append(1)
    return toys.counting(state, batch, key)

  with pytest.raises(TypeError, match='iterated over only once'):
    loop.train_loop(
      toys.zero(),
      step,
      toys.ONES,
      3,
      2,
      toys.KEY,
      val_step_fn=toys.counting,
      val_data_iterator_fn=make(toys.ONES),
    )
  assert not steps
  with pytest.raises(TypeError, match='iterated over only once'):
    toys.count(make(toys.ONES), 3, 2)


def test_2_a_part_of_the_validation_data_is_its_beginning_each_time():
  """Truth: the mean of the first two batches, at every epoch."""
  data = [jnp.float32([1]), jnp.float32([2]), jnp.float32([30])]
  _, history = toys.count(
    toys.ONES,
    3,
    2,
    val_step_fn=toys.counting,
    val_data_iterator_fn=data,
    val_num_batches=2,
  )
  assert history['val_mean'] == [1.5] * 3


def test_2_every_validation_batch_sees_the_trained_state():
  """Truth: 4, then 8, was trained on; validation adds nothing on its way."""

  def step(state, batch, key):
    seen = {'sum': state['sum']}
    return toys.counting(state, batch, key)[0], seen

  _, history = toys.count(
    toys.ONES, 2, 2, val_step_fn=step, val_data_iterator_fn=toys.ONES * 3
  )
  assert history['val_sum'] == [4.0, 8.0]


def test_2_validation_changes_no_state_and_draws_the_same_each_time():
  """Truth: the state's sum without it; keys alike, and none of training's."""
  keys = {'train': [], 'val': []}

  def step(split):
    def take(state, batch, key):
      keys[split].append(tuple(np.asarray(jax.random.key_data(key))))
      return toys.counting(state, batch, key)

    return take

  state, _ = loop.train_loop(
    toys.zero(),
    step('train'),
    toys.ONES,
    3,
    2,
    toys.KEY,
    val_step_fn=step('val'),
    val_data_iterator_fn=toys.ONES * 2,
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
    toys.zero(),
    step,
    data,
    2,
    3,
    toys.KEY,
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

  _, history = loop.train_loop(toys.zero(), step, SHORT, 1, 3, toys.KEY)
  assert history['train_loss'] == pytest.approx([36.0])
  assert abs(36.0 - MEAN) > 1


# --- Data, settings and steps that are not as they should be. -----------------


@pytest.mark.parametrize('num_data', [1, 2, 3, 5, 7])
def test_every_batch_of_an_iterator_is_used_in_turn(num_data):
  """Truth: 0, 1, ..., 0, 1, ...: shorter and longer than an epoch of 3."""
  used = []

  def step(state, batch, key):
    used.append(int(batch[0]))
    return state, {'loss': 0.0}

  data = [np.full(2, i) for i in range(num_data)]
  loop.train_loop(toys.zero(), step, lambda: iter(data), 4, 3, toys.KEY)
  assert used == [i % num_data for i in range(12)]


def test_only_what_is_needed_is_drawn():
  """Truth: an iterator without end is asked for 6 batches."""
  drawn = []

  def data():
    for i in itertools.count():
      drawn.append(i)
      yield jnp.ones(2)

  state, _ = toys.count(data, 2, 3)
  assert float(state['sum']) == 12 and drawn == list(range(6))


@pytest.mark.parametrize('data', [[], lambda: iter(())])
def test_an_iterator_without_a_batch_is_refused(data):
  """Truth: the message, in place of a loop without end."""
  with pytest.raises(ValueError, match='without a batch'):
    toys.count(data, 1, 1)


@pytest.mark.parametrize(
  'data, error', [([], ValueError), (iter(toys.ONES), TypeError)]
)
def test_data_that_are_refused_at_a_restart_leave_no_file_open(
  tmp_path, monkeypatch, data, error
):
  """Truth: every writer that was opened is closed."""
  toys.count(toys.ONES, 1, 2, checkpoint_dir=tmp_path)
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
      toys.count(data, 2, 2, checkpoint_dir=tmp_path)
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
    loop.train_loop(toys.zero(), step, toys.ONES, 1, 2, toys.KEY)


def test_a_value_for_each_trial_is_refused_where_a_scalar_is_weighed():
  """Truth: a dict's metrics are `{name: []}`.

  A value a trial would be taken for a step a value, each as heavy as the whole
  batch: a short last batch would weigh too little, and a NaN be misplaced.
  """

  def step(state, batch, key):
    return state, {'loss': batch}

  with pytest.raises(ValueError, match='scalar'):
    loop.train_loop(toys.zero(), step, SHORT, 1, 3, toys.KEY)


@pytest.mark.parametrize('name', ['step', 'split'])
def test_a_metric_may_not_take_the_name_of_a_rows_field(name, tmp_path):
  """Truth: a row's `step` counts batches; a metric would overwrite it."""

  def step(state, batch, key):
    return state, {'loss': 1.0, name: 0.5}

  with pytest.raises(ValueError, match=name):
    loop.train_loop(toys.zero(), step, toys.ONES, 2, 2, toys.KEY, tmp_path)


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
    loop.train_loop(toys.zero(), returns({'a': 1.0}), [batch], 1, 2, toys.KEY)
  weighed = returns(metrics.Metrics({'a': 1.5}, 4))
  _, history = loop.train_loop(toys.zero(), weighed, [batch], 1, 2, toys.KEY)
  assert history == {'train_a': [1.5]}
