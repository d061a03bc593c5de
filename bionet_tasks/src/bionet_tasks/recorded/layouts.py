# SPDX-License-Identifier: Apache-2.0
"""Recorded trials of one layout, read from arrays as people have them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy import typing as npt

Arrays = npt.ArrayLike | Sequence[npt.ArrayLike]
"""One array of all trials, or an array of each, which may differ in steps."""


class Recorded(NamedTuple):
  """Whole trials, on the host.

  Attributes:
    inputs: float `[N, T, *I]`, 0 after a trial's last asked step.
    targets: int `[N, T]` or float `[N, T, O]`, 0 where nothing is asked.
    mask: float `[N, T]`, of sum 1 over each trial.
    num_outputs: O.
  """

  inputs: np.ndarray
  targets: np.ndarray
  mask: np.ndarray
  num_outputs: int

  @property
  def is_classes(self) -> bool:
    """Whether the targets are classes; else they are values."""
    return self.targets.ndim == 2

  @property
  def within(self) -> np.ndarray:
    """Bool `[N, T]`: the steps up to the last one that is asked."""
    is_asked = self.mask > 0
    return np.flip(np.maximum.accumulate(np.flip(is_asked, 1), axis=1), 1)


def where(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Values `[N, T, ...]` at the steps of a bool `[N, T]`, and 0 elsewhere."""
  steps = np.expand_dims(steps, tuple(range(2, values.ndim)))
  return np.where(steps, values, np.zeros((), values.dtype))


def read(
  inputs: Arrays,
  targets: Arrays,
  *,
  mask: npt.ArrayLike | None,
  lengths: npt.ArrayLike | None,
  classes: bool | None,
  num_classes: int | None,
) -> Recorded:
  """Reads trials; the arguments, and what they raise, are `from_arrays`'."""
  shown, steps = _inputs(inputs)
  num_trials, num_steps = shown.shape[:2]
  if lengths is not None:
    if mask is not None or steps is not None:
      reason = 'mask is given' if mask is not None else 'inputs have lengths'
      raise ValueError(f'lengths={lengths}: must be None, since {reason}.')
    steps = _lengths(lengths, num_trials, num_steps)
  if steps is None:
    steps = np.full(num_trials, num_steps)
  if classes is False and num_classes is not None:
    raise ValueError(
      f'num_classes={num_classes}: must be None, since classes=False.'
    )
  answers, answer_steps = _as_array('targets', targets)
  if answer_steps is not None and np.any(answer_steps != steps):
    trial = int(np.argmax(answer_steps != steps))
    raise ValueError(
      f'targets: trial {trial} has {answer_steps[trial]} of them and '
      f'{steps[trial]} steps; give one per step.'
    )
  if answers.dtype == bool:
    answers = answers.astype(int)
  if classes is None:
    discrete = np.issubdtype(answers.dtype, np.integer)
    classes = num_classes is not None or discrete
  answers = _laid_out(answers, num_trials, num_steps, classes)
  if mask is not None:
    weights = _mask(mask, steps, num_steps)
  else:
    at = np.arange(num_steps)[None]
    if answers.shape[1] == num_steps:
      weights = at < steps[:, None]
    else:  # one per trial, asked at its end
      weights = at == steps[:, None] - 1
  weights = weights / weights.sum(axis=1, keepdims=True)
  shape = (num_trials, num_steps, *answers.shape[2:])
  answers = where(weights > 0, np.broadcast_to(answers, shape))
  if classes:
    num_outputs = _check_classes(answers, num_classes)
    answers = answers.astype(np.int32)
  else:
    num_outputs, answers = answers.shape[2], _real('targets', answers)
  recorded = Recorded(shown, answers, _real('mask', weights), num_outputs)
  shown = _real('inputs', where(recorded.within, shown))
  return recorded._replace(inputs=shown)


def _inputs(inputs: Arrays) -> tuple[np.ndarray, np.ndarray | None]:
  """Inputs `[N, T, *I]`, and the steps of each trial where they differ."""
  shown, steps = _as_array('inputs', inputs)
  if shown.ndim < 2 or (shown.ndim == 2 and steps is not None):
    raise ValueError(
      f'inputs.shape={shown.shape}: must be [N, I], [N, T, *I] or N arrays '
      '[T_n, *I]; give a single input its axis by inputs[..., None].'
    )
  if shown.ndim == 2:  # static trials
    shown = shown[:, None]
  if shown.shape[0] < 2 or 0 in shown.shape:
    raise ValueError(
      f'inputs.shape={shown.shape}: must hold at least 2 trials, and each at '
      'least 1 step of 1 input.'
    )
  return shown, steps


def _as_array(name: str, values) -> tuple[np.ndarray, np.ndarray | None]:
  """Values as one array, padded by 0 where trials differ in their steps."""
  steps = None
  try:
    array = np.asarray(values)
    if array.dtype == object:  # of numbers, or of an array for each trial
      array = np.asarray(array.tolist())
  except ValueError:  # of NumPy: the trials differ
    array, steps = _padded(name, [np.asarray(trial) for trial in values])
  numeric = np.issubdtype(array.dtype, np.number) or array.dtype == bool
  if not numeric or np.iscomplexobj(array):
    raise TypeError(
      f'{name}.dtype={array.dtype}: must be real numbers; '
      'np.unique(labels, return_inverse=True)[1] makes classes of words.'
    )
  return array, steps


def _padded(name: str, trials: list[np.ndarray]):
  """Trials `[T_n, ...]` as one array, and their steps int `[N]`."""
  alike = {trial.shape[1:] for trial in trials}
  if len(alike) > 1 or any(trial.ndim == 0 for trial in trials):
    shapes = sorted({trial.shape for trial in trials})
    raise ValueError(
      f'{name}: must be one array, or an array [T_n, ...] of each trial, and '
      f'these may differ in T_n alone; they have shapes {shapes[0]} and '
      f'{shapes[-1]}.'
    )
  steps = np.array([len(trial) for trial in trials])
  if np.any(steps == 0):
    raise ValueError(
      f'{name}: trial {int(np.argmin(steps))} has no step; each must have at '
      'least 1.'
    )
  shape = (len(trials), int(steps.max()), *trials[0].shape[1:])
  array = np.zeros(shape, np.result_type(*trials))
  for row, trial in zip(array, trials, strict=True):
    row[: len(trial)] = trial
  return array, steps


def _lengths(lengths, num_trials: int, num_steps: int) -> np.ndarray:
  steps = np.asarray(lengths)
  fits = steps.shape == (num_trials,) and np.issubdtype(steps.dtype, np.integer)
  if not fits:
    raise ValueError(
      f'lengths.shape={steps.shape}: must be int [N], one for each of the '
      f'{num_trials} trials; they are {steps.dtype}.'
    )
  wrong = (steps < 1) | (steps > num_steps)
  if np.any(wrong):
    trial = int(np.argmax(wrong))
    raise ValueError(
      f'lengths[{trial}]={steps[trial]}: must be from 1 to {num_steps} steps.'
    )
  return steps


def _mask(mask, steps: np.ndarray, num_steps: int) -> np.ndarray:
  """The weights `[N, T]`, checked, of trials of so many steps."""
  weights, num_trials = np.asarray(mask), len(steps)
  if weights.shape != (num_trials, num_steps):
    raise ValueError(
      f'mask.shape={weights.shape}: must be {(num_trials, num_steps)}, a '
      'weight for each step of each trial.'
    )
  weights = weights.astype(float)
  wrong = ~(np.isfinite(weights) & (weights >= 0))
  if np.any(wrong):
    raise ValueError(
      f'{_first("mask", wrong, weights)}: must be finite, and 0 or more.'
    )
  silent = ~np.any(weights > 0, axis=1)
  if np.any(silent):
    raise ValueError(
      f'mask[{int(np.argmax(silent))}]: must ask at some step; it is 0 '
      f'throughout in {np.sum(silent)} of {num_trials} trials.'
    )
  late = np.any(where(np.arange(num_steps)[None] >= steps[:, None], weights), 1)
  if np.any(late):
    trial = int(np.argmax(late))
    raise ValueError(
      f'mask[{trial}]: must be 0 behind the {steps[trial]} steps of the trial.'
    )
  return weights


def _laid_out(
  targets: np.ndarray, num_trials: int, num_steps: int, classes: bool
) -> np.ndarray:
  """Targets `[N, T or 1]` if they are classes, else `[N, T or 1, O]`."""
  given, rank = targets.shape, 2 if classes else 3
  if not classes and targets.ndim == 2 and given[1] == num_steps > 1:
    raise ValueError(
      f'targets.shape={given}: must have an axis of outputs, for it may mean '
      f'{num_steps} steps or {num_steps} values; write targets[..., None] for '
      'one value per step, targets[:, None] for so many values per trial.'
    )
  if targets.ndim == 1 and not classes:
    targets = targets[:, None]
  if targets.ndim == rank - 1:
    targets = targets[:, None]
  fits = targets.ndim == rank and targets.shape[0] == num_trials
  if not fits or targets.shape[1] not in (1, num_steps) or 0 in given:
    n, t = num_trials, num_steps
    shapes = f'[{n}] or [{n}, {t}]' if classes else f'[{n}, O] or [{n}, {t}, O]'
    raise ValueError(
      f'targets.shape={given}: must be {shapes}, one per trial or one per '
      f'step, as {"classes" if classes else "values"} are.'
    )
  return targets


def _check_classes(answers: np.ndarray, num_classes: int | None) -> int:
  """Checks that targets are classes; returns how many there are."""
  wrong = ~(answers >= 0) | (answers != np.floor(answers))  # NaN, too
  if np.any(wrong):
    raise ValueError(
      f'{_first("targets", wrong, answers)}: must be a class, a whole number '
      'from 0; np.unique(labels, return_inverse=True)[1] makes them of other '
      'labels, and with classes=False they are values.'
    )
  largest = int(answers.max())
  count = num_classes if num_classes is not None else largest + 1
  if num_classes is None and count < 2:
    raise ValueError(
      'targets: must be of at least 2 classes; all of them are class 0.'
    )
  found = np.unique(answers)
  if num_classes is None and len(found) < count:
    missing = int(np.setdiff1d(np.arange(count), found)[0])
    raise ValueError(
      f'targets: the largest is class {largest}, and none is class {missing}; '
      f'give num_classes={count} if that is so, or leave out by mask what is '
      'no class.'
    )
  if count < max(largest + 1, 2):
    raise ValueError(
      f'num_classes={num_classes}: must be at least {max(largest + 1, 2)}; the '
      f'largest target is class {largest}.'
    )
  return count


def _real(name: str, values: np.ndarray) -> np.ndarray:
  """The values as JAX's floats, if all of them are finite so."""
  with np.errstate(over='ignore'):
    real = values.astype(jnp.result_type(float))
  wrong = ~np.isfinite(real)
  if np.any(wrong):
    raise ValueError(
      f'{_first(name, wrong, values)}: must be a finite {real.dtype} where a '
      'step counts; leave steps out by mask or lengths.'
    )
  return real


def _first(name: str, wrong: np.ndarray, values: np.ndarray) -> str:
  """The first of the wrong values as an assignment, `inputs[3, 0]=nan`."""
  at = np.unravel_index(np.argmax(wrong), wrong.shape)
  return f'{name}[{", ".join(map(str, at))}]={values[at]}'
