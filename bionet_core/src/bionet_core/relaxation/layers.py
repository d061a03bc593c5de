# SPDX-License-Identifier: Apache-2.0
"""The layers of a relaxation network: what one row sends to another.

A layer on the edge `(i, j)` is a value: plain settings, and pure functions of
parameters (what learns) and constants (what does not: frozen weights, margins,
self-couplings). The layer on `(i, i)` is row i's own and also has the row's
activation; a field is the sum of the messages that reach a row.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_core.relaxation import rules

Size = int | tuple[int, ...]


class Layer(Protocol):
  """One edge. `out` is the receiving row's size: an int, or a shape."""

  @property
  def out(self) -> Size:
    """The size of the receiving row."""
    ...

  def init(
    self, key: jax.Array, sender_shape: tuple[int, ...]
  ) -> tuple[interfaces.ArrayTree, interfaces.ArrayTree]:
    """`(params, constants)` for a sender of that shape (without B)."""
    ...

  def weights(
    self, params: interfaces.ArrayTree, constants: interfaces.ArrayTree
  ) -> interfaces.ArrayTree:
    """What `message` multiplies by; computed once a phase, not once a sweep."""
    ...

  def message(
    self, weights: interfaces.ArrayTree, sender: jax.Array
  ) -> jax.Array:
    """The message float `[B, *out]` of a sender's state `[B, *shape]`."""
    ...


class RowLayer(Layer, Protocol):
  """A row's own layer, on `(i, i)`: it also says what the row becomes."""

  def activation(self, field: jax.Array) -> jax.Array:
    """The row's new state `[B, *out]` at a field `[B, *out]`."""
    ...


class LearnedLayer(Layer, Protocol):
  """An edge that learns: its `init` returns parameters."""

  def fan_in(self, sender_shape: tuple[int, ...]) -> int:
    """n_j, the number of senders a unit listens to."""
    ...

  def losses(
    self, constants: interfaces.ArrayTree, field: jax.Array, target: jax.Array
  ) -> jax.Array:
    """The edge's local loss `[B]` at a field and a target `[B, *out]`."""
    ...


def shape_of(size: Size) -> tuple[int, ...]:
  """A size as a shape: `256 -> (256,)`."""
  return (size,) if isinstance(size, int) else tuple(size)


def _dense(weight: jax.Array, sender: jax.Array, out: Size) -> jax.Array:
  flat = sender.reshape(sender.shape[0], -1)
  return (flat @ weight).reshape(sender.shape[0], *shape_of(out))


def _gaussian(key, sender_shape, out, strength):
  fan_in, fan_out = math.prod(sender_shape), math.prod(shape_of(out))
  return (
    jax.random.normal(key, (fan_in, fan_out)) * strength / math.sqrt(fan_in)
  )


@dataclasses.dataclass(frozen=True)
class FullyConnected:
  """Every unit of the sender to every unit of the receiver, no bias.

    message = x W,   W ~ N(0, 1) strength / sqrt(n_j)

  Learns by the perceptron rule with margin `threshold`.

  Attributes:
    out: size of the receiving row.
    strength: scale of the initial weights; acts at initialisation only.
    threshold: the margin that a unit's field is pushed past.
  """

  out: Size
  strength: float = 1.0
  threshold: float = 0.0

  def init(self, key, sender_shape):
    """Params `{w [n_j, n_i]}`, constants `{threshold []}`."""
    weight = _gaussian(key, sender_shape, self.out, self.strength)
    return {'w': weight}, {'threshold': jnp.float32(self.threshold)}

  def weights(self, params, constants):
    """W itself."""
    del constants
    return params['w']

  def message(self, weights, sender):
    """`x W`."""
    return _dense(weights, sender, self.out)

  def fan_in(self, sender_shape):
    """All units of the sender."""
    return math.prod(sender_shape)

  def losses(self, constants, field, target):
    """The margin loss of the perceptron rule."""
    return rules.perceptron(field, target, constants['threshold'])


@dataclasses.dataclass(frozen=True)
class FrozenFullyConnected:
  """As `FullyConnected`, but W is a constant: it never learns.

  Attributes:
    out: size of the receiving row.
    strength: scale of the weights.
  """

  out: Size
  strength: float = 1.0

  def init(self, key, sender_shape):
    """No params; constants `{w [n_j, n_i]}`."""
    return {}, {'w': _gaussian(key, sender_shape, self.out, self.strength)}

  def weights(self, params, constants):
    """W itself."""
    del params
    return constants['w']

  def message(self, weights, sender):
    """`x W`."""
    return _dense(weights, sender, self.out)


@dataclasses.dataclass(frozen=True)
class FrozenRescaledFullyConnected:
  """A frozen layer that sends labels rescaled by the number of classes C.

    message = (a y + b) W,  a + b = sqrt(C - 1) / 2,  b - a = -1 / sqrt(C - 1)

  so that the one +1 of a label weighs against its C - 1 entries of -1.

  Attributes:
    out: size of the receiving row.
    strength: scale of the weights.
  """

  out: Size
  strength: float = 1.0

  def init(self, key, sender_shape):
    """No params; constants `{w [C, n_i], a [], b []}`."""
    num_classes = math.prod(sender_shape)
    if num_classes < 2:
      raise ValueError(
        'rescaled labels need at least 2 classes; the sending row has '
        f'{num_classes} unit.'
      )
    high = math.sqrt(num_classes - 1) / 2
    low = -1 / math.sqrt(num_classes - 1)
    return {}, {
      'w': _gaussian(key, sender_shape, self.out, self.strength),
      'a': jnp.float32((high - low) / 2),
      'b': jnp.float32((high + low) / 2),
    }

  def weights(self, params, constants):
    """W, a and b."""
    del params
    return constants

  def message(self, weights, sender):
    """`(a y + b) W`."""
    rescaled = weights['a'] * sender + weights['b']
    return _dense(weights['w'], rescaled, self.out)


@dataclasses.dataclass(frozen=True)
class RecurrentDiscrete:
  """A row of binary units coupled by an asymmetric matrix.

    message = s J,   J_ij ~ N(0, 1) strength / sqrt(n) off the diagonal,
    J_ii = j_d fixed;   activation(h) = +1 where h >= 0 else -1

  The off-diagonal couplings learn by the perceptron rule with margin
  `threshold`; the self-coupling is a constant.

  Attributes:
    out: size of the row.
    j_d: self-coupling; it makes the row's states more stable.
    threshold: the margin of the couplings.
    strength: scale of the initial couplings; acts at initialisation only.
  """

  out: Size
  j_d: float
  threshold: float = 0.0
  strength: float = 1.0

  def init(self, key, sender_shape):
    """Params `{w [n, n]}` with a zero diagonal; constants j_d, threshold."""
    coupling = _gaussian(key, sender_shape, self.out, self.strength)
    return {'w': jnp.where(_diagonal(coupling), 0, coupling)}, {
      'j_d': jnp.float32(self.j_d),
      'threshold': jnp.float32(self.threshold),
    }

  def weights(self, params, constants):
    """J with j_d on its diagonal, whatever stands there in the parameters."""
    coupling = params['w']
    return jnp.where(_diagonal(coupling), constants['j_d'], coupling)

  def message(self, weights, sender):
    """`s J`."""
    return _dense(weights, sender, self.out)

  def activation(self, field):
    """The sign, +1 at a tie."""
    return jnp.where(field >= 0, 1.0, -1.0).astype(field.dtype)

  def fan_in(self, sender_shape):
    """All units of the row."""
    return math.prod(sender_shape)

  def losses(self, constants, field, target):
    """The margin loss of the perceptron rule."""
    return rules.perceptron(field, target, constants['threshold'])


def _diagonal(matrix: jax.Array) -> jax.Array:
  return jnp.eye(matrix.shape[0], dtype=bool)


@dataclasses.dataclass(frozen=True)
class OutputLayer:
  """The output row's own layer: sends nothing, passes scores on.

  Attributes:
    out: size of the row: the number of classes.
  """

  out: Size

  def init(self, key, sender_shape):
    """Neither params nor constants."""
    del key, sender_shape
    return {}, {}

  def weights(self, params, constants):
    """None."""
    del params, constants
    return ()

  def message(self, weights, sender):
    """Zeros."""
    del weights
    return jnp.zeros_like(sender)

  def activation(self, field):
    """The identity: a field of the output row is a score."""
    return field
