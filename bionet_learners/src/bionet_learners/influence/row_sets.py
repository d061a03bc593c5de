# SPDX-License-Identifier: Apache-2.0
"""Many sets of rows, each stored once under a number."""

import numpy as np

_BYTES = 1 << 25
"""Bytes of sets that are united at once."""


class Sets:
  """A store of sets of rows.

  An array of values has one set per element, as an int32 array of the sets'
  numbers. Where many elements have the same set (all weights onto a unit), this
  takes 4 bytes per element whatever the number of rows R. Number 0 is the empty
  set. Equal sets have equal numbers.
  """

  def __init__(self, num_rows: int):
    """Starts with the empty set."""
    self._num_rows = num_rows
    width = (num_rows + 7) // 8
    self._packed = np.zeros((64, width), np.uint8)
    self._numbers = {bytes(width): 0}

  def singletons(self, first: int, shape: tuple[int, ...]) -> np.ndarray:
    """Int `shape`: the sets {first}, {first + 1}, ... of one row each."""
    size = int(np.prod(shape))
    rows = first + np.arange(size)
    packed = np.zeros((size, self._packed.shape[1]), np.uint8)
    packed[np.arange(size), rows // 8] = 128 >> rows % 8
    return self._number(packed).reshape(shape)

  def members(self) -> np.ndarray:
    """Bool `[C, R]`: the rows in each set, by its number."""
    packed = self._packed[: len(self._numbers)]
    return np.unpackbits(packed, axis=1, count=self._num_rows).astype(bool)

  def union(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The unions of two arrays of sets, element by element; they broadcast."""
    first, second = np.broadcast_arrays(first, second)
    united = np.where(first == 0, second, first)
    differ = (first != 0) & (second != 0) & (first != second)
    if differ.any():
      # Elements by the thousand unite the same few pairs of sets.
      pairs = first[differ] * np.int64(len(self._numbers)) + second[differ]
      pairs, which = np.unique(pairs, return_inverse=True)
      left, right = np.divmod(pairs, len(self._numbers))
      packed = self._packed[left] | self._packed[right]
      united[differ] = self._number(packed)[which]
    return united

  def along(self, sets: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The unions along axes, which stay with size 1."""
    axes = tuple(axis % sets.ndim for axis in axes)
    rest = [axis for axis in range(sets.ndim) if axis not in axes]
    shape = [1 if a in axes else sets.shape[a] for a in range(sets.ndim)]
    size = int(np.prod(shape))
    if sets.size == size:
      return sets
    groups = sets.transpose(*rest, *axes).reshape(size, -1)
    if groups.shape[1] == 0:
      return np.zeros(shape, np.int32)
    which = np.broadcast_to(np.arange(size)[:, None], groups.shape)
    return self.grouped(which, groups, size).reshape(shape)

  def grouped(
    self, groups: np.ndarray, sets: np.ndarray, num_groups: int
  ) -> np.ndarray:
    """Int `[num_groups]`: the union of the sets of each group.

    Args:
      groups: int, the group of each element, from 0; less is none.
      sets: int, of the same shape: the set of each element.
      num_groups: the number of groups.
    """
    used = (sets != 0) & (groups >= 0)
    pairs = groups[used] * np.int64(len(self._numbers)) + sets[used]
    which, members = np.divmod(np.unique(pairs), len(self._numbers))
    united = np.zeros(num_groups, np.int32)
    united[which] = members  # all, where a group has one set
    starts = np.flatnonzero(np.diff(which, prepend=-1))
    sizes = np.diff(starts, append=len(which))
    starts, sizes = starts[sizes > 1], sizes[sizes > 1]
    if not len(starts):
      return united
    pieces = 1 + len(starts) * self._packed.shape[1] // _BYTES
    for part in np.array_split(np.arange(len(starts)), pieces):
      packed = [
        np.bitwise_or.reduce(self._packed[members[start : start + size]])
        for start, size in zip(starts[part], sizes[part], strict=True)
      ]
      united[which[starts[part]]] = self._number(np.stack(packed))
    return united

  def cumulative(
    self, sets: np.ndarray, axis: int, reverse: bool
  ) -> np.ndarray:
    """The unions of each element and those before (or behind) on an axis."""
    packed = np.moveaxis(self._packed[sets], axis, 0)
    packed = packed[::-1] if reverse else packed
    packed = np.bitwise_or.accumulate(packed, axis=0)
    packed = packed[::-1] if reverse else packed
    packed = np.moveaxis(packed, 0, axis)
    return self._number(packed.reshape(sets.size, -1)).reshape(sets.shape)

  def _number(self, packed: np.ndarray) -> np.ndarray:
    """Int `[n]`: the numbers of packed sets `[n, width]`, new or known."""
    if not packed.size:
      return np.zeros(len(packed), np.int32)
    packed = np.ascontiguousarray(packed)
    whole = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    distinct, which = np.unique(whole, return_inverse=True)
    numbers = np.empty(len(distinct), np.int32)
    for i, members in enumerate(distinct):
      numbers[i] = self._numbers.setdefault(
        members.tobytes(), len(self._numbers)
      )
      if numbers[i] == len(self._packed):
        self._packed = np.concatenate(
          [self._packed, np.zeros_like(self._packed)]
        )
      self._packed[numbers[i]] = np.frombuffer(members, np.uint8)
    return numbers[which]
