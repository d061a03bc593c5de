# SPDX-License-Identifier: Apache-2.0
"""Products of data with weights, in one normal form.

A matrix product and a convolution are both `[B, P, m] [m, n] -> [B, P, n]`: P
positions share the weights, one for a plain layer, the pixels for a
convolution, whose data are its patches.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_learners.synapses import places

PRIMITIVES = frozenset(('dot_general', 'conv_general_dilated'))


class Product(NamedTuple):
  """A product in its normal form.

  Attributes:
    positions: P.
    inputs: m.
    outputs: n.
    data: from the operand to `[B, P, m]`.
    weights: from the other operand to `[m, n]`; linear.
    output: from `[B, P, n]` to the product's own shape.
    batch: B.
  """

  positions: int
  inputs: int
  outputs: int
  data: Callable[[jax.Array], jax.Array]
  weights: Callable[[jax.Array], jax.Array]
  output: Callable[[jax.Array], jax.Array]
  batch: int

  def places(self) -> np.ndarray:
    """The map of `[B, P, n]` in the product's own shape."""
    own = places.own((self.batch, self.positions, self.outputs))
    return np.asarray(self.output(own))  # pyright: ignore[reportArgumentType]


def normal_form(
  primitive: str,
  settings: dict[str, Any],
  operand: int,
  shapes: list[tuple[int, ...]],
  out: tuple[int, ...],
) -> Product | str:
  """A product's normal form, or the name of what has none.

  Args:
    primitive: one of `PRIMITIVES`.
    settings: its parameters.
    operand: which of its two operands the weights are.
    shapes: of the operands.
    out: the result's shape.
  """
  if primitive == 'dot_general':
    return _of_matrix(settings, operand, shapes, out)
  return _of_convolution(settings, operand, shapes, out)


def _of_matrix(settings, operand, shapes, out) -> Product | str:
  contracted, batched = settings['dimension_numbers']
  if any(len(axes) for axes in batched) or 0 in contracted[1 - operand]:
    return 'dot_general with batched weights'
  data, weights = shapes[1 - operand], shapes[operand]
  summed, columns = contracted[1 - operand], contracted[operand]
  kept = [a for a in range(len(data)) if a not in summed]
  free = [a for a in range(len(weights)) if a not in columns]
  m = math.prod(data[a] for a in summed)
  n = math.prod(weights[a] for a in free)
  positions = math.prod(data[a] for a in kept[1:])

  def normal_output(x):
    if operand == 0:  # the weights stand on the left
      return x.reshape(-1, n).T.reshape(out)
    return x.reshape(out)

  return Product(
    positions=positions,
    inputs=m,
    outputs=n,
    data=lambda x: jnp.transpose(x, [*kept, *summed]).reshape(
      x.shape[0], positions, m
    ),
    weights=lambda w: jnp.transpose(w, [*columns, *free]).reshape(m, n),
    output=normal_output,
    batch=data[0],
  )


def _of_convolution(settings, operand, shapes, out) -> Product | str:
  groups = settings['feature_group_count'], settings['batch_group_count']
  numbers = settings['dimension_numbers']
  if operand != 1 or groups != (1, 1):
    return 'a convolution in groups'
  kernel = shapes[1]
  rhs, result = numbers.rhs_spec, numbers.out_spec
  spatial = tuple(kernel[a] for a in rhs[2:])
  positions = math.prod(out[a] for a in result[2:])
  n, m = kernel[rhs[0]], math.prod(spatial) * kernel[rhs[1]]
  inner = tuple(out[a] for a in result[2:])

  def patches(x):
    cut = jax.lax.conv_general_dilated_patches(
      jnp.transpose(x, numbers.lhs_spec),
      spatial,
      settings['window_strides'],
      settings['padding'],
      lhs_dilation=settings['lhs_dilation'],
      rhs_dilation=settings['rhs_dilation'],
    )
    return jnp.moveaxis(cut.reshape(x.shape[numbers.lhs_spec[0]], m, -1), 1, 2)

  def normal_output(x):
    wide = x.reshape(x.shape[0], *inner, n)
    axes = [0] * len(out)  # where each axis of the result comes from
    axes[result[0]], axes[result[1]] = 0, len(out) - 1
    for at, axis in enumerate(result[2:]):
      axes[axis] = 1 + at
    return wide.transpose(axes)

  return Product(
    positions=positions,
    inputs=m,
    outputs=n,
    data=patches,
    weights=lambda w: jnp.transpose(w, [rhs[1], *rhs[2:], rhs[0]]).reshape(
      m, n
    ),
    output=normal_output,
    batch=out[result[0]],
  )
