# SPDX-License-Identifier: Apache-2.0
"""A small matrix per unit: what the state variables of a unit do to each other.

A unit with s state variables (an LSTM's cell and output) has an s x s matrix.
It is kept as one array per pair of variables, with the units on the array's
axes: stacked in `[..., s, s]` a product would take four times as long.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp

from bionet_core import platforms

Vector = tuple[jax.Array, ...]
"""An array per state variable."""


class UnitMatrix(NamedTuple):
  """A matrix of arrays.

  Attributes:
    entries: `entries[i][j]` is what variable j does to variable i, of any
      shape that broadcasts with the others'.
  """

  entries: tuple[tuple[jax.Array, ...], ...]

  @classmethod
  def of(cls, entry: Callable[[int, int], jax.Array], size: int):
    """The matrix of `entry(i, j)`."""
    return cls(
      tuple(tuple(entry(i, j) for j in range(size)) for i in range(size))
    )

  def map(self, function: Callable[[jax.Array], jax.Array]) -> 'UnitMatrix':
    """The matrix of `function(entry)`."""
    return UnitMatrix(tuple(tuple(map(function, row)) for row in self.entries))

  def identity(self) -> 'UnitMatrix':
    """The identity, in the shape of this matrix."""
    return UnitMatrix.of(
      lambda i, j: (jnp.ones_like if i == j else jnp.zeros_like)(
        self.entries[i][j]
      ),
      len(self.entries),
    )

  @overload
  def __matmul__(self, other: 'UnitMatrix') -> 'UnitMatrix': ...

  @overload
  def __matmul__(self, other: Vector) -> Vector: ...

  def __matmul__(self, other):
    """The product with a UnitMatrix, or with a Vector."""
    # A Vector is a plain tuple, so that it has no class to be told by.
    if isinstance(other, UnitMatrix):
      columns = tuple(zip(*other.entries, strict=True))
      return UnitMatrix(
        tuple(tuple(_dot(row, col) for col in columns) for row in self.entries)
      )
    return tuple(_dot(row, other) for row in self.entries)


def _dot(row: Sequence[jax.Array], column: Sequence[jax.Array]) -> jax.Array:
  # Written out: s is 1 to 3, and XLA fuses the sum into what reads it.
  products = [a * b for a, b in zip(row, column, strict=True)]
  return sum(products[1:], products[0])


def suffix_products(decay: UnitMatrix) -> tuple[UnitMatrix, UnitMatrix]:
  """The products of a window's matrices.

    total = D_K ... D_1,   suffix_k = D_K ... D_{k+1}

  Args:
    decay: D_1 to D_K; entries lead with K.

  Returns:
    The total, and the suffixes, whose entries lead with K.
  """

  def back(product, d):
    return product @ d, product

  # Backward in time, so that each step finds the product of those after it.
  start = decay.map(lambda x: x[0]).identity()
  return platforms.scan(back, start, decay, reverse=True)
