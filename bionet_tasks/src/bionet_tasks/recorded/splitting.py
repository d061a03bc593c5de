# SPDX-License-Identifier: Apache-2.0
"""Which recorded trials are learned from, and which are held out."""

import numpy as np
from numpy import typing as npt


def split(
  inputs: np.ndarray, held_out: float | npt.ArrayLike, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of the training trials, and of those held out.

  Args:
    inputs: `[N, ...]`. Equal ones go to one side.
    held_out: a share of the trials, drawn; or their numbers, int `[H]`; or
      which they are, bool `[N]`.
    seed: of the draw.

  Raises:
    ValueError: if a side would be empty, for numbers of no trial, or if inputs
      that are held out would be trained on.
  """
  if seed < 0:
    raise ValueError(f'split={seed}: must be 0 or more.')
  group = _groups(inputs)
  if np.ndim(held_out):
    judged = _numbers(held_out, group)
  else:
    judged = _drawn(group, held_out, seed)
  return np.setdiff1d(np.arange(len(group)), judged), judged


def _groups(inputs: np.ndarray) -> np.ndarray:
  """The group of each trial, int `[N]`: trials of equal inputs are one."""
  known: dict[bytes, int] = {}
  rows = np.ascontiguousarray(inputs + np.zeros((), inputs.dtype))  # -0 is 0
  return np.array([known.setdefault(x.tobytes(), len(known)) for x in rows])


def _drawn(group: np.ndarray, held_out, seed: int) -> np.ndarray:
  """Whole groups, up to the share of all trials."""
  share = float(held_out)
  if not 0 < share < 1:
    raise ValueError(
      f'held_out={share}: must be a share above 0 and below 1, or numbers of '
      'trials.'
    )
  sizes = np.bincount(group)
  if len(sizes) < 2:
    raise ValueError(
      f'inputs: must differ between trials; all {len(group)} are equal, and '
      'none of them can be held out.'
    )
  order = np.random.default_rng(seed).permutation(len(sizes))
  wanted = max(1, round(share * len(group)))
  count = int(np.sum(np.cumsum(sizes[order]) <= wanted))
  count = min(max(count, 1), len(sizes) - 1)  # neither side is empty
  return np.flatnonzero(np.isin(group, order[:count]))


def _numbers(held_out: npt.ArrayLike, group: np.ndarray) -> np.ndarray:
  """The numbers that are named, checked."""
  judged, last = np.asarray(held_out), len(group) - 1
  if judged.dtype == bool and judged.shape == group.shape:
    judged = np.flatnonzero(judged)
  fits = judged.ndim == 1 and np.issubdtype(judged.dtype, np.integer)
  if not fits or not 0 < len(judged) <= last:
    raise ValueError(
      f'held_out.shape={judged.shape}: must be a share, or the numbers of at '
      f'least 1 and at most {last} trials, int [H].'
    )
  wrong = (judged < 0) | (judged > last)
  if np.any(wrong):
    raise ValueError(
      f'held_out={judged[wrong][0]}: must be the number of a trial, from 0 to '
      f'{last}.'
    )
  if len(np.unique(judged)) < len(judged):
    raise ValueError('held_out: must name each trial once.')
  others = np.delete(group, judged)
  seen = judged[np.isin(group[judged], others)]
  if len(seen):
    raise ValueError(
      f'held_out={seen[0]}: must have other inputs than the trials that are '
      f'trained on; {len(seen)} of those held out have not.'
    )
  return judged
