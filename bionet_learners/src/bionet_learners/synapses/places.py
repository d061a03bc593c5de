# SPDX-License-Identifier: Apache-2.0
"""Where each element of an operation's result comes from.

A map of places is an int array of the result's shape: the flat position of the
one source element that each element depends on, or -1. Elementwise operations
keep places, structural ones (slices, splits, transposes) move them, and what
adds up several elements has no map at all.
"""

import math
from typing import Any

import numpy as np

ELEMENTWISE = frozenset(
  """
  abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp
  convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp
  exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt
  max min mul ne neg nextafter not optimization_barrier or pow pvary
  reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic
  shift_right_logical sign sin sinh sqrt square sub tan tanh xor
  """.split()
)
"""Primitives whose result's elements depend on the operands' own alone."""

STRUCTURAL = frozenset(
  """
  broadcast_in_dim concatenate dynamic_slice expand_dims pad reshape rev slice
  split squeeze transpose
  """.split()
)
"""Primitives that move elements and change none."""


def fitted(places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Places of an operand that an elementwise operation broadcasts."""
  return np.broadcast_to(places, shape)


def moved(
  primitive: str,
  settings: dict[str, Any],
  places: list[np.ndarray],
  shapes: list[tuple[int, ...]],
) -> list[np.ndarray] | None:
  """What a structural primitive makes of its operands' places.

  Args:
    primitive: its name.
    settings: its parameters.
    places: a map an operand; -1 where the operand does not depend.
    shapes: the results' shapes.

  Returns:
    A map a result; None if the places depend on values.
  """
  first = places[0]
  if primitive == 'broadcast_in_dim':
    axes = settings['broadcast_dimensions']
    wide = [1] * len(shapes[0])
    for axis, size in zip(axes, first.shape, strict=True):
      wide[axis] = size
    return [np.broadcast_to(first.reshape(wide), shapes[0])]
  if primitive in ('reshape', 'squeeze', 'expand_dims'):
    if settings.get('dimensions') is not None and primitive == 'reshape':
      return None
    return [first.reshape(shapes[0])]
  if primitive == 'transpose':
    return [np.transpose(first, settings['permutation'])]
  if primitive == 'slice':
    strides = settings['strides'] or (1,) * first.ndim
    begin, end = settings['start_indices'], settings['limit_indices']
    window = zip(begin, end, strides, strict=True)
    return [first[tuple(slice(b, e, s) for b, e, s in window)]]
  if primitive == 'split':
    borders = np.cumsum(settings['sizes'])[:-1]
    return list(np.split(first, borders, axis=settings['axis']))
  if primitive == 'concatenate':
    return [np.concatenate(places, axis=settings['dimension'])]
  if primitive == 'rev':
    return [np.flip(first, settings['dimensions'])]
  if primitive == 'pad':
    return _padded(first, settings['padding_config'], shapes[0])
  return None


def _padded(places, config, shape) -> list[np.ndarray] | None:
  if any(low < 0 or high < 0 for low, high, _ in config):
    return None
  out = np.full(shape, -1, places.dtype)
  inside = tuple(
    slice(low, low + (size - 1) * (gap + 1) + 1 if size else low, gap + 1)
    for (low, _, gap), size in zip(config, places.shape, strict=True)
  )
  out[inside] = places
  return [out]


def own(shape: tuple[int, ...]) -> np.ndarray:
  """The map of a source to itself."""
  return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def nowhere(shape: tuple[int, ...]) -> np.ndarray:
  """The map of what does not depend."""
  return np.full(shape, -1, np.int64)


class Several:
  """What an array has of one source: a few maps, or none that can be drawn.

  Attributes:
    maps: maps of places; an element depends on its place in each.
    mixed: the operation that added up several elements, or None.
  """

  def __init__(self, maps=(), mixed: str | None = None):
    self.mixed = mixed
    self.maps: list[np.ndarray] = []
    for new in () if mixed else maps:
      if (new >= 0).any() and not any(
        np.array_equal(new, old) for old in self.maps
      ):
        self.maps.append(new)

  def __bool__(self):
    return bool(self.maps) or self.mixed is not None
