# SPDX-License-Identifier: Apache-2.0
"""When to stop early, and which evaluation was the best."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple


class EarlyStopping(NamedTuple):
  """Stops when a metric has not improved for a while.

  A value improves if it is better than the last that improved by more than
  `min_delta`. Both answers follow from the values alone, so nothing of it needs
  saving: a resumed run decides as the uninterrupted one does.

  Attributes:
    metric: the evaluation's metric.
    patience: evaluations without improvement after which training stops; 0:
      never.
    mode: which way is better.
    min_delta: the least improvement that counts.
  """

  metric: str
  patience: int = 0
  mode: Literal['min', 'max'] = 'max'
  min_delta: float = 0.0

  def check(self) -> 'EarlyStopping':
    """Itself.

    Raises:
      ValueError: for a setting that cannot be.
    """
    if self.mode not in ('min', 'max'):
      raise ValueError(f'mode={self.mode!r}: must be min or max.')
    for name, value in (
      ('patience', self.patience),
      ('min_delta', self.min_delta),
    ):
      if not value >= 0:
        raise ValueError(f'{name}={value}: must be 0 or more.')
    return self

  def best(self, values: Sequence[float]) -> int:
    """The number of the last value that improved; -1 for none. NaN does not."""
    best = -1
    for i in _numbers(values):
      if best < 0 or self._sign * (values[i] - values[best]) > self.min_delta:
        best = i
    return best

  def ranked(self, values: Sequence[float]) -> list[int]:
    """The numbers of the values but NaN: `best`, then the others by value."""
    best = self.best(values)
    return sorted(
      _numbers(values), key=lambda i: (i != best, -self._sign * values[i])
    )

  def stop(self, values: Sequence[float]) -> bool:
    """Whether patience is at an end after these values."""
    waited = len(values) - 1 - self.best(values)
    return bool(self.patience) and waited >= self.patience

  @property
  def _sign(self) -> int:
    return 1 if self.mode == 'max' else -1


def _numbers(values: Sequence[float]) -> list[int]:
  return [i for i, value in enumerate(values) if not math.isnan(value)]
