# SPDX-License-Identifier: Apache-2.0
"""What of a program's values follows from constants alone, element by element.

A 0 that is known cuts what it multiplies; a known index is a known way.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_learners.influence import operations
from bionet_learners.synapses import program

# What has no operands and is no constant, and what asks the world outside.
_NEVER = frozenset(
  """
  axis_index create_token debug_callback debug_print empty empty2 empty_ref
  ffi_call infeed io_callback new_ref pure_callback rng_uniform
  """.split()
)


class Known(NamedTuple):
  """What is known of a value.

  Attributes:
    value: an array; what it holds where nothing is known does not matter.
    where: bool, of the same shape: what is known.
  """

  value: Any
  where: np.ndarray

  @property
  def whole(self) -> bool:
    """Whether all of it is known."""
    return bool(self.where.all())

  @property
  def zeros(self) -> np.ndarray:
    """Bool: what is known to be 0."""
    if not _numeric(self.value):
      return np.zeros_like(self.where)
    return self.where & (np.asarray(self.value) == 0)


def constant(value: Any) -> Known:
  """A value that is known."""
  if isinstance(value, jax.Array) and not _numeric(value):
    return Known(value, np.ones(value.shape, bool))
  value = np.asarray(value, getattr(value, 'dtype', None))
  return Known(value, np.ones(value.shape, bool))


def fold(
  line: program.Line, lines: program.Program, ins: list[Known | None]
) -> list[Known | None]:
  """What is known of a line's results.

  Args:
    line: the line; it calls no jaxpr, or all of its operands are known.
    lines: the program it is in.
    ins: what is known of its operands.
  """
  nothing: list[Known | None] = [None] * len(line.outs)
  if line.name in _NEVER or not (ins or line.name == 'iota'):
    return nothing
  facts = [x for x in ins if x is not None]
  if len(facts) == len(ins) and all(x.whole for x in facts):
    return [constant(x) for x in line.bind([x.value for x in facts])]
  if not any(x.where.any() for x in facts):
    return nothing
  full = [
    x if x is not None else _nothing_of(lines, atom)
    for x, atom in zip(ins, line.ins, strict=True)
  ]
  if not all(_numeric(x.value) for x in full):
    return nothing
  return [
    x if x is not None and x.where.any() else None
    for x in _partly(line, lines, full)
  ]


def join(left: Known | None, right: Known | None) -> Known | None:
  """What is known of a value that is either one or the other."""
  if left is None or right is None:
    return None
  if not (_numeric(left.value) and _numeric(right.value)):
    return None
  where = left.where & right.where & (left.value == right.value)
  return Known(left.value, where) if where.any() else None


def stack(parts: list[Known | None]) -> Known | None:
  """What is known of the stack of values, on a new leading axis."""
  example = next((x for x in parts if x is not None), None)
  if example is None or not _numeric(example.value):
    return None
  blank = Known(np.zeros_like(example.value), np.zeros_like(example.where))
  facts = [blank if x is None else x for x in parts]
  return Known(
    np.stack([x.value for x in facts]), np.stack([x.where for x in facts])
  )


def fingerprint(fact: Known) -> bytes:
  """Equal for equal knowledge."""
  value = fact.value
  if not _numeric(value):
    value = jax.random.key_data(value)
  return np.asarray(value).tobytes() + fact.where.tobytes()


def _partly(
  line: program.Line, lines: program.Program, ins: list[Known]
) -> Sequence[Known | None]:
  """`fold`, where some operands are known, or some elements."""
  shapes = [lines.shapes[number] for number in line.outs]
  if line.name in operations.COPIES or line.name in operations.PLACED:
    places = operations.PLACED.get(line.name, slice(0))
    if all(x.whole for x in ins[places]):
      where = [x.where for x in ins]
      where[places] = [x.value for x in ins[places]]
      values = operations.copied(line, [x.value for x in ins])
      where = operations.copied(line, where)
      return list(map(Known, values, where))
  elif line.name in operations.SCATTERS:
    return [_combined(line, ins)]
  elif line.name in operations.ELEMENTWISE and len(shapes) == 1:
    return [_elementwise(line, ins, shapes[0])]
  elif line.name == 'select_n':
    return [_select(ins, shapes[0])]
  elif line.name in operations.REDUCTIONS:
    where = np.all(ins[0].where, axis=tuple(line.settings['axes']))
    value = line.bind([ins[0].value])[0]
    return [Known(np.asarray(value), np.asarray(where))]
  elif line.name in ('dot_general', 'conv_general_dilated'):
    # A sum of products is 0 if each of them has a factor that is known to be.
    weights = [np.float32(~x.zeros) for x in ins]
    plain = {'precision': None, 'preferred_element_type': np.dtype('float32')}
    counting = line._replace(settings={**line.settings, **plain})
    counts = counting.bind(weights)[0]
    value = np.zeros(shapes[0], lines.dtypes[line.outs[0]])
    return [Known(value, np.asarray(counts) == 0)]
  return [None] * len(line.outs)


def _elementwise(
  line: program.Line, ins: list[Known], shape: tuple[int, ...]
) -> Known | None:
  if not operations.broadcasts([x.where.shape for x in ins], shape):
    return None
  where = np.broadcast_to(True, shape)
  for x in ins:
    where = where & x.where
  value = np.asarray(line.bind([x.value for x in ins])[0])
  if line.name in ('mul', 'and'):
    decisive = [x.zeros for x in ins]  # 0 * anything
  elif line.name == 'div':
    decisive = [ins[0].zeros]
  elif line.name == 'or' and value.dtype == bool:
    decisive = [x.where & x.value for x in ins]
  else:
    decisive = []
  for sure in decisive:
    value = np.where(sure, value.dtype.type(line.name == 'or'), value)
    where = where | sure
  return Known(value, where)


def _combined(line: program.Line, ins: list[Known]) -> Known | None:
  """A scatter that adds to an operand, or the like."""
  operand, places, updates = ins
  if not places.whole:
    return None
  to = operations.targets(
    line, operand.where.shape, places.value, updates.where.shape
  )
  value = np.asarray(line.bind([x.value for x in ins])[0])
  where = np.array(operand.where)
  where.ravel()[to[~updates.where & (to >= 0)]] = False
  return Known(value, where)


def _select(ins: list[Known], shape: tuple[int, ...]) -> Known:
  which, *cases = ins
  chosen = np.broadcast_to(which.value, shape).astype(int)
  sure = np.broadcast_to(which.where, shape)
  value, where = cases[0].value, np.broadcast_to(True, shape)
  for case in cases:  # the same, whichever is chosen
    where = where & case.where & (case.value == value)
  for number, case in enumerate(cases):
    here = sure & (chosen == number)
    value = np.where(here, case.value, value)
    where = np.where(here, case.where, where)
  return Known(value, where)


def _nothing_of(lines: program.Program, atom: program.Atom) -> Known:
  shape = lines.shape(atom)
  dtype = lines.dtypes[atom] if isinstance(atom, int) else np.dtype(bool)
  if jnp.issubdtype(dtype, jax.dtypes.extended):
    return Known(None, np.zeros(shape, bool))
  return Known(np.zeros(shape, dtype), np.zeros(shape, bool))


def _numeric(value: Any) -> bool:
  """Whether a value holds numbers, and not keys of random numbers."""
  return value is not None and not jnp.issubdtype(
    value.dtype, jax.dtypes.extended
  )
