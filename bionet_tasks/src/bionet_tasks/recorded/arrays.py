# SPDX-License-Identifier: Apache-2.0
"""A task of a user's own arrays: recorded trials, some of them held out."""

import dataclasses
import hashlib

import jax.numpy as jnp
import numpy as np
from numpy import typing as npt

from bionet_core import interfaces
from bionet_tasks import base
from bionet_tasks.recorded import baselines, layouts, splitting


def from_arrays(
  inputs: layouts.Arrays,
  targets: layouts.Arrays,
  *,
  mask: npt.ArrayLike | None = None,
  lengths: npt.ArrayLike | None = None,
  classes: bool | None = None,
  num_classes: int | None = None,
  held_out: float | npt.ArrayLike = 0.2,
  split: int = 0,
  standardise: bool = False,
  ceiling: float | None = None,
  name: str = 'from_arrays',
) -> base.Task:
  """A task of N trials that are given, some of which are held out.

    from sklearn import datasets

    pixels, digits = datasets.load_digits(return_X_y=True)
    task = tasks.from_arrays(pixels / 16, digits)  # static trials
    rows = pixels.reshape(-1, 8, 8) / 16
    task = tasks.from_arrays(rows, digits)  # 8 steps, asked at the last one

  What is asked follows from the targets: one per trial is asked at the trial's
  last step, one per step at each step; `mask` says otherwise. The asked steps
  of a trial weigh 1 together. Integers are classes, judged by cross-entropy and
  accuracy; floats are values, judged by the squared error. Inputs after the
  last asked step of a trial and targets where nothing is asked are set to 0:
  they may hold anything, NaN too.

  Trials of equal inputs go to one side of the split, so that nothing held out
  was trained on. An epoch is a pass over the training trials in a fresh order.

  Chance is computed: what the held-out trials score, by each metric, under the
  better of two answers that read no inputs. One is the same at all steps, the
  best that there is; the other is one per step, learned from the training
  trials (`recorded.baselines`). The ceiling is that of perfect answers, which
  have accuracy 1 or error 0, unless a nearer one is known.

  The arrays are held in the memory of the device, whole. Where the input of an
  asked step may tell its answer, as data often do, `check_task` wants
  `memory=False`.

  Args:
    inputs: float `[N, I]`, static trials of one step; `[N, T, *I]`; or N arrays
      `[T_n, *I]`, trials of different lengths.
    targets: one per trial, int `[N]`, float `[N]` or `[N, O]`; or one per step,
      int `[N, T]` or float `[N, T, O]`, or N arrays of T_n steps.
    mask: float or bool `[N, T]`, the weight of each step in its trial, 0 where
      nothing is asked; None: as the targets say.
    lengths: int `[N]`, the steps of each trial, where there is no mask; None:
      T, or as many as its array has.
    classes: whether targets are classes; None: integers are, and bools.
    num_classes: O of classes; None: one more than the largest.
    held_out: the share of trials that are held out, drawn; or their numbers,
      int `[H]`; or which they are, bool `[N]`.
    split: seed of the draw.
    standardise: shift and scale each input to mean 0 and deviation 1 over the
      steps of the training trials.
    ceiling: the best value of the main metric ('accuracy', 'mse'), if known.
    name: the task's name in messages and figures.

  Raises:
    TypeError: for what are no real numbers.
    ValueError: for shapes that do not fit, numbers that are not finite where
      they count, labels that are no classes, a trial that is asked nowhere, a
      split that cannot be, trials that an answer without inputs solves, or a
      ceiling that is no better than chance.
  """
  recorded = layouts.read(
    inputs,
    targets,
    mask=mask,
    lengths=lengths,
    classes=classes,
    num_classes=num_classes,
  )
  train, judged = splitting.split(recorded.inputs, held_out, split)
  if standardise:
    recorded = _standardised(recorded, train)
  loss = base.cross_entropy if recorded.is_classes else base.squared_error
  # Time leads, as in Trials; the training trials come first.
  shown, answers, weights = (
    jnp.asarray(np.moveaxis(values[np.concatenate([train, judged])], 0, 1))
    for values in (recorded.inputs, recorded.targets, recorded.mask)
  )

  def rows_of(rows, index):
    return interfaces.Trials(
      inputs=shown[:, rows],
      targets=answers[:, rows],
      mask=weights[:, rows],
      index=index,
    )

  def sample(key, index, batch_size=None):
    del batch_size
    return rows_of(base.epoch_order(key, index, len(train)), index)

  def sample_held_out(key, index):
    del key
    return rows_of(len(train) + index, index)

  return base.Task(
    spec=dataclasses.replace(
      _spec(recorded, train, judged, ceiling, name),
      data_digest=_digest(shown, answers, weights),
    ),
    sample=sample,
    evaluations={'held_out': base.Evaluation(len(judged), sample_held_out)},
    loss=loss,
    metrics=base.sum_over_steps(loss),
  )


def _digest(*arrays) -> str:
  """SHA-256 of arrays, their shapes and types."""
  digest = hashlib.sha256()
  for values in arrays:
    digest.update(f'{values.shape} {values.dtype}'.encode())
    digest.update(np.asarray(values).tobytes())
  return digest.hexdigest()


def _standardised(
  recorded: layouts.Recorded, train: np.ndarray
) -> layouts.Recorded:
  """Inputs of mean 0 and deviation 1 over the steps of the training trials."""
  within, dtype = recorded.within, recorded.inputs.dtype
  steps = recorded.inputs[train][within[train]].astype(float)
  deviation = steps.std(axis=0)
  scale = np.where(deviation > 0, deviation, 1.0)
  inputs = (recorded.inputs - steps.mean(axis=0)) / scale
  return recorded._replace(inputs=layouts.where(within, inputs.astype(dtype)))


def _spec(recorded, train, judged, ceiling, name) -> base.TaskSpec:
  """The plain facts, if they make a task."""
  metric = 'accuracy' if recorded.is_classes else 'mse'
  measures = base.CROSS_ENTROPY if recorded.is_classes else base.SQUARED_ERROR
  levels = baselines.chance(recorded, train, judged)
  best = {metric: float(metric == 'accuracy'), 'loss': 0.0}
  sign = 1 if metric == 'accuracy' else -1
  if sign * best[metric] <= sign * levels[metric]:
    raise ValueError(
      f'held_out: of {len(judged)} trials an answer that reads no inputs is '
      'right in all; hold out more, or others, whose targets differ.'
    )
  if ceiling is not None:
    if not np.isfinite(ceiling) or not sign * ceiling > sign * levels[metric]:
      raise ValueError(
        f'ceiling={ceiling}: must be {"above" if sign > 0 else "below"} the '
        f'{metric} of chance, {levels[metric]:.4g}.'
      )
    best = {metric: float(ceiling)}
  return base.TaskSpec(
    name=name,
    input_shape=recorded.inputs.shape[2:],
    num_outputs=recorded.num_outputs,
    num_steps=recorded.inputs.shape[1],
    metric=metric,
    chance=levels,
    ceiling=best,
    num_data=len(train),
    measures=measures,
  )
