# SPDX-License-Identifier: Apache-2.0
"""JAX's primitives by how their results' elements stem from their operands'.

What is on no list may take anything from anything. A table in the tests goes
through the primitives of the installed JAX.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bionet_learners.synapses import program

ELEMENTWISE = frozenset(
  """
  abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e
  bessel_i1e cbrt ceil clamp clz complex conj convert_element_type copy copy_p
  cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1
  floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite
  layout_constraint le le_to lgamma log log1p log2 logistic lt lt_to max min
  mul mulhi name ne neg nextafter not or polygamma population_count pow pvary
  real reduce_precision regularized_incomplete_beta rem reshard round rsqrt
  sharding_constraint shift_left shift_right_arithmetic shift_right_logical
  sign sin sinh sqrt square stage stop_gradient sub tan tanh xor zeta
  """.split()
)
"""Each element of the result stems from the operands' elements at its place."""

REDUCTIONS = frozenset(
  """
  argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod
  reduce_sum reduce_xor
  """.split()
)
"""Each element stems from those along the axes that the result lacks."""

CUMULATIVE = frozenset('cumlogsumexp cummax cummin cumprod cumsum'.split())
"""Each element stems from those before it on an axis, and itself."""

COPIES = frozenset(
  """
  broadcast_in_dim concatenate pad reshape rev slice split squeeze stack tile
  transpose unstack
  """.split()
)
"""Each element is a copy of one element of the operands."""

PLACED = {
  'dynamic_slice': slice(1, None),
  'dynamic_update_slice': slice(2, None),
  'gather': slice(1, 2),
  'scatter': slice(1, 2),
}
"""Copies from or to a place that operands hold: which of them, by name."""

SCATTERS = frozenset(
  'scatter scatter-add scatter-max scatter-min scatter-mul scatter-sub'.split()
)
"""An operand with updates, written over it or combined with it."""


def _broadcast(x: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
  shape = np.ones(len(settings['shape']), int)
  shape[list(settings['broadcast_dimensions'])] = x.shape
  return np.broadcast_to(x.reshape(shape), settings['shape'])


def _pad(
  x: np.ndarray, filling: np.ndarray, settings: dict[str, Any]
) -> np.ndarray:
  places, sizes = [], []
  for size, (low, high, between) in zip(
    x.shape, settings['padding_config'], strict=True
  ):
    places.append(low + np.arange(size) * (between + 1))
    sizes.append(low + max(size + (size - 1) * between, 0) + high)
  inside = [
    np.flatnonzero((place >= 0) & (place < size))
    for place, size in zip(places, sizes, strict=True)
  ]
  padded = np.full(sizes, filling, x.dtype)
  to = [place[i] for place, i in zip(places, inside, strict=True)]
  padded[np.ix_(*to)] = x[np.ix_(*inside)]
  return padded


def _slice(x: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
  starts, ends = settings['start_indices'], settings['limit_indices']
  steps = settings['strides'] or (1,) * x.ndim
  return x[tuple(map(slice, starts, ends, steps))]


# XLA compiles each of these anew for each shape; NumPy does not.
_IN_NUMPY: dict[str, Callable[[list[np.ndarray], dict[str, Any]], Any]] = {
  'broadcast_in_dim': lambda x, settings: _broadcast(x[0], settings),
  'concatenate': lambda x, settings: np.concatenate(x, settings['dimension']),
  'pad': lambda x, settings: _pad(x[0], x[1], settings),
  'reshape': lambda x, settings: x[0].reshape(settings['new_sizes']),
  'rev': lambda x, settings: np.flip(x[0], settings['dimensions']),
  'slice': lambda x, settings: _slice(x[0], settings),
  'squeeze': lambda x, settings: x[0].squeeze(settings['dimensions']),
  'transpose': lambda x, settings: x[0].transpose(settings['permutation']),
}


def broadcasts(shapes: list[tuple[int, ...]], shape: tuple[int, ...]) -> bool:
  """Whether operands of these shapes meet element by element in a result."""
  try:
    return np.broadcast_shapes(*shapes, shape) == shape
  except ValueError:
    return False


def copied(line: program.Line, operands: list[np.ndarray]) -> list[np.ndarray]:
  """A line of `COPIES` or `PLACED`, on labels in place of its values.

  Args:
    line: the line.
    operands: bools or labels from 0, but where `PLACED` says places: those.

  Returns:
    The results. What a gather fills in beyond the borders is 0.
  """
  settings = line.settings
  if line.name in _IN_NUMPY:
    return [_IN_NUMPY[line.name](operands, settings)]
  if 'fill_value' in settings:
    line = line._replace(settings={**settings, 'fill_value': 0})
  return [np.asarray(x) for x in line.bind(list(operands))]


def targets(
  line: program.Line,
  operand_shape: tuple[int, ...],
  places: np.ndarray,
  updates_shape: tuple[int, ...],
) -> np.ndarray:
  """Where each update of a line of `SCATTERS` goes.

  Returns:
    Int `updates_shape`: positions in the flat operand; -1 for nowhere.
  """
  numbers = line.settings['dimension_numbers']
  paired = numbers.inserted_window_dims, numbers.operand_batching_dims
  windows = iter(numbers.update_window_dims)
  sizes = [
    1 if d in paired[0] or d in paired[1] else updates_shape[next(windows)]
    for d in range(len(operand_shape))
  ]
  positions = np.arange(np.prod(operand_shape, dtype=int), dtype=np.int32)
  return np.asarray(
    jax.lax.gather(
      positions.reshape(operand_shape),
      places,
      jax.lax.GatherDimensionNumbers(
        offset_dims=numbers.update_window_dims,
        collapsed_slice_dims=numbers.inserted_window_dims,
        start_index_map=numbers.scatter_dims_to_operand_dims,
        operand_batching_dims=numbers.operand_batching_dims,
        start_indices_batching_dims=numbers.scatter_indices_batching_dims,
      ),
      slice_sizes=sizes,
      mode=line.settings['mode'],
      fill_value=-1,
    )
  )


def open_dims(
  line: program.Line,
  shapes: list[tuple[int, ...]],
  where: list[np.ndarray],
) -> tuple[int, ...]:
  """The dimensions of the operand on which the place is unknown.

  Args:
    line: of `PLACED` or `SCATTERS`.
    shapes: of its operands.
    where: bool, of its operands that are places: what of them is known.

  Returns:
    The dimensions; where what moves fills one whole, its place is known.
  """
  if line.name.startswith('dynamic'):
    known = [bool(x.all()) for x in where]
    dims = range(len(shapes[0]))
    sizes = line.settings.get('slice_sizes', shapes[1])
  else:
    numbers = line.settings['dimension_numbers']
    if line.name == 'gather':
      dims, sizes = numbers.start_index_map, line.settings['slice_sizes']
    else:
      dims, sizes = numbers.scatter_dims_to_operand_dims, [-1] * len(shapes[0])
    known = [bool(where[0][..., i].all()) for i in range(len(dims))]
  return tuple(
    d
    for d, sure in zip(dims, known, strict=True)
    if not sure and sizes[d] != shapes[0][d]
  )
