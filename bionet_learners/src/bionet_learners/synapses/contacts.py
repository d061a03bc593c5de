# SPDX-License-Identifier: Apache-2.0
"""What a synapse is, and where a step has them."""

from typing import NamedTuple

import numpy as np

from bionet_learners.synapses import places, products, program, reading

OPAQUE = program.CUSTOM | {'scan'}
"""Lines with a program inside that may be elementwise as a whole."""


class Synapse(NamedTuple):
  """A place where parameters meet data.

  The synapse's variable is its output, `[B, G P, n]`, for a product in its
  normal form, and for elementwise operations the parameter itself, as it is
  broadcast to `[B, ...]`.

  Attributes:
    line: its line in the body.
    operand: which operand of the line is learned.
    weight: which of the prelude's learned values that is.
    operation: the primitive's name.
    product: the product's normal form; None if it is elementwise, or has none.
    obstacle: the operation of which no normal form is known; None otherwise.
    shape: a trial's variable: `(G P, n)`, or the parameter's broadcast shape.
    drives: `{leaf: int of shape}`: the unit of the leaf that each element
      drives without passing another product; -1 for none.
    through: bool of shape: which elements reach a state through a product,
      within the step or by way of a state at the next one: credit that no trace
      carries.
    emits: whether it reaches the emission.
  """

  line: int
  operand: int
  weight: int
  operation: str
  product: products.Product | None
  obstacle: str | None
  shape: tuple[int, ...]
  drives: dict[int, np.ndarray]
  through: np.ndarray
  emits: bool


def find(read: reading.Reading) -> list[Synapse]:
  """Where learned values meet data; what they drive is not known yet."""
  synapses = []
  for at, line in enumerate(read.body):
    for operand, number in enumerate(line.ins):
      if not isinstance(number, int) or read.kinds[number] != reading.LEARNED:
        continue
      # A comparison of parameters carries no derivative: it is no synapse.
      if not read.steps.floating(number):
        continue
      product, obstacle = None, None
      if read.mixes[at]:
        product, obstacle = _product(read, line, operand)
        shape = () if product is None else product.shape
      elif line.name in places.STRUCTURAL:
        obstacle, shape = _elementwise(read, line, number, number)
      elif line.name in places.ELEMENTWISE or line.name in OPAQUE:
        obstacle, shape = _elementwise(read, line, number, line.outs[0])
      else:
        # An embedding may stand below a product; it has no trace of its own.
        obstacle, shape = line.name, ()
      synapses.append(
        Synapse(
          line=at,
          operand=operand,
          weight=read.learned.index(number),
          operation=line.name,
          product=product,
          obstacle=obstacle,
          shape=shape,
          drives={},
          through=np.zeros(shape, bool),
          emits=False,
        )
      )
  return synapses


def _elementwise(
  read: reading.Reading, line: program.Line, number: int, like: int
) -> tuple[str | None, tuple[int, ...]]:
  """Why an elementwise operation has no variable per trial, and its shape.

  The variable has the shape of the value `like`, to which the parameter is
  broadcast.
  """
  shape, wide = read.steps.shapes[number], read.steps.shapes[like]
  if read.trials[line.outs[0]] != (0, 1):
    return f'{line.name} (of a value that begins with no axis of trials)', ()
  try:
    fits = np.broadcast_shapes(shape, wide) == wide
  except ValueError:
    fits = False
  return (None, wide[1:]) if fits else (line.name, ())


def _product(read, line, operand) -> products.Form:
  data = line.ins[1 - operand]
  return products.normal_form(
    line.name,
    line.settings,
    operand,
    [read.steps.shape(i) for i in line.ins],
    read.steps.shapes[line.outs[0]],
    read.trials[data] if isinstance(data, int) else None,
  )
