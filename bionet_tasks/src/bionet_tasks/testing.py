# SPDX-License-Identifier: Apache-2.0
"""The contract of a task, for its author's own tests.

  def test_my_task():
    testing.check_task(my_task())

A law that is broken raises an AssertionError that names it.
"""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, testing, unroll
from bionet_tasks import base

_PROBE_TRIALS = 512
_Z_BOUND = 6.0


def check_task(
  task: base.Task,
  *,
  batch_size: int = 8,
  seed: int = 0,
  memory: bool = True,
) -> None:
  """Checks every law of a `Task`.

  The spec tells the truth about the trials; the same key and index give the
  same trials, two keys others; jit = plain; a range of trials sampled at once =
  its batches sampled one by one; every trial is judged somewhere: the mask is
  no less than 0 and sums to 1 over a trial; the metrics are those the spec
  names, and they and the loss are finite even where all outputs are equal; they
  read no outputs and no targets where nothing is asked; asked labels are
  classes that the loss takes; finite data come exactly once an epoch, and no
  evaluation trial is among them; under one key, evaluations are not the
  training trials.

  Sequences (T > 1) must not tell the answer where they ask for it: over 512
  trials, or one epoch if that is shorter, no input of an asked step may
  correlate with that step's target (one-hot, if a class) by more than 6
  standard errors,

    |corr(inputs_ti, targets_tj)| sqrt(n_t) <= 6   for all i, j, asked t

  over the n_t trials that are asked at t, so a predictor that is linear in the
  asking step's inputs knows nothing. A copy of the answer there, at any one
  step that asks all, has z = 22; where fewer than 37 are asked none is seen.
  What only a nonlinear function of several inputs tells passes. Static trials
  (T = 1) are exempt: their input is the question.

  Args:
    task: the task.
    batch_size: B of the batches compared, at least 2.
    seed: seeds every draw.
    memory: False exempts a sequence whose input at each step is itself part of
      the question (a stream to be forecast, pulses to be counted).

  Raises:
    AssertionError: for a law that is broken.
  """
  key, other_key = jax.random.split(unroll.seed_key(seed))
  spec, sample = task.spec, jax.jit(task.sample)
  index = _numbers(batch_size)
  trials = task.sample(key, index)
  _check_trials('sample', trials, task, index)
  _same('same key, same trials', task.sample(key, index), trials)
  _same('jit = plain', sample(key, index), trials, rtol=1e-6)
  _check_scores(task, trials)

  # Two epochs of finite data; as many as the probe of the answer needs.
  num_data = spec.num_data or 0
  count = max(2 * num_data, _PROBE_TRIALS, 2 * batch_size)
  run = jax.tree.map(np.asarray, sample(key, _numbers(count)))
  straddling = max(0, num_data - batch_size // 2)
  for start in (0, batch_size, straddling):
    rows = start + np.arange(batch_size)
    law = f'trials {start} to {rows[-1]} of a range = their batch'
    _same(law, _take(run, rows), sample(key, jnp.asarray(rows)), rtol=1e-6)

  alone = spec.loss_kind == 'per_trial'  # a population may share its inputs
  if alone:
    other = sample(other_key, index)
    _require(not _equal(other, trials), 'two keys give the same trials')
  _require('held_out' in task.evaluations, "evaluations lack 'held_out'")
  for name, evaluation in task.evaluations.items():
    count = evaluation.num_trials
    rows = _numbers(count if num_data else min(count, _PROBE_TRIALS))
    judged = jax.tree.map(np.asarray, jax.jit(evaluation.sample)(key, rows))
    # Another evaluation may have another number of steps (half the dt).
    _check_trials(name, judged, task, rows, any_steps=name != 'held_out')
    _check_labels(name, judged, task)
    if alone:
      trained = _take(run, np.arange(min(len(rows), len(run.index))))
      same = _equal(_take(judged, trained.index), trained)
      _require(not same, f'{name}: under one key it is the training trials')
    if num_data:
      seen = {inputs for inputs, _ in _rows(run)}
      known = sum(inputs in seen for inputs, _ in _rows(judged))
      _require(not known, f'{name}: inputs of {known} trials are trained on')

  if num_data:
    rows = _rows(run)
    first, second = rows[:num_data], rows[num_data : 2 * num_data]
    _require(
      collections.Counter(first) == collections.Counter(second),
      'two epochs differ in their samples; each must come exactly once in each',
    )
    _require(first != second, 'two epochs have the same order')
  if spec.num_steps > 1 and memory:
    # Samples that come again are no further evidence: one epoch at most.
    probed = min(_PROBE_TRIALS, num_data or _PROBE_TRIALS)
    _check_answer_is_hidden(_take(run, np.arange(probed)))


def _check_trials(name, trials, task, index, *, any_steps=False):
  spec = task.spec
  _require(isinstance(trials, interfaces.Trials), f'{name}: it gives no Trials')
  steps = trials.mask.shape[0] if any_steps else spec.num_steps
  prefix = (steps, *index.shape)
  expected = ((*prefix, *spec.input_shape), prefix, prefix)
  shapes = trials.inputs.shape, trials.targets.shape[:2], trials.mask.shape
  _require(
    shapes == expected,
    f'{name}: the spec promises inputs, targets [:2] and mask of shapes '
    f'{expected}; they are {shapes}',
  )
  for field in ('inputs', 'mask'):
    dtype = getattr(trials, field).dtype
    real = jnp.issubdtype(dtype, jnp.floating)
    _require(real, f'{name}: {field} must be float; it is {dtype}')
  _require(
    np.array_equal(trials.index, index),
    f'{name}: the index of the trials is not the one asked for',
  )
  _require(np.all(np.asarray(trials.mask) >= 0), f'{name}: a mask is negative')
  try:
    base.check_judged(spec.name, trials)
  except ValueError as error:
    raise AssertionError(f'{name}: {error}') from error
  np.testing.assert_allclose(
    np.sum(trials.mask, axis=0),
    1,
    rtol=1e-5,
    err_msg=f'{name}: the mask must sum to 1 over the steps of a trial',
  )


def _check_labels(name, trials, task):
  try:
    base.check_labels(task, trials)
  except ValueError as error:
    raise AssertionError(f'{name}: {error}') from error


def _check_scores(task, trials):
  spec = task.spec
  kinds = ('per_trial', 'population')
  _require(
    spec.loss_kind in kinds, f'loss_kind {spec.loss_kind!r}: not {kinds}'
  )
  outputs = jnp.zeros((*trials.mask.shape, spec.num_outputs))
  last = outputs[-1], trials.targets[-1], trials.mask[-1]
  value, _ = _scored('the loss', jax.jit(task.loss), *last)
  _check_labels('sample', trials, task)  # a compiled loss is NaN for those
  _require(
    np.shape(value) == () and np.isfinite(value),
    f'the loss of equal outputs must be a finite scalar; got {value}',
  )
  metrics = jax.jit(task.metrics)
  scores = _scored('metrics', metrics, outputs, trials)
  for name in (spec.metric, *spec.chance, *spec.ceiling):
    _require(
      name in scores,
      f'the spec speaks of the metric {name!r}; there are {sorted(scores)}',
    )
  for name, value in scores.items():
    _require(
      np.shape(value) == () and np.isfinite(value),
      f'metric {name!r} of equal outputs must be a finite scalar; got {value}',
    )
  gone = metrics(unroll.where_asked(trials.mask, outputs, jnp.inf), trials)
  for name, value in gone.items():
    _require(
      np.isfinite(value), f'metric {name!r} reads outputs nobody asks for'
    )
  for name, value in metrics(outputs, testing.without_targets(trials)).items():
    _require(
      np.array_equal(value, scores[name]),
      f'metric {name!r} reads targets nobody asks for',
    )


def _scored(what, function, outputs, *rest):
  """What a task's function gives for outputs; what it refuses is a law broken.

  The outputs are as the spec has them, so it is the trials that do not suit.
  """
  try:
    return function(outputs, *rest)
  except (AssertionError, TypeError, ValueError) as error:
    text = re.sub(r'\[Chex\] Assertion \w+ failed: ', '', str(error))
    raise AssertionError(
      f'{what} must take outputs {outputs.dtype}{list(outputs.shape)} and the '
      f'trials: {" ".join(text.split())}'
    ) from error


def _check_answer_is_hidden(trials):
  targets = np.asarray(trials.targets)
  if np.issubdtype(targets.dtype, np.integer):
    targets = targets[..., None] == np.unique(targets)
  mask = np.asarray(trials.mask)
  for step in np.flatnonzero(np.any(mask > 0, axis=1)):
    is_asked = mask[step] > 0  # where lengths differ, others are silent by now
    inputs = _standardised(np.asarray(trials.inputs)[step, is_asked])
    answers = _standardised(targets[step, is_asked])
    z = np.abs(inputs.T @ answers).max() / np.sqrt(is_asked.sum())
    _require(
      z <= _Z_BOUND,
      f'the inputs of step {step} tell the answer that this step asks for: '
      f'they correlate with it by {z:.1f} standard errors. If they are meant '
      'to, say memory=False.',
    )


def _standardised(array):
  flat = np.asarray(array, float).reshape(len(array), -1)
  centred = flat - flat.mean(axis=0)
  scale = centred.std(axis=0)
  return np.divide(centred, scale, np.zeros_like(flat), where=scale > 1e-9)


def _numbers(count):
  """The numbers of the first trials, `[count]`; nothing is compiled."""
  return jnp.asarray(np.arange(count))


def _take(trials, rows):
  """The trials in these rows."""
  return interfaces.Trials(
    inputs=trials.inputs[:, rows],
    targets=trials.targets[:, rows],
    mask=trials.mask[:, rows],
    index=trials.index[rows],
  )


def _rows(trials):
  """Each trial's inputs and targets, as bytes to be compared."""
  inputs, targets = (
    np.moveaxis(np.asarray(x), 1, 0) for x in (trials.inputs, trials.targets)
  )
  return [
    (x.tobytes(), y.tobytes()) for x, y in zip(inputs, targets, strict=True)
  ]


def _equal(left, right):
  return all(
    np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
  )


def _same(law, actual, expected, *, rtol=0.0):
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol, atol=rtol, err_msg=f'{law}: broken')


def _require(holds, message):
  if not holds:
    raise AssertionError(message)
