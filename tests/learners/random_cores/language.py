# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D102 (operations that `Plain` documents are not documented anew)
"""The operations of a random core, and three ways to run a core's program.

A program is a function `program(ops) -> emission`. It reads inputs, parameters,
constants and the old state from `ops`, applies the operations of `ops`, and
hands each new state variable to `ops.new`.

  Plain    runs the program as ordinary JAX code: the step of the cell.
  Hooked   computes the same values, and scales chosen paths of the derivative:
           the reference. A factor of 0 is a stop-gradient.
  Reach    computes which element depends on which, by the rule of each
           operation: no derivative is taken and nothing is probed.

Arrays lead with B. An operand of lower rank is a parameter or a constant, whose
missing leading axes are added.
"""

import jax
import jax.numpy as jnp
import numpy as np


def with_rank(values):
  """The arrays, all of the highest rank among them; scalars stay scalars."""
  rank = max(jnp.ndim(x) for x in values)
  return [
    jnp.reshape(x, (1,) * (rank - jnp.ndim(x)) + jnp.shape(x))
    if jnp.ndim(x)
    else x
    for x in values
  ]


def scaled(value, factor):
  """The value, whose derivative is multiplied by `factor`."""
  still = jax.lax.stop_gradient(value)
  return still + factor * (value - still)


class Plain:
  """Runs a program as ordinary JAX code.

  Attributes:
    x: float `[B, I]`, the inputs.
    after: the new state variables, by name.
  """

  def __init__(self, params, constants, state, keys, inputs):
    self.x = inputs
    self.after = {}
    self._params, self._constants = params, constants
    self._state, self._keys = state, keys

  def param(self, name):
    return self._params[name]

  def constant(self, name):
    return self._constants[name]

  def old(self, name):
    return self._state[name]

  def new(self, name, value):
    self.after[name] = value
    return value

  def noise(self, number, size):
    """Positive factors `[B, size]`, drawn from the keys of this step."""

    def draw(key):
      key = jax.random.fold_in(key, number)
      return jax.random.uniform(key, (size,), self.x.dtype, 0.3, 1.3)

    return jax.vmap(draw)(self._keys)

  # Elementwise operations, and operations that move elements.

  def map(self, function, *values):
    return function(*with_rank(values))

  def stop(self, value):
    return jax.lax.stop_gradient(value)

  def one_hot(self, value):
    size = value.shape[-1]
    return jax.nn.one_hot(jnp.argmax(value, -1), size, dtype=value.dtype)

  def cat(self, values):
    return values[0] if len(values) == 1 else jnp.concatenate(values, -1)

  def part(self, value, start, stop, axis=-1):
    index = [slice(None)] * value.ndim
    index[axis] = slice(start, stop)
    return value[tuple(index)]

  def reshape(self, value, shape):
    """The shape of a trial becomes `shape`."""
    return value.reshape(-1, *shape)

  def column(self, value):
    """`[B]` as `[B, 1]`."""
    return value[:, None]

  def spread(self, value):
    """A value of the parameters alone, the same for every trial."""
    return jnp.broadcast_to(value, (self.x.shape[0], *value.shape))

  def tick(self, name):
    """Counts an integer state variable up, and returns the old one."""
    value = self.old(name)
    self.new(name, (value + 1) % 7)
    return value

  # Operations on parameters alone.

  def compose(self, left, right):
    return left @ right

  def transpose(self, weight):
    return weight.T

  def normed(self, weight):
    return weight / jnp.sqrt(jnp.sum(weight**2, axis=0, keepdims=True))

  def masked(self, weight, mask):
    """The weights times a constant mask."""
    return weight * mask

  def product(self, spec, data, weight):
    """Data meet a matrix, as `jnp.einsum(spec, data, weight)` would."""
    if spec == 'bi,ij->bj':
      return data @ weight
    if spec == 'bi,ji->bj':  # the weights stand on the left
      return (weight @ data.T).T
    return jnp.einsum(spec, data, weight)


class Hooked(Plain):
  """The same values, with hooks in the derivative.

  Attributes:
    data: of each product, the array that meets the weights.
    weights: of each product, `(spec, weights)`.
  """

  def __init__(self, args, settings, nudges, probes):
    """Runs with hooks.

    Args:
      args: the arguments of `Plain`.
      settings: `Settings`.
      nudges: an array per product, added to the product's output.
      probes: an array per state variable, added to the new value.
    """
    super().__init__(*args)
    self._settings, self._nudges, self._probes = settings, nudges, probes
    self.data, self.weights = [], []

  def new(self, name, value):
    if name in self._probes:
      old, new = self._settings['leak'][name], self._settings['new'][name]
      leaking = scaled(self.old(name), old) - jax.lax.stop_gradient(
        self.old(name)
      )
      value = scaled(value, new) + leaking + self._probes[name]
    self.after[name] = value
    return value

  def product(self, spec, data, weight):
    number = len(self.data)
    self.data.append(data)
    self.weights.append((spec, weight))
    if not self._nudges:
      return jnp.einsum(spec, data, weight)
    data = scaled(data, self._settings['data'][number])
    weight = scaled(weight, self._settings['weight'])
    return jnp.einsum(spec, data, weight) + self._nudges[number]


class Value:
  """What an array depends on.

  Attributes:
    depends: bool `[*shape, C]`, per element, by source.
    zero: bool `shape`, the elements that are zero whatever the sources are.
  """

  def __init__(self, depends, zero=None):
    self.depends = depends
    self.zero = np.zeros(depends.shape[:-1], bool) if zero is None else zero

  @property
  def shape(self):
    return self.depends.shape[:-1]


def _mixing(function, values) -> list[bool]:
  """Of each Value, whether its units hear each other in the backward pass.

  Seen at one point: of what is elementwise nothing comes from elsewhere.
  """
  shapes = [x.shape for x in values if isinstance(x, Value)]

  def of_values(*known):
    rest = iter(known)
    args = [next(rest) if isinstance(x, Value) else x for x in values]
    return function(*with_rank(args))

  out, pull = jax.vjp(of_values, *[jnp.full(shape, 0.3) for shape in shapes])
  if not jnp.issubdtype(out.dtype, jnp.inexact):
    return [False] * len(shapes)
  back = pull(jnp.zeros_like(out).at[..., 0].set(1.0))
  return [bool(x.ndim and np.any(x[..., 1:])) for x in back]


class Reach:
  """Computes which element depends on which; a trial's arrays, B = 1.

  Sources are numbered: elements of the parameters, of the old state, products,
  and new state variables.

  Attributes:
    after: the new state variables.
    entering: of each product, the sources of its data.
  """

  def __init__(self, layout, constants, local):
    """Starts.

    Args:
      layout: `Layout`.
      constants: concrete arrays, whose zeros count; by name.
      local: whether data pass no product.
    """
    self._layout, self._constants, self._local = layout, constants, local
    self.x = self._fixed((1, layout.num_inputs))
    self.after = {}
    self.entering = []

  def _fixed(self, shape):
    return Value(np.zeros((*shape, self._layout.num_sources), bool))

  def _source(self, start, shape):
    value = self._fixed(shape)
    size = int(np.prod(shape))
    flat = value.depends.reshape(size, -1)
    flat[np.arange(size), start + np.arange(size)] = True
    return value

  def param(self, name):
    return self._source(*self._layout.params[name])

  def constant(self, name):
    value = self._fixed(self._constants[name].shape)
    value.zero = np.asarray(self._constants[name]) == 0
    return value

  def old(self, name):
    if name not in self._layout.states:  # an integer
      return self._fixed((1,))
    start, shape = self._layout.states[name]
    return self._source(start, (1, *shape))

  def new(self, name, value):
    if name in self._layout.states:
      value = Value(value.depends.copy())
      value.depends[..., self._layout.new_sources[name]] = True
    self.after[name] = value
    return value

  def noise(self, number, size):
    return self._fixed((1, size))

  def map(self, function, *values):
    mixing = _mixing(function, values)
    values = [x for x in values if isinstance(x, Value)]
    rank = max(len(x.shape) for x in values)
    deep = [
      x.depends.reshape((1,) * (rank - len(x.shape)) + x.depends.shape)
      for x in values
    ]
    for k, mixes in enumerate(mixing):
      if mixes:
        some = np.any(deep[k], axis=-2, keepdims=True)
        deep[k] = np.broadcast_to(some, deep[k].shape)
    return Value(np.logical_or.reduce(np.broadcast_arrays(*deep)))

  def stop(self, value):
    return self._fixed(value.shape)

  def one_hot(self, value):
    return self._fixed(value.shape)

  def cat(self, values):
    return Value(np.concatenate([x.depends for x in values], -2))

  def part(self, value, start, stop, axis=-1):
    axis %= len(value.shape)
    index = (slice(None),) * axis + (slice(start, stop),)
    return Value(value.depends[index], value.zero[index])

  def reshape(self, value, shape):
    return Value(value.depends.reshape(-1, *shape, value.depends.shape[-1]))

  def column(self, value):
    return Value(value.depends[:, None])

  def spread(self, value):
    return Value(value.depends[None])

  def tick(self, name):
    return self.old(name)

  def compose(self, left, right):
    first = np.any(left.depends, axis=1)[:, None]
    second = np.any(right.depends, axis=0)[None]
    return Value(first | second)

  def transpose(self, weight):
    return Value(np.swapaxes(weight.depends, 0, 1), weight.zero.T)

  def normed(self, weight):
    column = np.any(weight.depends, axis=0, keepdims=True)
    return Value(np.broadcast_to(column, weight.depends.shape).copy())

  def masked(self, weight, mask):
    if not isinstance(mask, Value):
      zero = np.asarray(mask) == 0
    else:
      zero = mask.zero
    return Value(weight.depends & ~zero[..., None], zero)

  def product(self, spec, data, weight):
    number = len(self.entering)
    assert number < self._layout.num_products
    self.entering.append(
      np.any(data.depends.reshape(-1, data.depends.shape[-1]), axis=0)
    )
    ins, out = spec.split('->')
    left, right = ins.split(',')
    some = (~weight.zero).astype(int)
    depends = np.einsum(
      f'{left}Z,{right}->{out}Z', data.depends.astype(int), some
    )
    if self._local:
      depends = np.zeros_like(depends)
    ones = np.ones(data.shape, int)
    depends += np.einsum(
      f'{left},{right}Z->{out}Z', ones, weight.depends.astype(int)
    )
    depends[..., self._layout.products + number] = 1
    return Value(depends > 0)
