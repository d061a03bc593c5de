# SPDX-License-Identifier: Apache-2.0
"""The trials of a product's traces, part by part.

Traces are large. On a CPU what is done with them is done for a few trials at a
time, which a core's cache holds, and in place; on an accelerator for all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import platforms
from bionet_learners.traces import unit_matrix

_CACHED = 2**18  # bytes of traces that a core's cache holds beside all else


class Parts(NamedTuple):
  """How trials are divided.

  Attributes:
    size: trials of a part.
    count: of parts.
  """

  size: int
  count: int

  @classmethod
  def of(cls, traces: unit_matrix.Vector) -> 'Parts':
    """Equal parts of some traces, `[B, ...]` each."""
    batch = traces[0].shape[0]
    if platforms.accelerated():
      return cls(batch, 1)
    most = max(1, _CACHED * batch // sum(e.nbytes for e in traces))
    size = max(n for n in range(1, min(batch, most) + 1) if batch % n == 0)
    return cls(size, batch // size)

  def take(self, tree: Any, part: Any, axis: int = 0) -> Any:
    """Of arrays with B at an axis, the trials of a part."""
    if self.count == 1:
      return tree
    start = part * self.size
    return jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, start, self.size, axis), tree
    )

  def put(self, tree: Any, new: Any, part: Any) -> Any:
    """Arrays that lead with B, with those of a part in their place."""
    if self.count == 1:
      return new
    start = part * self.size
    return jax.tree.map(
      lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0),
      tree,
      new,
    )

  def loop(
    self,
    body: Callable[[Any, Any], Any],
    carry: Any,
    needed: bool | jax.Array = True,
  ) -> Any:
    """`carry = body(part, carry)` for every part.

    Args:
      body: what is done for a part, by its number.
      carry: before the first part.
      needed: whether it is done at all.
    """
    if self.count == 1 and isinstance(needed, bool):
      return body(0, carry) if needed else carry
    rounds = self.count * jnp.asarray(needed, jnp.int32)
    return jax.lax.fori_loop(0, rounds, body, carry)


def once(number: jax.Array, tree: Any) -> Any:
  """The same tree of floats, which cannot be known before a number is `[]`.

  XLA would copy traces that are read and then updated in place, unless what
  updates them waits for what was read. Of a barrier nothing is left when it
  decides on copies; a zero of which it cannot tell that it is one remains.
  """
  zero = (0 * number).astype(jnp.int32)  # of NaN, too
  return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)


def packed(tree: Any) -> Any:
  """The bits of what is bfloat16, as uint16; all else as it is.

  XLA's CPU programs update no bfloat16 array in place: they make all of it
  float32 and back for the few trials of a part.
  """
  return _cast(tree, jnp.bfloat16, jnp.uint16)


def unpacked(tree: Any) -> Any:
  """What was packed."""
  return _cast(tree, jnp.uint16, jnp.bfloat16)


def _cast(tree, old, new):
  return jax.tree.map(
    lambda x: jax.lax.bitcast_convert_type(x, new) if x.dtype == old else x,
    tree,
  )


def sum_of_rows(x: jax.Array) -> jax.Array:
  """`jnp.sum(x, axis=0)`, in halves: on CPUs XLA's own takes tens of times."""
  while len(x) > 1:
    half = len(x) // 2
    # An odd row out goes to the first sum.
    first = x[:half].at[0].add(x[-1]) if len(x) % 2 else x[:half]
    x = first + x[half : 2 * half]
  return x[0]
