# SPDX-License-Identifier: Apache-2.0
"""The states of all rows of a relaxation network."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp

from bionet_core.relaxation import layers

if TYPE_CHECKING:  # type checkers do not know that chex's is a dataclass
  _dataclass = dataclasses.dataclass
else:
  _dataclass = functools.partial(chex.dataclass, mappable_dataclass=False)


@_dataclass(frozen=True, kw_only=True)
class SequentialState:
  """Buffers `s_0 .. s_L`; row -1 is the output.

  Attributes:
    buffers: float `[B, *size_i]`, one a row.
  """

  buffers: tuple[jax.Array, ...]

  @classmethod
  def init(
    cls,
    sizes: Sequence[layers.Size],
    x: jax.Array,
    y: jax.Array | None = None,
  ) -> 'SequentialState':
    """Zeros, with the input (and the label, if given) written in.

    Args:
      sizes: the sizes of rows 0 to L, ints or shapes.
      x: inputs float `[B, *sizes[0]]`.
      y: labels float `[B, *sizes[-1]]`, clamped to the output row; or None.

    Raises:
      ValueError: if x or y does not fit, naming the row.
    """
    shapes = [layers.shape_of(size) for size in sizes]
    batch = x.shape[0]
    _check_row(0, x, (batch, *shapes[0]))
    buffers = [x, *(jnp.zeros((batch, *s), x.dtype) for s in shapes[1:])]
    if y is not None:
      _check_row(len(shapes) - 1, y, (batch, *shapes[-1]))
      buffers[-1] = y.astype(x.dtype)
    return cls(buffers=tuple(buffers))

  def __getitem__(self, row: int) -> jax.Array:
    return self.buffers[row]

  def __len__(self) -> int:
    return len(self.buffers)

  def at_row(self, row: int, value: jax.Array) -> 'SequentialState':
    """A state with that row replaced; the shape may not change."""
    row = range(len(self.buffers))[row]
    _check_row(row, value, self.buffers[row].shape)
    return SequentialState(
      buffers=(*self.buffers[:row], value, *self.buffers[row + 1 :])
    )


def _check_row(row: int, value: jax.Array, shape: tuple[int, ...]) -> None:
  if value.shape != shape:
    raise ValueError(
      f'row {row} has shape {shape} (batch first); got {value.shape}.'
    )
