# SPDX-License-Identifier: Apache-2.0
"""What recorded trials give away to an answer that reads no inputs."""

import numpy as np

from bionet_tasks.recorded.layouts import Recorded


def chance(
  recorded: Recorded, train: np.ndarray, judged: np.ndarray
) -> dict[str, float]:
  """The scores of the better of two answers that read no inputs.

  One is the same at all steps, the best there is for the trials that are
  judged: their shares of classes, or their mean. The other is one per step, of
  the training trials,

    p_t = (sum_n mask_nt target_nt + p) / (sum_n mask_nt + 1)

  with p that of all steps, and a class one-hot. So a network that only counts
  its steps is at chance, and a step that few trials ask says little.

  Args:
    recorded: all trials.
    train: numbers of the training trials.
    judged: numbers of the trials to score.

  Returns:
    `{metric: value}`, the better of the two for each metric: 'accuracy' and
    'loss' (nats) of classes, 'mse' and 'loss' of values.
  """
  constant = _mean(*_sums(recorded, judged))
  sums, weights = _sums(recorded, train)
  if recorded.is_classes:
    _check_trained(sums.sum(axis=0), constant)
  of_steps = (sums + _mean(sums, weights)) / (weights[:, None] + 1)
  scores = [
    _score(recorded, judged, answers)
    for answers in (np.broadcast_to(constant, of_steps.shape), of_steps)
  ]
  better = {'accuracy': max, 'loss': min, 'mse': min}
  return {
    metric: better[metric](score[metric] for score in scores)
    for metric in scores[0]
  }


def _check_trained(trained: np.ndarray, judged: np.ndarray) -> None:
  """Raises ValueError for a class that no training trial has."""
  (unknown,) = np.nonzero((judged > 0) & (trained == 0))
  if len(unknown):
    raise ValueError(
      f'held_out: class {unknown[0]} is asked for in held-out trials and in no '
      'training trial; hold out others, or choose another split.'
    )


def _sums(recorded: Recorded, rows: np.ndarray):
  """Weighted sums `[T, O]` of the targets, and the weights `[T]`, by step."""
  targets, mask = recorded.targets[rows], recorded.mask[rows].astype(float)
  if recorded.is_classes:
    sums = np.zeros((mask.shape[1], recorded.num_outputs))
    np.add.at(sums, (_steps(mask), targets), mask)
  else:
    sums = np.einsum('nt,nto->to', mask, targets.astype(float))
  return sums, mask.sum(axis=0)


def _mean(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
  return sums.sum(axis=0) / weights.sum()


def _score(recorded: Recorded, rows: np.ndarray, answers: np.ndarray):
  """The metrics where all trials are answered by `[T, O]`."""
  targets, mask = recorded.targets[rows], recorded.mask[rows].astype(float)
  if not recorded.is_classes:
    errors = np.mean((answers[None] - targets) ** 2, axis=-1)
    mse = float(np.sum(mask * errors) / len(rows))
    return {'mse': mse, 'loss': mse}
  hits = np.argmax(answers, axis=-1)[None] == targets
  # A step without weight may have a class of share 0.
  shares = np.where(mask > 0, answers[_steps(mask), targets], 1.0)
  return {
    'accuracy': float(np.sum(mask * hits) / len(rows)),
    'loss': float(-np.sum(mask * np.log(shares)) / len(rows)),
  }


def _steps(mask: np.ndarray) -> np.ndarray:
  """The number of the step, int `[n, T]`."""
  return np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
