# SPDX-License-Identifier: Apache-2.0
"""All tasks keep the contract, and the contract finds what breaks it."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces, plugins
from bionet_tasks import TASKS, base, testing

RECORDED = pathlib.Path(__file__).parent / 'recorded' / 'trials.csv'
CONTRACT = {
  'adding': {'length': 6, 'min_length': 4},
  'cell_fate': {'duration': 0.04, 'held_out_duration': 0.04},
  'copying': {'num_symbols': 3, 'time_lag': 2},
  'delayed_match': {'num_stimuli': 3, 'delay': 3, 'min_delay': 1},
  'delayed_xor': {'delay': 2, 'min_delay': 0},
  'digits': {},
  'evidence_accumulation': {
    'num_cues': 3,
    'dt': 25.0,
    'delay_ms': 50.0,
    'recall_ms': 50.0,
    'num_held_out': 100,
  },
  'flip_flop': {'length': 6, 'min_length': 4},
  'from_csv': {'path': str(RECORDED), 'trial': 'trial'},
  'lorenz': {'length': 6, 'min_length': 4, 'washout': 2},
  'prototypes': {'num_held_out': 4000},
  'sequential_digits': {},
  'store_recall': {'delay': 3, 'min_delay': 1},
  'temporal_parity': {'num_bits': 4},
}
# Each step's input is a part of its question.
STREAMS = ('lorenz',)


@functools.cache
def make(name):
  return plugins.load('bionet.tasks', name, TASKS)(**CONTRACT[name])


def test_every_task_is_in_the_contract_table():
  """Truth: bionet_tasks.TASKS."""
  assert set(CONTRACT) == set(TASKS)


@pytest.mark.oracle
@pytest.mark.parametrize('name', CONTRACT)
def test_the_contract_of_a_task(name):
  """Truth: the laws of bionet_tasks.testing; the name is the task's own."""
  assert make(name).spec.name == name
  testing.check_task(make(name), memory=name not in STREAMS)


# A sequence and finite data, cheap to compile: the sound ones pass, and each
# mutant breaks one law.


def bits(key, index):
  """A bit `[B]`, a function of the key and each index."""
  seed = jax.random.key_data(key)[1]
  mixed = (index.astype(jnp.uint32) ^ seed) * jnp.uint32(2654435761)
  return (mixed >> 20 & 1).astype(int)


def recall(key, index):
  """Shows a bit, waits a step, asks for it."""
  shown = bits(key, index)
  still = jnp.zeros_like(shown)
  inputs = jnp.stack([2.0 * shown - 1, still, still])[..., None]
  mask = jnp.stack([still, still, still + 1]).astype(jnp.float32)
  targets = jnp.stack([still, still, shown])
  return interfaces.Trials(
    inputs=inputs, targets=targets, mask=mask, index=index
  )


def recall_held_out(key, index):
  trials = recall(key, index + 1_000_000)
  return trials.replace(index=index)


SPEC = base.TaskSpec(
  name='recall',
  input_shape=(1,),
  num_outputs=2,
  num_steps=3,
  metric='accuracy',
  chance={'accuracy': 0.5},
  ceiling={'accuracy': 1.0},
)
RECALL = base.Task(
  spec=SPEC,
  sample=recall,
  evaluations={'held_out': base.Evaluation(40, recall_held_out)},
  loss=base.cross_entropy,
  metrics=base.sum_over_steps(base.cross_entropy),
)


def respec(**settings):
  return RECALL._replace(spec=dataclasses.replace(SPEC, **settings))


def resample(change):
  """The task with its training trials changed."""
  return RECALL._replace(
    sample=lambda key, index: change(recall(key, index), index)
  )


def tells(trials, index):
  del index
  answer = trials.targets[2].astype(jnp.float32)[:, None]
  return trials.replace(inputs=trials.inputs.at[2].set(answer))


def some_tell(trials, index):
  """Asks half of the trials a step earlier, where one input is the answer."""
  early = index % 2 == 0
  answer = jnp.where(early, trials.targets[2], 0)
  mask = jnp.where(early, jnp.array([[0.0], [1.0], [0.0]]), trials.mask)
  return trials.replace(
    inputs=trials.inputs.at[1, :, 0].set(answer.astype(jnp.float32)),
    targets=trials.targets.at[1].set(answer),
    mask=mask,
  )


def by_batch(trials, index):
  place = jnp.arange(len(index)) // 8 % 2
  return trials.replace(targets=trials.targets.at[1].set(place))


def strides(key, index, num_data):
  """A permutation an epoch: strides of 20 that have no common divisor."""
  seed = jax.random.key_data(key)[1].astype(int) % 1000
  steps = jnp.array([1, 3, 7, 9, 11, 13])
  stride = steps[(index // num_data + seed) % 6]
  return (index % num_data * stride + seed) % num_data


def one_sample_twice(key, index, num_data):
  rows = strides(key, index, num_data)
  return jnp.where((rows == 3) & (index >= num_data), 4, rows)


def same_order(key, index, num_data):
  return strides(key, index % num_data, num_data)


@functools.cache
def finite(num_data=20, order=strides, leak=False):
  """Finite data: sample n is the number n, its class n % 2."""

  def sample(key, index):
    rows = order(key, index, num_data)
    return base.static_trials(rows[:, None].astype(float), rows % 2, index)

  def held_out(key, index):
    del key
    rows = index + (num_data - 1 if leak else num_data)
    return base.static_trials(rows[:, None].astype(float), rows % 2, index)

  return RECALL._replace(
    spec=dataclasses.replace(SPEC, num_steps=1, num_data=num_data),
    sample=sample,
    evaluations={'held_out': base.Evaluation(10, held_out)},
  )


MUTANTS = {
  'shapes': respec(num_steps=4),
  'mask of shapes .*, 8, 2': respec(input_shape=(2,)),
  'the index of the trials': resample(
    lambda trials, index: trials.replace(index=index + 1)
  ),
  'inputs must be float': resample(
    lambda trials, index: trials.replace(inputs=trials.inputs.astype(int))
  ),
  'sum to 1': resample(
    lambda trials, index: trials.replace(mask=trials.mask / 2)
  ),
  '2 of 8 trials are judged at no step .the first in row 2': resample(
    lambda trials, index: trials.replace(
      mask=jnp.where(index % 3 == 2, 0.0, trials.mask)
    )
  ),
  'a mask is negative': resample(
    lambda trials, index: trials.replace(
      mask=trials.mask.at[0].add(-1.0).at[1].add(1.0)
    )
  ),
  'two keys give the same': RECALL._replace(
    sample=lambda key, index: recall(jax.random.key(0), index)
  ),
  'a range = their batch': resample(by_batch),
  'the inputs of step 2 tell the answer': resample(tells),
  'the inputs of step 1 tell the answer': resample(some_tell),
  'the loss of equal outputs': RECALL._replace(
    loss=lambda outputs, targets, mask: (jnp.log(jnp.sum(outputs)), {})
  ),
  'loss_kind': respec(loss_kind='per_batch'),
  "metric 'regret'": respec(ceiling={'regret': 0.0}),
  "metric 'loss' of equal outputs": RECALL._replace(
    metrics=lambda outputs, trials: {
      'accuracy': 0.5,
      'loss': jnp.log(jnp.sum(outputs)),
    }
  ),
  "metric 'loss' reads outputs nobody": RECALL._replace(
    metrics=lambda outputs, trials: {
      'accuracy': 0.5,
      'loss': jnp.sum(outputs * trials.mask[..., None]),
    }
  ),
  "lack 'held_out'": RECALL._replace(evaluations={}),
  'it is the training trials': RECALL._replace(
    evaluations={'held_out': base.Evaluation(40, recall)}
  ),
  'exactly once': finite(order=one_sample_twice),
  'the same order': finite(order=same_order),
  'inputs of 1 trials are trained on': finite(leak=True),
}


def when_asked(trials, index):
  """Asks half of the trials a step earlier, and says so in the inputs."""
  early = index % 2 == 0
  answer = jnp.where(early, trials.targets[2], 0)
  mask = jnp.where(early, jnp.array([[0.0], [1.0], [0.0]]), trials.mask)
  inputs = trials.inputs.at[1, :, 0].set(early.astype(jnp.float32))
  targets = trials.targets.at[1].set(answer)
  return trials.replace(inputs=inputs, targets=targets, mask=mask)


@pytest.mark.parametrize(
  'task',
  [RECALL, finite(), resample(when_asked)],
  ids=['sequence', 'finite', 'lengths'],
)
def test_sound_tasks_pass(task):
  """Truth: tasks whose laws can be seen at a glance."""
  testing.check_task(task)


@pytest.mark.parametrize('law', MUTANTS)
def test_the_law_that_a_task_breaks_is_named(law):
  """Truth: the sound tasks with one thing broken."""
  with pytest.raises(AssertionError, match=law):
    testing.check_task(MUTANTS[law])


def test_a_stream_may_tell_its_answer_when_it_says_so():
  """Truth: `memory=False` lifts that law and no other."""
  testing.check_task(resample(tells), memory=False)
  with pytest.raises(AssertionError, match='sum to 1'):
    testing.check_task(MUTANTS['sum to 1'], memory=False)


def test_a_population_may_share_its_trials():
  """Truth: the trials of a population differ by their noise alone."""
  alike = MUTANTS['two keys give the same']
  spec = dataclasses.replace(SPEC, loss_kind='population')
  shared = np.asarray(alike.sample(jax.random.key(1), jnp.arange(4)).targets)
  assert shared.shape == (3, 4)
  testing.check_task(alike._replace(spec=spec))
