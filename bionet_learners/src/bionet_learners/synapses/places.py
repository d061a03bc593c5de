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

from bionet_learners.synapses import program

ELEMENTWISE = frozenset(
  """
  abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e
  bessel_i1e cbrt ceil clamp conj convert_element_type copy copy_p cos cosh
  digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
  igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p
  log2 logistic lt lt_to max min mul ne neg nextafter not optimization_barrier
  or polygamma pow pvary random_gamma_grad real reduce_precision
  regularized_incomplete_beta rem round rsqrt select_n shift_left
  shift_right_arithmetic shift_right_logical sign sin sinh sqrt square sub tan
  tanh xor zeta
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

NO_DERIVATIVE = frozenset(
  'ceil floor is_finite nextafter round sign stop_gradient'.split()
)
"""Primitives whose derivative is zero everywhere: they carry no credit."""


class Places:
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

  def __eq__(self, other):
    if not isinstance(other, Places) or self.mixed != other.mixed:
      return NotImplemented if not isinstance(other, Places) else False
    return len(self.maps) == len(other.maps) and all(
      any(np.array_equal(m, n) for n in other.maps) for m in self.maps
    )

  __hash__ = None  # pyright: ignore[reportAssignmentType]

  def united(self, other: 'Places') -> 'Places':
    """What depends on the places of both."""
    return Places([*self.maps, *other.maps], self.mixed or other.mixed)


NOWHERE = Places()
"""The places of what does not depend on the source."""


def identity(shape: tuple[int, ...]) -> np.ndarray:
  """The map of a source to itself."""
  return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def spread(
  line: program.Line,
  operands: list[Places],
  ins: list[tuple[int, ...]],
  outs: list[tuple[int, ...]],
) -> list[Places]:
  """The places of a line's results, from those of its operands.

  Args:
    line: the operation.
    operands: the places of each operand.
    ins: the operands' shapes.
    outs: the results' shapes.
  """
  if not any(operands):
    return [NOWHERE] * len(outs)
  mixed = next((p.mixed for p in operands if p.mixed), None)
  if mixed:
    return [Places(mixed=mixed)] * len(outs)
  if line.name in ELEMENTWISE:
    if len(outs) > 1:  # optimization_barrier: one result per operand
      return operands
    return [
      Places([np.broadcast_to(m, outs[0]) for p in operands for m in p.maps])
    ]
  if line.name in STRUCTURAL:
    return _moved_all(line, operands, ins, outs)
  if line.name in program.CUSTOM:
    return _spread_custom(line, operands, ins, outs)
  if line.name == 'scan':
    return _spread_scan(line, operands, outs)
  return [Places(mixed=line.name)] * len(outs)


def spread_inside(
  inside: program.Program, operands: list[Places]
) -> list[Places]:
  """The places of a program's results, from those of its arguments."""
  known = [NOWHERE] * len(inside.shapes)
  for number, places in zip(inside.ins, operands, strict=True):
    known[number] = places
  for line in inside.lines:
    results = spread(
      line,
      [known[i] if isinstance(i, int) else NOWHERE for i in line.ins],
      [inside.shape(i) for i in line.ins],
      [inside.shapes[o] for o in line.outs],
    )
    for number, places in zip(line.outs, results, strict=True):
      if inside.floating(number) and line.name not in NO_DERIVATIVE:
        known[number] = places
  return [known[o] if isinstance(o, int) else NOWHERE for o in inside.outs]


def _spread_custom(line, operands, ins, outs) -> list[Places]:
  """Places through an operation that has a derivative of its own.

  Its value says nothing: a spike has no derivative but its surrogate's, and a
  custom_vjp may mix units backward that its value keeps apart.
  """
  if line.name == 'custom_jvp_call':
    moves, pushed = program.pushed(line)
    moving = [p for p, m in zip(operands, moves, strict=True) if m]
    nothing = [NOWHERE] * len(operands)
    return spread_inside(pushed, [*moving, *nothing])
  moves, pulled = program.pulled(line)
  results = [NOWHERE] * len(outs)
  # Only reverse mode knows the derivative: the cotangent of each result is
  # followed back to the operands, and must come from their own elements.
  for k, shape in enumerate(outs):
    cotangents = [
      Places([identity(s)]) if k == other else NOWHERE
      for other, s in enumerate(outs)
    ]
    back = iter(
      spread_inside(pulled, [*cotangents, *[NOWHERE] * len(operands)])
    )
    for at, places in enumerate(operands):
      through = next(back) if moves[at] else NOWHERE
      if not places or not through:
        continue
      # A cotangent that sums over elements is a unit that hears others.
      if through.mixed or ins[at] != shape:
        results[k] = Places(mixed=line.name)
        break
      for elements in through.maps:
        if not np.all((elements == identity(shape)) | (elements < 0)):
          results[k] = Places(mixed=line.name)
          break
        results[k] = results[k].united(
          Places([np.where(elements >= 0, m, -1) for m in places.maps])
        )
  return results


def _spread_scan(line, operands, outs) -> list[Places]:
  """Places through a loop whose body keeps them; what is scanned over mixes."""
  consts, carry = line.settings['num_consts'], line.settings['num_carry']
  # Each step of the loop takes another slice, so that no map holds for all.
  if any(operands[consts + carry :]):
    return [Places(mixed='scan')] * len(outs)
  inside = program.inner(line)
  known = list(operands[: consts + carry])
  nothing = [NOWHERE] * (len(inside.ins) - len(known))
  # To a fixed point: what one step of the loop mixes the next one takes on.
  while True:
    results = spread_inside(inside, [*known, *nothing])
    grown = [
      old.united(new)
      for old, new in zip(known[consts:], results[:carry], strict=True)
    ]
    if grown == known[consts:]:
      break
    known[consts:] = grown
  # One map per step of the loop cannot be told apart from the stacked outputs.
  stacked = [Places(mixed='scan') if r else NOWHERE for r in results[carry:]]
  return [*results[:carry], *stacked]


def _moved_all(line, operands, ins, outs) -> list[Places]:
  """Places through a structural operation, operand by operand."""
  results = [[] for _ in outs]
  for at, places in enumerate(operands):
    for elements in places.maps:
      # One operand at a time: the others come from nowhere, and -1 marks them.
      sources = [
        elements if other == at else np.full(shape, -1, np.int64)
        for other, shape in enumerate(ins)
      ]
      moved = _moved(line.name, line.settings, sources, outs)
      if moved is None:
        return [Places(mixed=line.name)] * len(outs)
      for result, new in zip(results, moved, strict=True):
        result.append(new)
  return [Places(result) for result in results]


def _moved(
  primitive: str,
  settings: dict[str, Any],
  maps: list[np.ndarray],
  shapes: list[tuple[int, ...]],
) -> list[np.ndarray] | None:
  """What a structural primitive makes of its operands' maps.

  Returns a map per result; None if the places depend on values.
  """
  first = maps[0]
  if primitive == 'broadcast_in_dim':
    wide = [1] * len(shapes[0])
    for axis, size in zip(
      settings['broadcast_dimensions'], first.shape, strict=True
    ):
      wide[axis] = size
    return [np.broadcast_to(first.reshape(wide), shapes[0])]
  if primitive in ('reshape', 'squeeze', 'expand_dims'):
    # An old form that transposes as well.
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
    return [np.concatenate(maps, axis=settings['dimension'])]
  if primitive == 'rev':
    return [np.flip(first, settings['dimensions'])]
  if primitive == 'pad':
    if (maps[1] >= 0).any():  # one value fills many places
      return None
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
