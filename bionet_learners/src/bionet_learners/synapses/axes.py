# SPDX-License-Identifier: Apache-2.0
"""Which axis of each value counts the trials.

A product has a trace per trial only where the trials stand on an axis of the
data. `W h^T` has them on the last axis, `h W` on the first, and a layer that is
applied to every position of a trial (`hk.BatchApply`) on an axis that counts
positions, too.
"""

import math
from collections.abc import Sequence

from bionet_learners.synapses import places, program

Axis = tuple[int, int]
"""An axis, and how many successive entries of it belong to one trial."""


def of_trials(
  steps: program.Program,
  body: Sequence[program.Line],
  data: Sequence[int],
  batch: int,
) -> list[Axis | None]:
  """The axis of trials of each value; None where there is none.

  Args:
    steps: the step.
    body: its lines that depend on data.
    data: the values that lead with B.
    batch: B.
  """
  axes: list[Axis | None] = [None] * len(steps.shapes)
  for number in data:
    axes[number] = 0, 1
  for line in body:
    ins = [axes[i] if isinstance(i, int) else None for i in line.ins]
    for k, number in enumerate(line.outs):
      moved = _moved(steps, line, ins, k, batch)
      shape = steps.shapes[number]
      if moved is not None and moved[0] < len(shape):
        if shape[moved[0]] == batch * moved[1]:
          axes[number] = moved
  return axes


def _moved(steps, line, ins, k, batch) -> Axis | None:
  """Where a line leaves the axis of trials in its result k."""
  at = next((i for i, axis in enumerate(ins) if axis is not None), None)
  if at is None:
    return None
  (axis, repeat), shape = ins[at], steps.shape(line.ins[at])
  out = steps.shapes[line.outs[k]]
  if line.name in ('reshape', 'expand_dims', 'squeeze'):
    return _reshaped(axis, shape, out, batch)
  new = _moved_axis(steps, line, at, axis, out)
  return None if new is None else (new, repeat)


def _moved_axis(steps, line, at, axis, out) -> int | None:
  """The new place of an axis that a line does not change."""
  shape, settings = steps.shape(line.ins[at]), line.settings
  if line.name == 'broadcast_in_dim':
    return settings['broadcast_dimensions'][axis]
  if line.name == 'transpose':
    return settings['permutation'].index(axis)
  if line.name == 'dot_general':
    return _of_matrix(settings, at, axis, [steps.shape(i) for i in line.ins])
  if line.name == 'conv_general_dilated':
    return settings['dimension_numbers'].out_spec[0]
  if 'axes' in settings and len(out) < len(shape):  # a reduction
    return axis - sum(a < axis for a in settings['axes'])
  if line.name in (*places.ELEMENTWISE, *places.STRUCTURAL):
    return axis
  # Of another operation nothing is known but that it keeps leading axes: it is
  # applied to trials one by one, as under vmap.
  return axis if axis == 0 else None


def _reshaped(axis, shape, out, batch) -> Axis | None:
  """The axis of a reshaped array that begins where the old one did."""
  before = math.prod(shape[:axis])
  for new, size in enumerate(out):
    if math.prod(out[:new]) == before and size % batch == 0 and size:
      return new, size // batch
  return None


def _of_matrix(settings, at, axis, shapes) -> int | None:
  contracted, batched = settings['dimension_numbers']
  if axis in contracted[at]:
    return None
  if axis in batched[at]:
    return list(batched[at]).index(axis)
  free = [
    a
    for a in range(len(shapes[at]))
    if a not in (*contracted[at], *batched[at])
  ]
  # The result's axes are the shared ones, the left operand's, the right one's.
  left = len(shapes[0]) - len(contracted[0]) - len(batched[0]) if at else 0
  return len(batched[at]) + left + free.index(axis)
