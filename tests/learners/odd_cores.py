# SPDX-License-Identifier: Apache-2.0
"""Cores of unusual form, and a problem for them.

Every core is a step `(p, x, s, heard)`: `heard` is the state where it enters a
product whose output comes back to the same units. The cell passes its state as
both, or stops the second.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces

T, B, I, N, O = 7, 3, 4, 5, 2
stop = jax.lax.stop_gradient


def zeros(*sizes):
  """An initial state of one leaf per size; one leaf alone is no tuple."""

  def state(batch):
    leaves = tuple(jnp.zeros((batch, size)) for size in sizes)
    return leaves if len(leaves) > 1 else leaves[0]

  return state


ONE_LAYER = zeros(N)


@dataclasses.dataclass(frozen=True)
class Core:
  """A core and what must hold of it.

  Attributes:
    step: `(p, x, s, heard) -> (emission, state)`.
    shapes: of its parameters.
    state: from B to the initial state.
    emission: N of the emission.
    within: parameters whose credit stays within a window.
    refused: what rules on synapses say of it; None: they run.
    refuses_filter: what e_prop with a filter says of it; None: it runs.
  """

  step: Callable[..., Any]
  shapes: dict[str, tuple[int, ...]]
  state: Callable[[int], Any] = ONE_LAYER
  emission: int = N
  within: tuple[str, ...] = ()
  refused: str | None = None
  refuses_filter: str | None = None

  def cell(self, *, stopped=False):
    """The cell; or the one whose products hear a stopped state."""

    def init(key, inputs):
      keys = jax.random.split(key, len(self.shapes) + 1)
      params = {
        name: 0.6 * jax.random.normal(k, shape, inputs.dtype)
        for (name, shape), k in zip(self.shapes.items(), keys[1:], strict=True)
      }
      size = (self.emission, O)
      params['readout'] = jax.random.normal(keys[0], size, inputs.dtype)
      return params, {}

    def step(params, constants, state, keys, inputs):
      del constants, keys
      heard = jax.tree.map(stop, state) if stopped else state
      return self.step(params, inputs, state, heard)

    return interfaces.Cell(
      init,
      lambda constants, keys: self.state(keys.shape[0]),
      step,
      lambda params, constants, emission: emission @ params['readout'],
    )


def same(new):
  """What emits its state."""
  return new, new


def delayed_leaf(p, x, s, heard):
  return s[1], (0.8 * s[0] + x @ p['w'], s[0])


def argmax_fed_back(p, x, s, heard):
  """Emission is a product, and its argmax comes back: no derivative does."""
  h, last = s
  h = 0.8 * h + x @ p['w'] + jax.nn.one_hot(last, 3, dtype=x.dtype) @ p['v']
  emission = h @ p['q']
  return emission, (h, jnp.argmax(emission[:, :3], axis=-1))


def of_parameters_alone(p, x, s, heard):
  level = jnp.broadcast_to(jnp.tanh(p['th']), s[1].shape)
  return s[0] * s[1], (0.7 * s[0] + x @ p['w'] + s[1], level)


def hears_the_step_before(p, x, s, heard):
  low, high = s
  high = 0.7 * high + jnp.tanh(low @ p['v'])
  return high, (0.8 * low + x @ p['w'], high)


def hear_each_other(p, x, s, heard):
  a, b = s
  new_a = 0.8 * a + jnp.tanh(x @ p['w'] + b @ p['ba'])
  new_b = 0.7 * b + jnp.tanh(a @ p['ab'])
  return new_b, (new_a, new_b)


def integer_clock(p, x, s, heard):
  h, t = s
  phase = t[:, None] % (p['period'] ** 2 + 1.5)
  h = jnp.sin(phase / 3) * h + x @ p['w']
  return h, (h, t + 1)


def float_clock(p, x, s, heard):
  h, t = s
  h = jnp.sin(t[:, None] * p['f']) * h + x @ p['w']
  return h, (h, t + 1)


def split_in_two(p, x, s, heard):
  y = jnp.concatenate([x, *heard], axis=-1) @ p['w']
  a = 0.8 * s[0] + jnp.tanh(y[:, :4])
  b = 0.6 * s[1] + jnp.tanh(y[:, 4:])
  return jnp.concatenate([a, b], axis=-1), (a, b)


def two_layers(p, x, s, heard):
  a = 0.8 * s[0] + jnp.tanh(x @ p['w'] + heard[0] @ p['ra'])
  b = 0.6 * s[1] + jnp.tanh(x @ p['v'] + heard[1] @ p['rb'])
  return a, b


def layers_added_up(p, x, s, heard):
  a, b = two_layers(p, x, s, heard)
  return a * b + jnp.sin(s[0]), (a, b)


def leaky_readout(p, x, s, heard):
  """Gathers two layers, and a product that one of them hears elsewhere."""
  a, b = two_layers(p, x, s, heard)
  y = x @ p['u']
  a = a + jnp.tanh(y[:, :N])
  z = 0.7 * s[2] + jnp.concatenate([s[0][:, ::-1], b * s[1]], axis=-1)
  z = z + jnp.concatenate([y[:, :N], jnp.sin(y[:, N:])], axis=-1)
  return z, (a, b, z)


def weights_on_the_left(p, x, s, heard):
  return same(0.5 * s + jnp.tanh((p['r'] @ heard.T).T + x @ p['w']))


def blocks(p, x, s, heard):
  parts = jnp.einsum('bgi,gij->bgj', heard.reshape(-1, 2, 3), p['r'])
  return same(0.5 * s + jnp.tanh(parts.reshape(-1, 6) + x @ p['w']))


def logaddexp(p, x, s, heard):
  drive = jnp.logaddexp(x @ p['w'] + heard @ p['r'], p['b'])
  return same(0.5 * s + drive)


def loop_inside(p, x, s, heard):
  def relax(c, _):
    return 0.7 * c + 0.1 * jnp.tanh(c) + p['b'], None

  s, _ = jax.lax.scan(relax, s, None, length=3)
  return same(s + x @ p['w'] + jnp.tanh(heard @ p['r']))


@jax.custom_vjp
def mixes_backward(x):
  """Elementwise; its derivative is not."""
  return jnp.tanh(x)


mixes_backward.defvjp(
  lambda x: (jnp.tanh(x), x),
  lambda x, g: ((g + jnp.mean(g, axis=-1, keepdims=True)) * (1 - x**2),),
)


@jax.custom_vjp
def spike(v):
  return (v > 0).astype(v.dtype)


spike.defvjp(
  lambda v: (spike(v), v), lambda v, g: (g * jnp.maximum(0, 1 - jnp.abs(v)),)
)


def integrate_and_fire(p, x, s, heard):
  v = 0.8 * s[0] + x @ p['w'] + heard[1] @ p['r']
  z = spike(v - 0.5)
  return z, (v - 0.5 * z, z)


def packed(p, x, s, heard):
  v, a = s[:, :N], s[:, N:]
  v = 0.8 * v + x @ p['w'] - a
  return v, jnp.concatenate([v, 0.9 * a + 0.1 * jnp.tanh(v)], axis=-1)


def positions_below(p, x, s, heard):
  y = jnp.tanh(x.reshape(-1, 2) @ p['e']).reshape(x.shape[0], -1)
  return same(0.8 * s + y @ p['w'])


def embedding_below(p, x, s, heard):
  return same(0.8 * s + p['e'][jnp.argmax(x, axis=-1)] @ p['w'])


def blocks_below(p, x, s, heard):
  y = jnp.einsum('bgi,gij->bgj', x.reshape(-1, 2, 2), p['e'])
  return same(0.8 * s + jnp.tanh(y).reshape(x.shape[0], -1) @ p['w'])


def projected(p, x, s, heard):
  h = 0.8 * s + x @ p['w']
  return h @ p['q'], h


@jax.custom_vjp
def smaller(x):
  """The value itself; a tenth of its derivative."""
  return x


smaller.defvjp(lambda x: (x, None), lambda _, g: (0.1 * g,))


def emits_with_a_derivative_of_its_own(p, x, s, heard):
  h = 0.5 * s + jnp.tanh(heard @ p['r'] + x @ p['w'])
  return smaller(h), h


def learned_padding(p, x, s, heard):
  wide = jnp.pad(x @ p['u'], ((0, 0), (0, 1)), constant_values=p['b'])
  return same(0.5 * s + jnp.tanh(wide))


def biased_positions(p, x, s, heard):
  y = x.reshape(-1, 1) @ p['w'] + p['b']
  return same(0.5 * s + jnp.tanh(y.reshape(x.shape[0], -1)))


def emits_a_loop_of_products(p, x, s, heard):
  emission, _ = jax.lax.scan(lambda h, _: (h @ p['v'], None), s, None, length=2)
  return emission, 0.5 * s + x @ p['w']


def with_clock(dtype):
  return lambda batch: (jnp.zeros((batch, N)), jnp.zeros(batch, dtype))


W = {'w': (I, N)}
CORES = {
  'emits the state before': Core(
    lambda p, x, s, heard: (s, 0.8 * s + x @ p['w']), W
  ),
  'a leaf that is the state before': Core(delayed_leaf, W, zeros(N, N)),
  'an argmax that is fed back': Core(
    argmax_fed_back,
    {**W, 'v': (3, N), 'q': (N, N)},
    with_clock(int),
    refuses_filter='kappa=0.5.*dot_general',
  ),
  'a leaf of parameters alone': Core(
    of_parameters_alone,
    {**W, 'th': (N,)},
    lambda batch: (jnp.zeros((batch, N)), jnp.ones((batch, N))),
  ),
  'a layer that hears the step before': Core(
    hears_the_step_before, {**W, 'v': (N, N)}, zeros(N, N), within=('w',)
  ),
  'layers that hear each other': Core(
    hear_each_other,
    {**W, 'ab': (N, N), 'ba': (N, N)},
    zeros(N, N),
    within=('w', 'ab', 'ba'),
  ),
  'an integer clock': Core(
    integer_clock, {**W, 'period': (1, N)}, with_clock(int)
  ),
  'a float clock': Core(float_clock, {**W, 'f': (1, N)}, with_clock(float)),
  'one product, two groups': Core(
    split_in_two,
    {'w': (I + 10, 10)},
    zeros(4, 6),
    emission=10,
  ),
  'layers added up': Core(
    layers_added_up,
    {**W, 'v': (I, N), 'ra': (N, N), 'rb': (N, N)},
    zeros(N, N),
  ),
  'a readout that leaks in the cell': Core(
    leaky_readout,
    {**W, 'v': (I, N), 'ra': (N, N), 'rb': (N, N), 'u': (I, 2 * N)},
    zeros(N, N, 2 * N),
    emission=2 * N,
    refuses_filter='moves units',
  ),
  'an emission that repeats units': Core(
    lambda p, x, s, heard: (
      jnp.concatenate([s, s], axis=-1),
      0.8 * s + x @ p['w'],
    ),
    W,
    emission=2 * N,
    refuses_filter='repeats units',
  ),
  'units beside a product of theirs': Core(
    lambda p, x, s, heard: (s + s @ p['q'], 0.8 * s + x @ p['w']),
    {**W, 'q': (N, N)},
    refuses_filter='kappa=0.5.*dot_general',
  ),
  'weights on the left': Core(weights_on_the_left, {**W, 'r': (N, N)}),
  'blocks': Core(blocks, {'w': (I, 6), 'r': (2, 3, 3)}, zeros(6), emission=6),
  'logaddexp': Core(logaddexp, {**W, 'r': (N, N), 'b': (1, N)}),
  'an elementwise loop': Core(loop_inside, {**W, 'r': (N, N), 'b': (1, N)}),
  'a derivative that mixes units': Core(
    lambda p, x, s, heard: same(mixes_backward(0.8 * s + x @ p['w'])),
    W,
    refused='custom_vjp_call.*rtrl, snap, bptt',
  ),
  'spikes by custom_vjp': Core(
    integrate_and_fire, {**W, 'r': (N, N)}, zeros(N, N)
  ),
  'two variables packed in a leaf': Core(
    packed, W, zeros(2 * N), refused='one leaf per variable'
  ),
  'a layer for every position below': Core(
    positions_below, {'e': (2, 3), 'w': (6, N)}, within=('e',)
  ),
  'an embedding below': Core(
    embedding_below, {'e': (I, 3), 'w': (3, N)}, within=('e',)
  ),
  'blocks below': Core(
    blocks_below, {'e': (2, 2, 3), 'w': (6, N)}, within=('e',)
  ),
  'a projection of the emission': Core(
    projected, {**W, 'q': (N, N)}, refuses_filter='kappa=0.5.*dot_general'
  ),
  'an emission with a derivative of its own': Core(
    emits_with_a_derivative_of_its_own, {**W, 'r': (N, N)}
  ),
  'learned padding': Core(
    learned_padding, {'u': (I, N - 1), 'b': ()}, refused='pad'
  ),
  'biased positions': Core(
    biased_positions,
    {'w': (1, 2), 'b': (1, 2)},
    zeros(2 * I),
    emission=2 * I,
    refused='no axis of trials',
  ),
  'a loop of products in the emission': Core(
    emits_a_loop_of_products,
    {**W, 'v': (N, N)},
    refuses_filter='dot_general reaches several units',
  ),
  'no state': Core(
    lambda p, x, s, heard: (jnp.tanh(x @ p['w']) @ p['v'], ()),
    {'w': (I, 3), 'v': (3, N)},
    lambda batch: (),
    refuses_filter='kappa=0.5.*dot_general',
  ),
}


def problem():
  rng = np.random.default_rng(0)
  mask = np.zeros((T, B))
  mask[[3, 6]] = 0.5
  return interfaces.Trials(
    inputs=jnp.asarray(rng.normal(size=(T, B, I))),
    targets=jnp.asarray(rng.normal(size=(T, B, O))),
    mask=jnp.asarray(mask),
    index=jnp.arange(B),
  )


def gradient(rule, trials):
  key = jax.random.key(2)
  params, constants = rule.model.init(jax.random.key(1), trials)
  state = rule.init(key, params, constants, trials)
  run = jax.jit(rule.estimate)
  return run(params, constants, state, key, trials)[0].gradient


def assert_equal(got, wanted, leave=(), tolerance=1e-9):
  for name, leaf in wanted.items():
    if name in leave:
      continue
    size = np.linalg.norm(leaf)
    assert size > 1e-6, f'{name}: nothing to compare'
    assert np.linalg.norm(got[name] - leaf) < tolerance * size, name
