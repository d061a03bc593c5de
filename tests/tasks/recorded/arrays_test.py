# SPDX-License-Identifier: Apache-2.0
"""A task of arrays: what was given comes back, split, padded and judged.

Truth: the arrays themselves, trial by trial in NumPy; chance by the task's own
metrics of an answer that is written out; the contract of a task.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_tasks import from_arrays, testing

KEY = jax.random.key(3)
N, T = 30, 5
RNG = np.random.default_rng(0)
STATIC = RNG.normal(size=(N, 3)).astype(np.float32)
INPUTS = RNG.normal(size=(N, T, 2)).astype(np.float32)
LENGTHS = RNG.integers(2, T + 1, N)
CLASSES = RNG.integers(0, 3, N)
VALUES = RNG.normal(size=(N, T, 2)).astype(np.float32)
RAGGED = [x[:n] for x, n in zip(INPUTS, LENGTHS, strict=True)]
RAGGED_VALUES = [y[:n] for y, n in zip(VALUES, LENGTHS, strict=True)]


def drawn(task):
  """An epoch of training trials and the held-out ones: two Trials."""
  count = task.spec.num_data
  train = jax.jit(task.sample)(KEY, jnp.arange(count))
  evaluation = task.evaluations['held_out']
  return train, evaluation.sample(KEY, jnp.arange(evaluation.num_trials))


def by_trial(task):
  """`{first input: (inputs, targets, mask)}` of all trials, `[T, ...]`."""
  found = {}
  for trials in drawn(task):
    fields = (trials.inputs, trials.targets, trials.mask)
    inputs, targets, mask = (np.asarray(x).swapaxes(0, 1) for x in fields)
    for x, y, m in zip(inputs, targets, mask, strict=True):
      found[float(x.flat[0])] = (x, y, m)
  return found


@pytest.mark.oracle
@pytest.mark.parametrize(
  'task, memory',
  [
    (from_arrays(STATIC, CLASSES), True),
    (from_arrays(RAGGED, CLASSES), True),
    (from_arrays(RAGGED, RAGGED_VALUES, standardise=True), False),
  ],
  ids=['static', 'lengths', 'values'],
)
def test_the_contract_of_a_task(task, memory):
  """Truth: the laws of bionet_tasks.testing."""
  testing.check_task(task, memory=memory)


def test_static_trials_come_back_each_with_its_class():
  """Truth: the arrays; a fifth is held out, and each trial is on one side."""
  task = from_arrays(STATIC, CLASSES, name='mine')
  spec = task.spec
  assert (spec.name, spec.num_steps, spec.num_outputs) == ('mine', 1, 3)
  assert (spec.input_shape, spec.num_data, spec.metric) == (
    (3,),
    24,
    'accuracy',
  )
  assert task.evaluations['held_out'].num_trials == 6
  found = by_trial(task)
  assert len(found) == N
  for x, y in zip(STATIC, CLASSES, strict=True):
    inputs, targets, mask = found[float(x[0])]
    np.testing.assert_array_equal(inputs, x[None])
    assert targets.tolist() == [y] and mask.tolist() == [1]


@pytest.mark.parametrize('form', ['arrays', 'lengths', 'mask', 'objects'])
def test_trials_of_any_length_are_asked_at_their_last_step(form):
  """Truth: the arrays cut at their lengths; what comes after is 0.

  It may hold anything: here the padding is NaN, and the pad label -100.
  """
  padded, labels = INPUTS.copy(), np.full((N, T), -100)
  mask = np.zeros((N, T))
  for n, length in enumerate(LENGTHS):
    padded[n, length:] = np.nan
    mask[n, length - 1], labels[n, length - 1] = 1, CLASSES[n]
  if form == 'arrays':
    task = from_arrays(RAGGED, CLASSES)
  elif form == 'objects':
    task = from_arrays(np.array(RAGGED, object), CLASSES.astype(object))
  elif form == 'lengths':
    task = from_arrays(padded, CLASSES, lengths=LENGTHS)
  else:
    task = from_arrays(padded, labels, mask=mask)
  found = by_trial(task)
  assert len(found) == N and task.spec.num_outputs == 3
  for x, y, n in zip(INPUTS, CLASSES, LENGTHS, strict=True):
    inputs, targets, weights = found[float(x[0, 0])]
    last = np.arange(T) == n - 1
    np.testing.assert_array_equal(inputs[:n], x[:n])
    assert not inputs[n:].any()
    np.testing.assert_array_equal(targets, np.where(last, y, 0))
    np.testing.assert_array_equal(weights, last)


@pytest.mark.parametrize('form', ['arrays', 'lengths', 'mask'])
def test_targets_of_every_step_are_asked_at_every_step(form):
  """Truth: the arrays; a trial of n steps weighs 1 / n at each."""
  values = VALUES.copy()
  for n, length in enumerate(LENGTHS):
    values[n, length:] = np.nan
  mask = np.arange(T) < LENGTHS[:, None]
  task = {
    'arrays': lambda: from_arrays(RAGGED, RAGGED_VALUES),
    'lengths': lambda: from_arrays(INPUTS, values, lengths=LENGTHS),
    'mask': lambda: from_arrays(INPUTS, values, mask=7 * mask),
  }[form]()
  assert (task.spec.metric, task.spec.num_outputs) == ('mse', 2)
  found = by_trial(task)
  for x, y, n in zip(INPUTS, VALUES, LENGTHS, strict=True):
    inputs, targets, weights = found[float(x[0, 0])]
    asked = np.arange(T) < n
    np.testing.assert_array_equal(inputs, np.where(asked[:, None], x, 0))
    np.testing.assert_array_equal(targets, np.where(asked[:, None], y, 0))
    np.testing.assert_allclose(weights, asked / n, rtol=1e-6)


def test_what_targets_mean_follows_from_their_kind():
  """Truth: the docstring: integers are classes, floats are values."""
  for targets, settings, metric, outputs in (
    (CLASSES > 0, {}, 'accuracy', 2),
    (CLASSES.astype(float), {}, 'mse', 1),
    (CLASSES.astype(float), {'classes': True}, 'accuracy', 3),
    (CLASSES.astype(float), {'num_classes': 7}, 'accuracy', 7),
    (CLASSES, {'classes': False}, 'mse', 1),
    (VALUES[:, 0], {}, 'mse', 2),
    (VALUES[:, :1], {}, 'mse', 2),
    (CLASSES[:, None], {}, 'accuracy', 3),
  ):
    spec = from_arrays(INPUTS, targets, **settings).spec
    assert (spec.metric, spec.num_outputs) == (metric, outputs)


def test_the_split_is_its_seed():
  """Truth: the same seed holds out the same trials, another seed others."""

  def judged(split):
    return np.asarray(
      drawn(from_arrays(STATIC, CLASSES, split=split))[1].inputs
    )

  np.testing.assert_array_equal(judged(1), judged(1))
  assert np.any(judged(1) != judged(2))


def test_trials_of_equal_inputs_are_on_one_side():
  """Truth: 10 inputs, each three times: none is on both sides.

  Mutant: trials drawn one by one, of which 6 of 30 would share nearly all.
  """
  inputs = np.repeat(STATIC[:10], 3, axis=0)
  for split in range(4):
    task = from_arrays(inputs, CLASSES, split=split)
    train, judged = (set(np.asarray(x.inputs)[0, :, 0]) for x in drawn(task))
    assert len(train) == 8 and len(judged) == 2 and not train & judged


def test_the_trials_that_are_named_are_held_out():
  """Truth: the numbers; a bool array says the same."""
  numbers = np.array([4, 0, 7, 11])
  for held_out in (numbers, np.isin(np.arange(N), numbers)):
    train, judged = drawn(from_arrays(STATIC, CLASSES, held_out=held_out))
    known = set(STATIC[numbers, 0].tolist())
    assert set(np.asarray(judged.inputs)[0, :, 0].tolist()) == known
    assert not known & set(np.asarray(train.inputs)[0, :, 0].tolist())


def test_inputs_are_standardised_by_the_training_trials():
  """Truth: NumPy's mean and deviation over the steps that there are.

  A constant input has mean 0. The held-out trials have other statistics.
  """
  inputs = np.concatenate([3 * INPUTS + 5, np.full((N, T, 1), 2.0)], axis=-1)
  task = from_arrays(inputs, CLASSES, lengths=LENGTHS, standardise=True)
  train, judged = drawn(task)
  within = np.cumsum(np.asarray(train.mask)[::-1], axis=0)[::-1] > 0
  steps = np.asarray(train.inputs)[within]
  np.testing.assert_allclose(steps.mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(steps.std(axis=0), [1, 1, 0], atol=1e-5)
  assert not np.asarray(train.inputs)[~within].any()
  assert abs(np.asarray(judged.inputs)[..., 0].mean()) > 1e-3


##############################################################################
# Chance and ceiling


def test_chance_is_what_the_best_constant_scores():
  """Truth: the task's own metrics of the held-out shares, or their mean."""
  task = from_arrays(STATIC, CLASSES)
  _, judged = drawn(task)
  shares = np.bincount(np.asarray(judged.targets)[0], minlength=3) / 6
  outputs = jnp.log(jnp.broadcast_to(shares, (1, 6, 3)))
  for metric, value in task.metrics(outputs, judged).items():
    np.testing.assert_allclose(task.spec.chance[metric], value, rtol=1e-5)
  task = from_arrays(RAGGED, RAGGED_VALUES)
  _, judged = drawn(task)
  mean = jnp.sum(judged.mask[..., None] * judged.targets, axis=(0, 1)) / 6
  outputs = jnp.broadcast_to(mean, judged.targets.shape)
  mse = task.metrics(outputs, judged)['mse']
  assert task.spec.chance['mse'] <= mse * (1 + 1e-5)


def test_chance_knows_the_step():
  """Truth: by hand: class 0 at four steps of five, then 1 or 2 by halves.

  One constant is right in .8; an answer per step in .9. The loss of the latter
  is (ln 2) / 5, but for the rounding of 24 trials' shares.
  """
  targets = np.zeros((400, T), int)
  targets[:, -1] = 1 + np.arange(400) % 2
  inputs = RNG.normal(size=(400, T, 1))
  spec = from_arrays(inputs, targets).spec
  assert spec.chance['accuracy'] == pytest.approx(0.9, abs=0.02)
  assert spec.chance['loss'] == pytest.approx(np.log(2) / 5, abs=0.02)


def test_a_step_that_few_trials_ask_is_not_known_by_heart():
  """Truth: lengths of all kinds and classes by coin: chance is near a half.

  Mutant: the best answer per step of the held-out trials themselves, which
  knows each: 1.
  """
  rng = np.random.default_rng(5)
  inputs = rng.normal(size=(2000, 100, 1))
  lengths, classes = rng.integers(1, 101, 2000), rng.integers(0, 2, 2000)
  spec = from_arrays(inputs, classes, lengths=lengths).spec
  assert spec.chance['accuracy'] < 0.58
  assert spec.chance['loss'] == pytest.approx(np.log(2), abs=0.02)


def test_the_ceiling_is_perfection_unless_one_is_known():
  """Truth: the docstring."""
  assert from_arrays(STATIC, CLASSES).spec.ceiling == {'accuracy': 1, 'loss': 0}
  known = from_arrays(STATIC, CLASSES, ceiling=0.9).spec
  assert known.ceiling == {'accuracy': 0.9}
  values = from_arrays(INPUTS, VALUES).spec
  assert values.ceiling == {'mse': 0, 'loss': 0}
  assert from_arrays(INPUTS, VALUES, ceiling=0.1).spec.ceiling == {'mse': 0.1}


##############################################################################
# What cannot be


def changed(array, at, value):
  array = np.array(array, float)
  array[at] = value
  return array


SILENT = changed(np.ones((N, T)), 3, 0)
REFUSED = {
  r'^inputs\.shape=\(30,\): must be \[N, I\]': (STATIC[:, 0], CLASSES),
  r'^inputs\.shape=\(2, 3\): must be .* inputs\[\.\.\., None\]': (
    [[1.0, 2.0], [3.0, 4.0, 5.0]],
    [0, 1],
  ),
  r'^inputs\.shape=\(1, 5, 2\): must hold at least 2': (
    INPUTS[:1],
    CLASSES[:1],
  ),
  r'^inputs: must be one array, .* \(2, 3\) and \(3, 4\)': (
    [np.ones((2, 3)), np.ones((3, 4))],
    [0, 1],
  ),
  r'^inputs: trial 1 has no step': ([INPUTS[0], INPUTS[0, :0]], [0, 1]),
  r'^inputs\[3, 2, 0\]=nan: must be a finite float32': (
    changed(INPUTS, (3, 2, 0), np.nan),
    CLASSES,
  ),
  r'^inputs\[3, 2, 0\]=1e\+39: must be a finite': (
    changed(INPUTS, (3, 2, 0), 1e39),
    CLASSES,
  ),
  r'^inputs: must differ between trials': (np.ones((N, 2)), CLASSES),
  r'^targets\.shape=\(29,\): must be \[30\] or \[30, 5\]': (
    INPUTS,
    CLASSES[1:],
  ),
  r'^targets\.shape=\(30, 5\): must have an axis of outputs': (
    INPUTS,
    VALUES[..., 0],
  ),
  r'^targets: trial 0 has \d of them and \d steps': (
    RAGGED,
    [y[1:] for y in RAGGED_VALUES],
  ),
  r'^targets\[2, 4\]=-1: must be a class': (
    INPUTS,
    np.where(np.arange(N) == 2, -1, CLASSES),
  ),
  r'^targets: must be of at least 2 classes': (INPUTS, 0 * CLASSES),
  r'^targets\[1, 4\]=0\.5: must be a class': (
    INPUTS,
    changed(CLASSES, 1, 0.5),
    {'classes': True},
  ),
  r'^targets\[1, 4, 0\]=nan: must be a finite': (
    INPUTS,
    changed(CLASSES, 1, np.nan),
  ),
  r'^targets: the largest is class 255, and none is class 3': (
    INPUTS,
    np.where(np.arange(N) == 2, 255, CLASSES),
  ),
  r'^held_out: class 3 is asked for in held-out trials and in no': (
    INPUTS,
    np.where(np.arange(N) == 2, 3, CLASSES),
    {'held_out': [2, 3]},
  ),
  r'^num_classes=2: must be at least 3': (INPUTS, CLASSES, {'num_classes': 2}),
  r'^num_classes=3: must be None': (
    INPUTS,
    CLASSES,
    {'num_classes': 3, 'classes': False},
  ),
  r'^lengths\.shape=\(30,\): must be int': (
    INPUTS,
    CLASSES,
    {'lengths': np.full(N, 2.0)},
  ),
  r'^lengths\[0\]=6: must be from 1 to 5': (
    INPUTS,
    CLASSES,
    {'lengths': np.full(N, 6)},
  ),
  r'must be None, since mask is given': (
    INPUTS,
    CLASSES,
    {'lengths': LENGTHS, 'mask': np.ones((N, T))},
  ),
  r'must be None, since inputs have lengths': (
    RAGGED,
    CLASSES,
    {'lengths': LENGTHS},
  ),
  r'^mask\.shape=\(5, 30\): must be \(30, 5\)': (
    INPUTS,
    CLASSES,
    {'mask': SILENT.T},
  ),
  r'^mask\[3\]: must ask at some step; .* 1 of 30': (
    INPUTS,
    CLASSES,
    {'mask': SILENT},
  ),
  r'^mask\[2, 1\]=-1\.0: must be finite, and 0': (
    INPUTS,
    CLASSES,
    {'mask': changed(np.ones((N, T)), (2, 1), -1)},
  ),
  r'^mask\[\d+\]: must be 0 behind the': (
    RAGGED,
    CLASSES,
    {'mask': np.ones((N, T))},
  ),
  r'^held_out=1\.5: must be a share': (INPUTS, CLASSES, {'held_out': 1.5}),
  r'^held_out=30: must be the number of a trial': (
    INPUTS,
    CLASSES,
    {'held_out': [30]},
  ),
  r'^held_out: must name each trial once': (
    INPUTS,
    CLASSES,
    {'held_out': [1, 1]},
  ),
  r'^held_out\.shape=\(30,\): must be a share': (
    INPUTS,
    CLASSES,
    {'held_out': np.arange(N)},
  ),
  r'^held_out=0: must have other inputs': (
    np.repeat(STATIC[:15], 2, axis=0),
    CLASSES,
    {'held_out': [0, 2, 3]},
  ),
  r'^held_out: of 1 trials an answer that reads no inputs': (
    INPUTS,
    CLASSES,
    {'held_out': [0]},
  ),
  r'^split=-1: ': (INPUTS, CLASSES, {'split': -1}),
  r'^ceiling=0\.1: must be above the accuracy': (
    INPUTS,
    CLASSES,
    {'ceiling': 0.1},
  ),
  r'^ceiling=inf: must be above': (INPUTS, CLASSES, {'ceiling': np.inf}),
  r'^ceiling=99: must be below the mse': (INPUTS, VALUES, {'ceiling': 99}),
}


@pytest.mark.parametrize('message', REFUSED)
def test_what_cannot_be_is_refused(message):
  """Truth: the sentence that names the argument, the trial and the way out."""
  inputs, targets, *settings = REFUSED[message]
  with pytest.raises(ValueError, match=message):
    from_arrays(inputs, targets, **(settings[0] if settings else {}))


@pytest.mark.parametrize(
  'inputs, targets',
  [(STATIC, ['a', 'b'] * 15), (STATIC + 1j, CLASSES), (None, CLASSES)],
)
def test_what_are_no_numbers_is_a_type_error(inputs, targets):
  """Truth: the sentence that names the argument and its dtype."""
  with pytest.raises(
    TypeError, match=r'^(inputs|targets)\.dtype=.*: must be r'
  ):
    from_arrays(inputs, targets)
