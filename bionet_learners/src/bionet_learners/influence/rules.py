# SPDX-License-Identifier: Apache-2.0
"""One operation: which rows reach its results, from its operands' rows."""

from typing import NamedTuple

import numpy as np

from bionet_learners.influence import (
  contractions,
  folding,
  operations,
  row_sets,
)
from bionet_learners.synapses import program


class Value(NamedTuple):
  """What there is to say of a value.

  Attributes:
    known: what of it is a constant, or None.
    sets: int, of its shape: the sets of rows that reach it; None for no rows.
  """

  known: folding.Known | None = None
  sets: np.ndarray | None = None


class Operand(NamedTuple):
  """An operand of a line that some row reaches.

  Attributes:
    known: what of it is a constant, or None.
    sets: int, of its shape: the sets of rows that reach it.
  """

  known: folding.Known | None
  sets: np.ndarray


def empty(shape: tuple[int, ...]) -> np.ndarray:
  """Int `shape`: no row reaches anything."""
  return np.zeros(shape, np.int32)


def everything(
  line: program.Line,
  ins: list[Operand],
  shapes: list[tuple[int, ...]],
  store: row_sets.Sets,
) -> list[np.ndarray]:
  """The rule for what no other covers: anything from anything.

  Args:
    line: the line.
    ins: its operands; all have sets.
    shapes: of its results.
    store: the sets.

  Returns:
    The sets of each result.
  """
  whole = spread([x.sets for x in ins], store)
  return [np.broadcast_to(whole, shape) for shape in shapes]


def spread(arrays: list[np.ndarray], store: row_sets.Sets) -> np.ndarray:
  """Int `[]`: the union of all sets in arrays."""
  whole = empty(())
  for sets in arrays:
    every = store.along(sets, tuple(range(sets.ndim))).reshape(())
    whole = store.union(whole, every)
  return whole


def _elementwise(line, ins, shapes, store):
  alike = operations.broadcasts([x.sets.shape for x in ins], shapes[0])
  if len(shapes) > 1 or not alike:
    return everything(line, ins, shapes, store)
  united = empty(shapes[0])
  for x in ins:
    united = store.union(united, x.sets)
  return [united]


def _each(line, ins, shapes, store):
  """Each result is the operand at its place."""
  return [x.sets for x in ins]


def _copy(line, ins, shapes, store):
  return operations.copied(line, [x.sets for x in ins])


def _reduction(line, ins, shapes, store):
  return [store.along(ins[0].sets, line.settings['axes']).reshape(shapes[0])]


def _cumulative(line, ins, shapes, store):
  axis, reverse = line.settings['axis'], line.settings['reverse']
  return [store.cumulative(ins[0].sets, axis, reverse)]


def _sort(line, ins, shapes, store):
  united = empty(shapes[0])
  for x in ins:
    united = store.union(united, x.sets)
  united = store.along(united, (line.settings['dimension'],))
  return [np.broadcast_to(united, shape) for shape in shapes]


def _select(line, ins, shapes, store):
  which, *cases = ins
  united = empty(shapes[0])
  for number, case in enumerate(cases):
    sets = case.sets
    if which.known is not None:
      other = which.known.where & (np.asarray(which.known.value) != number)
      sets = np.where(other, 0, sets)
    united = store.union(united, sets)
  return [store.union(united, which.sets)]


def _placed(line, ins, shapes, store):
  """A slice or a gather; along dimensions of unknown place, from anywhere."""
  operand, *places = ins
  if any(x.sets.any() for x in places):
    return everything(line, ins, shapes, store)
  opened = operations.open_dims(
    line, [x.sets.shape for x in ins], [_where(x) for x in places]
  )
  sets = store.along(operand.sets, opened)
  sets = np.broadcast_to(sets, operand.sets.shape)
  return operations.copied(line, [sets, *map(_place, places)])


def _update(line, ins, shapes, store):
  """A slice written over an operand: where the place is unknown, anywhere."""
  operand, update, *places = ins
  if any(x.sets.any() for x in places):
    return everything(line, ins, shapes, store)
  opened = operations.open_dims(
    line, [x.sets.shape for x in ins], [_where(x) for x in places]
  )
  starts = list(map(_place, places))
  if not opened:
    return operations.copied(line, [operand.sets, update.sets, *starts])
  sizes = list(update.sets.shape)
  for d in opened:
    sizes[d] = shapes[0][d]
  sets = np.broadcast_to(store.along(update.sets, opened), sizes)
  blank = empty(shapes[0])
  return [
    store.union(
      operand.sets, operations.copied(line, [blank, sets, *starts])[0]
    )
  ]


def _scatter(line, ins, shapes, store):
  operand, place, updates = ins
  if place.sets.any():
    return everything(line, ins, shapes, store)
  opened = operations.open_dims(
    line, [x.sets.shape for x in ins], [_where(place)]
  )
  to = operations.targets(
    line, operand.sets.shape, _place(place), updates.sets.shape
  )
  sets = operand.sets
  if line.name == 'scatter' and _where(place).all():
    sets = sets.copy()
    sets.ravel()[to[to >= 0]] = 0
  shape = [1 if d in opened else n for d, n in enumerate(operand.sets.shape)]
  if opened and operand.sets.size:
    coordinates = np.unravel_index(np.maximum(to, 0), operand.sets.shape)
    coordinates = [
      np.zeros_like(x) if d in opened else x for d, x in enumerate(coordinates)
    ]
    to = np.where(to < 0, -1, np.ravel_multi_index(coordinates, shape))
  size = int(np.prod(shape))
  written = store.grouped(to, updates.sets, size).reshape(shape)
  return [store.union(sets, written)]


def _where(place: Operand) -> np.ndarray:
  if place.known is None:
    return np.zeros(place.sets.shape, bool)
  return place.known.where


def _place(place: Operand) -> np.ndarray:
  """The place, and 0 where it is unknown."""
  if place.known is None:
    return empty(place.sets.shape)
  return np.where(place.known.where, place.known.value, 0).astype(np.int32)


def _dot(line, ins, shapes, store):
  left, right = map(_factor, ins)
  sets = contractions.dot(line.settings, left, right, store)
  return [sets.reshape(shapes[0])]


def _convolution(line, ins, shapes, store):
  images, kernels = map(_factor, ins)
  return [
    contractions.convolution(line.settings, images, kernels, shapes[0], store)
  ]


def _window(line, ins, shapes, store):
  return [contractions.windows(line.settings, ins[0].sets, shapes[0], store)]


def _scatter_windows(line, ins, shapes, store):
  if ins[1].sets.any():  # the operand chooses the place in each window
    return everything(line, ins, shapes, store)
  sets = contractions.scattered(line.settings, ins[0].sets, shapes[0], store)
  return [sets]


def _fourier(line, ins, shapes, store):
  """Along the last dimensions, each from all."""
  dims = range(-len(line.settings['fft_lengths']), 0)
  return [np.broadcast_to(store.along(ins[0].sets, tuple(dims)), shapes[0])]


def _factor(x: Operand) -> contractions.Factor:
  if x.known is None:
    return x.sets, np.broadcast_to(True, x.sets.shape)
  return x.sets, ~x.known.zeros


RULES = {
  **dict.fromkeys(operations.ELEMENTWISE, _elementwise),
  **dict.fromkeys(operations.COPIES, _copy),
  **dict.fromkeys(operations.REDUCTIONS, _reduction),
  **dict.fromkeys(operations.CUMULATIVE, _cumulative),
  **dict.fromkeys(operations.SCATTERS, _scatter),
  'conv_general_dilated': _convolution,
  'device_put': _each,
  'dot_general': _dot,
  'dynamic_slice': _placed,
  'dynamic_update_slice': _update,
  'fft': _fourier,
  'gather': _placed,
  'optimization_barrier': _each,
  'reduce_window_max': _window,
  'reduce_window_min': _window,
  'reduce_window_sum': _window,
  'select_and_scatter_add': _scatter_windows,
  'select_n': _select,
  'sort': _sort,
}
"""The rules that are exact, by primitive: (line, operands, shapes, store)."""
