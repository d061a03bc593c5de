# SPDX-License-Identifier: Apache-2.0
"""Products of data with weights, in one normal form.

A matrix product, a block-diagonal one and a convolution are all

  [B, G P, m] [G, m, n] -> [B, G P, n]

G blocks with weights of their own (one for a plain layer), and P positions that
share the weights of a block (one for a plain layer, the pixels for a
convolution, whose data are its patches).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_learners.synapses import axes, places

PRIMITIVES = frozenset(('dot_general', 'conv_general_dilated'))


class Product(NamedTuple):
  """A product in its normal form.

  Attributes:
    batch: B.
    blocks: G.
    positions: P.
    inputs: m.
    outputs: n.
    data: from the operand to `[B, G P, m]`.
    weights: from the other operand to `[G, m, n]`; linear.
    output: from `[B, G P, n]` to the product's shape; linear.
  """

  batch: int
  blocks: int
  positions: int
  inputs: int
  outputs: int
  data: Callable[[jax.Array], jax.Array]
  weights: Callable[[jax.Array], jax.Array]
  output: Callable[[jax.Array], jax.Array]

  @property
  def shape(self) -> tuple[int, int]:
    """The shape of a trial's variables, `(G P, n)`."""
    return self.blocks * self.positions, self.outputs

  def places(self) -> np.ndarray:
    """The map of `[B, G P, n]` in the product's shape."""
    source = places.identity((self.batch, *self.shape))
    return np.asarray(self.output(source))  # pyright: ignore[reportArgumentType]


Form = tuple[Product | None, str | None]
"""A product's normal form, or else why it has none."""


def normal_form(
  primitive: str,
  settings: dict[str, Any],
  operand: int,
  shapes: list[tuple[int, ...]],
  out: tuple[int, ...],
  trials: axes.Axis | None,
) -> Form:
  """A product's normal form, or else why it has none.

  Args:
    primitive: one of `PRIMITIVES`.
    settings: its parameters.
    operand: which of its two operands the weights are.
    shapes: of the operands.
    out: the result's shape.
    trials: the axis of the data that counts trials, and how many of its entries
      belong to a trial, which are positions; None if no axis does.
  """
  if trials is None:
    return None, f'{primitive} (of data without an axis of trials)'
  if primitive == 'dot_general':
    return _of_matrix(settings, operand, shapes, trials)
  return _of_convolution(settings, operand, shapes, out, trials)


def _of_matrix(settings, operand, shapes, axis) -> Form:
  trials, repeat = axis
  contracted, batched = settings['dimension_numbers']
  data, weights = shapes[1 - operand], shapes[operand]
  summed, columns = list(contracted[1 - operand]), list(contracted[operand])
  shared, blocks = list(batched[1 - operand]), list(batched[operand])
  if trials in summed or trials in shared:
    return None, 'dot_general (that adds up or pairs trials)'
  # Positions would lie inside of the trials' axis, blocks outside of it.
  if repeat > 1 and shared:
    return None, 'dot_general (of blocks, at several positions of a trial)'
  spread = [a for a in range(len(data)) if a not in (*summed, *shared)]
  positions = [a for a in spread if a != trials]
  free = [a for a in range(len(weights)) if a not in (*columns, *blocks)]
  m, batch = math.prod(data[a] for a in summed), data[trials] // repeat
  n = math.prod(weights[a] for a in free)
  num_blocks = math.prod(data[a] for a in shared)
  num_positions = repeat * math.prod(data[a] for a in positions)
  # The result's axes are the blocks', the left operand's, the right one's. Each
  # is looked up in the normal order: trials, blocks, positions, outputs.
  # In the normal form outputs stand last; how many axes come before?
  rank = 1 + len(shared) + len(positions)
  of_data = [
    0 if a == trials else 1 + len(shared) + positions.index(a) for a in spread
  ]
  of_weights = [rank + k for k in range(len(free))]
  sides = [of_weights, of_data] if operand == 0 else [of_data, of_weights]
  order = [*range(1, 1 + len(shared)), *sides[0], *sides[1]]
  wide = [
    data[trials],
    *(data[a] for a in shared),
    *(data[a] for a in positions),
    *(weights[a] for a in free),
  ]
  product = Product(
    batch=batch,
    blocks=num_blocks,
    positions=num_positions,
    inputs=m,
    outputs=n,
    data=lambda x: jnp.transpose(
      x, [trials, *shared, *positions, *summed]
    ).reshape(batch, -1, m),
    weights=lambda w: jnp.transpose(w, [*blocks, *columns, *free]).reshape(
      num_blocks, m, n
    ),
    output=lambda x: x.reshape(wide).transpose(order),
  )
  return product, None


def _of_convolution(settings, operand, shapes, out, trials) -> Form:
  groups = settings['feature_group_count'], settings['batch_group_count']
  numbers = settings['dimension_numbers']
  if operand != 1 or groups != (1, 1):
    return None, 'conv_general_dilated (in groups)'
  if trials != (numbers.lhs_spec[0], 1):
    return None, 'conv_general_dilated (over trials)'
  kernel = shapes[1]
  rhs, result = numbers.rhs_spec, numbers.out_spec
  spatial = tuple(kernel[a] for a in rhs[2:])
  inner = tuple(out[a] for a in result[2:])
  n, m = kernel[rhs[0]], math.prod(spatial) * kernel[rhs[1]]

  def patches(x):
    # A convolution is a product of the patches: their traces are the kernel's.
    cut_out = jax.lax.conv_general_dilated_patches(
      jnp.transpose(x, numbers.lhs_spec),
      spatial,
      settings['window_strides'],
      settings['padding'],
      lhs_dilation=settings['lhs_dilation'],
      rhs_dilation=settings['rhs_dilation'],
    )
    return jnp.moveaxis(cut_out.reshape(out[result[0]], m, -1), 1, 2)

  def output(x):
    axes = [0] * len(out)  # where each axis of the result comes from
    axes[result[1]] = len(out) - 1
    for at, axis in enumerate(result[2:]):
      axes[axis] = 1 + at
    return x.reshape(-1, *inner, n).transpose(axes)

  product = Product(
    batch=out[result[0]],
    blocks=1,
    positions=math.prod(inner),
    inputs=m,
    outputs=n,
    data=patches,
    weights=lambda w: jnp.transpose(w, [rhs[1], *rhs[2:], rhs[0]]).reshape(
      1, m, n
    ),
    output=output,
  )
  return product, None
