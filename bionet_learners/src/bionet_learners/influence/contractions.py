# SPDX-License-Identifier: Apache-2.0
"""Which rows reach a sum of products: dot products and convolutions.

Both factors hand their rows on, except where the other one is known to be 0.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from bionet_learners.influence import row_sets

Factor = tuple[np.ndarray, np.ndarray]
"""The sets of a factor, and where it may differ from 0."""


def dot(
  settings: dict[str, Any], left: Factor, right: Factor, store: row_sets.Sets
) -> np.ndarray:
  """The sets of a `dot_general`, flat in its free dimensions `[b, m, n]`."""
  (left_sums, right_sums), (left_batch, right_batch) = settings[
    'dimension_numbers'
  ]

  def matrices(array, batch, sums):
    """`[b, m, k]`: batch, free and summed dimensions."""
    free = [d for d in range(array.ndim) if d not in (*batch, *sums)]
    order = [*batch, *free, *sums]
    sizes = [
      int(np.prod([array.shape[d] for d in dims], dtype=int))
      for dims in (batch, free, sums)
    ]
    return array.transpose(order).reshape(sizes)

  left_sets, left_open = (matrices(x, left_batch, left_sums) for x in left)
  right_sets, right_open = (matrices(x, right_batch, right_sums) for x in right)
  return store.union(
    _product(left_sets, right_sets.shape[1], right_open, store),
    _product(right_sets, left_sets.shape[1], left_open, store).swapaxes(1, 2),
  )


def _product(
  sets: np.ndarray,
  size: int,
  other_open: np.ndarray,
  store: row_sets.Sets,
) -> np.ndarray:
  """The rows that come through one factor.

  Args:
    sets: int `[b, m, k]`, of this factor.
    size: n.
    other_open: bool `[b, n, k]`, where the other may differ from 0.
    store: the sets.

  Returns:
    Int `[b, m, n]`.
  """
  shape = (*sets.shape[:2], size)
  if other_open.all() or not sets.any():
    return np.broadcast_to(store.along(sets, (2,)), shape)
  result = np.zeros(shape, np.int32)
  for m in range(sets.shape[1]):
    passed = np.where(other_open, sets[:, m, None], 0)
    result[:, m] = store.along(passed, (2,))[:, :, 0]
  return result


def convolution(
  settings: dict[str, Any],
  left: Factor,
  right: Factor,
  shape: tuple[int, ...],
  store: row_sets.Sets,
) -> np.ndarray:
  """The sets of a `conv_general_dilated` of images (left) and kernels."""
  numbers = settings['dimension_numbers']
  images, images_open = (x.transpose(numbers.lhs_spec) for x in left)
  kernels, kernels_open = (x.transpose(numbers.rhs_spec) for x in right)
  out_shape = tuple(shape[d] for d in numbers.out_spec)
  features, batches = (
    settings['feature_group_count'],
    settings['batch_group_count'],
  )
  groups = features * batches  # one of them is 1
  out = np.zeros(out_shape, np.int32)
  ways = [
    _ways(*x)
    for x in zip(
      images.shape[2:],
      kernels.shape[2:],
      out_shape[2:],
      settings['window_strides'],
      [low for low, _ in settings['padding']],
      settings['lhs_dilation'],
      settings['rhs_dilation'],
      strict=True,
    )
  ]
  for group in range(groups):
    b = _part(images.shape[0], batches, group % batches)
    c = _part(images.shape[1], features, group % features)
    o = _part(out_shape[1], groups, group)
    parts = []
    for offset in itertools.product(*map(range, kernels.shape[2:])):
      places = [way[k] for way, k in zip(ways, offset, strict=True)]
      inside = _inside(places)
      if not inside.any():
        continue
      at = np.ix_(*[np.maximum(place, 0) for place in places])
      k = (o, slice(None), *offset)

      def seen(array, at=at, b=b, c=c):
        """`[b, p, c]`: what the kernel's element at the offset meets."""
        part = array[b, c][(slice(None), slice(None), *at)]
        return part.reshape(*part.shape[:2], -1).swapaxes(1, 2)

      # Batches and places are rows of one matrix, channels are summed over.
      image = seen(images)
      flat = image.reshape(1, -1, image.shape[2])
      flat_open = seen(images_open).reshape(flat.shape)
      part = store.union(
        _product(flat, kernels[k].shape[0], kernels_open[k][None], store),
        _product(kernels[k][None], flat.shape[1], flat_open, store).swapaxes(
          1, 2
        ),
      )
      part = part.reshape(*image.shape[:2], -1)  # [b, p, o]
      parts.append(np.where(inside.reshape(1, -1, 1), part, 0))
    if parts:
      united = store.along(np.stack(parts), (0,))[0].swapaxes(1, 2)
      out[:, o] = united.reshape(out[:, o].shape)
  return out.transpose(np.argsort(numbers.out_spec))


def windows(
  settings: dict[str, Any],
  sets: np.ndarray,
  shape: tuple[int, ...],
  store: row_sets.Sets,
) -> np.ndarray:
  """The sets of a `reduce_window`: of each window, all that is in it."""
  seen = [
    sets.ravel()[np.maximum(at, 0)] * (at >= 0)
    for at in _windows(settings, sets.shape, shape)
  ]
  return store.along(np.stack(seen), (0,))[0].reshape(shape)


def scattered(
  settings: dict[str, Any],
  sets: np.ndarray,
  shape: tuple[int, ...],
  store: row_sets.Sets,
) -> np.ndarray:
  """The sets of a `select_and_scatter_add`: of each place, its windows'."""
  size = int(np.prod(shape))
  places = list(_windows(settings, shape, sets.shape))
  sources = np.broadcast_to(sets.ravel(), (len(places), sets.size))
  return store.grouped(np.stack(places), sources, size).reshape(shape)


def _windows(
  settings: dict[str, Any], shape: tuple[int, ...], out_shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
  """For each offset in a window, where in a flat array each window has it.

  Yields:
    Int, flat `out_shape`; -1 beyond the borders.
  """
  ways = [
    _ways(*x)
    for x in zip(
      shape,
      settings['window_dimensions'],
      out_shape,
      settings['window_strides'],
      [low for low, _ in settings['padding']],
      settings.get('base_dilation', (1,) * len(shape)),
      settings.get('window_dilation', (1,) * len(shape)),
      strict=True,
    )
  ]
  for offset in itertools.product(*map(range, settings['window_dimensions'])):
    places = [way[k] for way, k in zip(ways, offset, strict=True)]
    flat = np.zeros((), int)
    for place, size in zip(places, shape, strict=True):
      flat = np.add.outer(flat * size, np.maximum(place, 0))
    yield np.where(_inside(places), flat, -1).ravel()


def _inside(places: list[np.ndarray]) -> np.ndarray:
  """Bool: which combinations of places, a dimension each, are in the image."""
  inside = np.ones((), bool)
  for place in places:
    inside = np.logical_and.outer(inside, place >= 0)
  return inside


def _part(size: int, parts: int, number: int) -> slice:
  return slice(number * size // parts, (number + 1) * size // parts)


def _ways(
  size: int,
  window: int,
  out_size: int,
  stride: int,
  padding: int,
  dilation: int,
  window_dilation: int,
) -> np.ndarray:
  """Int `[window, out_size]`: what each element of a window looks at.

  A place in the image, along one dimension; -1 beyond its borders and between
  its dilated elements.
  """
  place = (
    np.arange(out_size) * stride
    + np.arange(window)[:, None] * window_dilation
    - padding
  )
  seen = (place >= 0) & (place % dilation == 0) & (place // dilation < size)
  return np.where(seen, place // dilation, -1)
