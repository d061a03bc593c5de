# SPDX-License-Identifier: Apache-2.0
"""Each kind of operation against derivatives at random points."""

import jax
import jax.extend.core.primitives  # each of JAX's primitives by its name
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bionet_core import interfaces
from bionet_learners.influence import operations, reach, rules
from bionet_learners.influence import structure as structures
from bionet_learners.synapses import program

pytestmark = pytest.mark.oracle

MASK = np.array([[0, 1, 0, 1.0], [1, 1, 0, 0], [0, 0, 0, 1]])
PICKS = np.array([2, 0, 2])
IMAGE = (1, 2, 3, 4)


def by_hand(forward, backward):
  """A function whose derivative is another one's."""
  function = jax.custom_vjp(forward)
  function.defvjp(lambda x: (forward(x), x), lambda x, ct: (backward(x, ct),))
  return function


def convolved(images, kernels, **settings):
  settings = {'window_strides': (1, 1), 'padding': 'SAME', **settings}
  return lax.conv_general_dilated(images, kernels, **settings)


KERNELS = np.arange(1.0, 37).reshape(2, 2, 3, 3)
DILATED = {
  'padding': ((1, 2), (2, 1)),
  'window_strides': (2, 1),
  'lhs_dilation': (1, 2),
  'rhs_dilation': (1, 2),
}

# Of x [3, 4], and exact entry by entry.
EXACT = {
  'tanh': jnp.tanh,
  'relu': jax.nn.relu,
  'softmax': lambda x: jax.nn.softmax(x, 1),
  'logsumexp': lambda x: jax.nn.logsumexp(x, 0),
  'layer norm': lambda x: jax.nn.standardize(x, axis=1),
  'two operands': lambda x: jnp.logaddexp(x, x[1:2]) + jnp.abs(x) ** x[:1],
  'clip': lambda x: jnp.clip(x, -1, x[:1]),
  'float32': lambda x: x.astype(jnp.float32).astype(float),
  'complex': lambda x: (lax.complex(x, x[::-1]) ** 2).imag,
  'transpose': lambda x: x.T.reshape(2, 6),
  'slice': lambda x: x[1:, ::2],
  'reverse': lambda x: x[::-1],
  'concatenate': lambda x: jnp.concatenate([x, 2 * x[:1]]),
  'pad': lambda x: lax.pad(x, 0.0, ((1, -1, 1), (0, 2, 0))),
  'split': lambda x: jnp.split(x, 2, 1)[1],
  'stack': lambda x: jnp.stack([x, x**2]),
  'tile': lambda x: jnp.tile(x, (2, 1)),
  'roll': lambda x: jnp.roll(x, 1, 1),
  'rows': lambda x: x[PICKS],
  'entries': lambda x: x[PICKS[:2], PICKS[1:]],
  'beyond': lambda x: jnp.take(
    x, np.array([1, 7]), 1, mode='fill', fill_value=0
  ),
  'dynamic slice': lambda x: lax.dynamic_slice(x, (1, 1), (2, 2)),
  'update': lambda x: lax.dynamic_update_slice(x, x[:1, :2] ** 2, (1, 1)),
  'set': lambda x: x.at[1, 2].set(x[0, 0]),
  'add': lambda x: x.at[PICKS].add(x**2),
  'add beyond': lambda x: x.at[PICKS[:2] * 2].add(x[:2] ** 2),
  'multiply': lambda x: x.at[1].multiply(x[0]),
  'max at': lambda x: x.at[1].max(x[0]),
  'segments': lambda x: jax.ops.segment_sum(x, PICKS // 2, 2),
  'diagonal': lambda x: jnp.diag(x[0]),
  'hollow': lambda x: jnp.fill_diagonal(x[:, :3], 0, inplace=False) @ x[:, :1],
  'anywhere': lambda x: x[0, jnp.argsort(x[1])[:2]],
  'any slice': lambda x: lax.dynamic_slice(x, (jnp.argmax(x[:, 0]), 1), (1, 2)),
  'any update': lambda x: lax.dynamic_update_slice(
    x[:2], x[2:, :2], ((x[0, 0] > 0).astype(int), 1)
  ),
  'any column': lambda x: jnp.take_along_axis(x, jnp.argsort(-x, 1)[:, :1], 1),
  'add anywhere': lambda x: (
    x[:2].at[(x[2, :2] > 0).astype(int)].add(x[1:] ** 2)
  ),
  'sum': lambda x: x.sum(0),
  'mean': jnp.mean,
  'max': lambda x: x.max(1),
  'prod': lambda x: x.prod(1),
  'norm': lambda x: jnp.linalg.norm(x, axis=0),
  'cumsum': lambda x: jnp.cumsum(x, 1),
  'cumsum back': lambda x: lax.cumsum(x, 1, reverse=True),
  'cumprod': lambda x: jnp.cumprod(x, 0),
  'cumlogsumexp': lambda x: lax.cumlogsumexp(x, 1),
  'cummax': lambda x: lax.cummax(x, 1),
  'associative scan': lambda x: lax.associative_scan(jnp.multiply, x, axis=1),
  'sort': lambda x: jnp.sort(x, 1),
  'top k': lambda x: lax.top_k(x, 2)[0],
  'dot': lambda x: x @ x.T,
  'dot by mask': lambda x: x[:, :3] @ MASK,
  'mask by dot': lambda x: MASK.T @ x,
  'masked': lambda x: (x * MASK) @ np.ones((4, 2)),
  'batches': lambda x: jnp.einsum('bij,bjk->bik', *2 * [x.reshape(3, 2, 2)]),
  'outer': lambda x: jnp.einsum('ab,ac->abc', x, x),
  'where': lambda x: jnp.where(MASK > 0, x, x[:1]),
  'where data': lambda x: jnp.where(x > 0, x, x[::-1]),
  'tril': lambda x: jnp.tril(x) @ x.T,
  'not diagonal': lambda x: (x[:, :3] * (1 - jnp.eye(3))) @ x,
  'drawn at a fixed key': lambda x: (
    x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
  ),
  'times 0': lambda x: x * 0.0 + x[:1],
  'no derivative': lambda x: (
    jnp.floor(x) + jnp.sign(x) * lax.stop_gradient(x) + x[:1]
  ),
  'integers': lambda x: x[:1] * x.astype(int),
  'conv': lambda x: convolved(x.reshape(1, 2, 3, 2), KERNELS),
  'conv dilated': lambda x: convolved(
    x.reshape(1, 2, 3, 2), KERNELS, **DILATED
  ),
  'conv sparse': lambda x: convolved(
    x.reshape(1, 2, 3, 2), KERNELS * (KERNELS % 3 > 0)
  ),
  'conv weights': lambda x: convolved(
    np.ones((2, 2, 3, 3)), x.reshape(3, 2, 2, 1)
  ),
  'conv groups': lambda x: convolved(
    x.reshape(1, 2, 3, 2), KERNELS[:, :1], feature_group_count=2
  ),
  'conv channels last': lambda x: convolved(
    x.reshape(1, 3, 2, 2), KERNELS.T, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  ),
  'conv weight groups': lambda x: convolved(
    np.ones((1, 2, 3, 3)), x.reshape(4, 1, 3, 1), feature_group_count=2
  ),
  'max pool': lambda x: lax.reduce_window(
    x, -np.inf, lax.max, (1, 2), (1, 2), 'VALID'
  ),
  'mean pool': lambda x: lax.reduce_window(
    x, 0.0, lax.add, (2, 2), (1, 1), 'SAME'
  ),
  'fft': lambda x: jnp.abs(jnp.fft.fft(x, axis=1)),
  'cond': lambda x: lax.cond(x[0, 0] > 0, jnp.sin, lambda x: x[::-1], x),
  'cond by constant': lambda x: lax.switch(
    MASK.sum().astype(int) - 5, [jnp.sin, lambda x: x[::-1]], x
  ),
  'cond of masks': lambda x: (
    x
    * lax.cond(
      x[0, 0] > 0,
      lambda: 1.0 * jnp.asarray(MASK),
      lambda: 2.0 - 2 * jnp.tril(jnp.ones((3, 4))),
    )
  ),
  'scan': lambda x: lax.scan(lambda c, r: (c * r + r, c), x[0], x)[1],
  'scan back': lambda x: lax.scan(
    lambda c, r: (c + r, c), x[0], x, reverse=True
  )[1],
  'for': lambda x: lax.fori_loop(
    0, 2, lambda i, c: c.at[i].set(x[i + 1] * c[i]), x
  ),
  'map': lambda x: lax.map(lambda r: r[:2] * r[2:], x),
  'checkpoint': jax.checkpoint(lambda x: jnp.sin(x) * x[:1]),
  'vmap': jax.vmap(lambda r: r @ r * r),
  'barrier': lambda x: lax.optimization_barrier((x, x[:1]))[0],
  'surrogate': by_hand(lambda x: (x > 0) * 1.0, lambda x, ct: ct / (1 + x**2)),
  'mixes backward': by_hand(jnp.tanh, lambda x, ct: ct[::-1] + ct),
  'clipped backward': by_hand(jnp.tanh, lambda x, ct: jnp.clip(ct, -1, 1)),
  'centred backward': by_hand(
    jnp.tanh, lambda x, ct: ct - jnp.mean(ct, 1, keepdims=True)
  ),
  'chosen backward': by_hand(
    jnp.tanh,
    lambda x, ct: jnp.where(
      jnp.concatenate([MASK[:2] > 0, x[2:] > 0]), ct, jnp.roll(ct, 1, 1)
    ),
  ),
  'add backward': by_hand(
    jnp.tanh, lambda x, ct: ct.at[PICKS[:2]].add(ct[1:, ::-1])
  ),
  'set anywhere backward': by_hand(
    jnp.tanh, lambda x, ct: ct.at[jnp.argmax(x[:, 0])].set(ct[0, ::-1])
  ),
  'set backward': by_hand(jnp.tanh, lambda x, ct: ct.at[0, :2].set(ct[1, 2:])),
  'loop backward': by_hand(
    jnp.tanh,
    lambda x, ct: (
      lax.while_loop(
        lambda c: jnp.sum(c[0]) < x[0, 0],
        lambda c: (c[0] + 1, jnp.roll(c[1], 1, 1)),
        (0.0, ct),
      )[1]
      * 2
    ),
  ),
}
# Where more is assumed than there is, and never less.
SOUND = {
  'cholesky': lambda x: jnp.linalg.cholesky(x @ x.T + 3 * jnp.eye(3)),
  'solve': lambda x: jnp.linalg.solve(x @ x.T + 3 * jnp.eye(3), x),
}


def jacobian(function):
  """Bool `[R, P]`: what derivatives at random points show."""

  def flat(x):
    return function(x.reshape(3, 4)).ravel()

  x = jax.random.normal(jax.random.key(0), (64, 12))
  return np.any(jax.jit(jax.vmap(jax.jacrev(flat)))(x) != 0, axis=0)


def structure(function):
  """Bool `[R, P]`: the structure, of a cell whose one parameter is x."""
  size = jax.eval_shape(function, jnp.zeros((3, 4))).size

  def step(params, constants, state, keys, inputs):
    state = jnp.reshape(function(params), (1, -1))
    return state, state

  cell = interfaces.Cell(
    lambda key, inputs: (jnp.ones((3, 4)), {}),
    lambda constants, keys: jnp.zeros((1, size)),
    step,
    lambda params, constants, emission: emission,
  )
  found = structures.structure(cell, (1,), jnp.dtype(float))
  assert not found.recurrent.any()
  return found.direct.dense()


@pytest.mark.parametrize('name', [*EXACT, *SOUND])
def test_an_operation(name):
  """Truth: derivatives at 64 random points."""
  with jax.enable_x64(True):
    function = {**EXACT, **SOUND}[name]
    found, wanted = structure(function), jacobian(function)
    assert wanted.any()
    assert not (wanted & ~found).any()
    if name in EXACT:
      np.testing.assert_array_equal(found, wanted)


def kinds():
  """The kind of each primitive that is on a list, by its name."""
  names = {name: 'a rule of its own' for name in rules.RULES}
  for kind in ('elementwise', 'reductions', 'cumulative', 'copies', 'scatters'):
    names.update(dict.fromkeys(getattr(operations, kind.upper()), kind))
  names.update(dict.fromkeys([*reach.INSIDES, *program.CALLS], 'inside'))
  return names


# What may take anything from anything, though it is exact for less.
ANYTHING = frozenset(
  """
  approx_top_k bitcast_convert_type cholesky custom_lin custom_linear_solve eig
  eigh hessenberg householder_product lu qr ragged_dot_general reduce
  reduce_window schur select_and_gather_add select_and_scatter svd top_k
  triangular_solve tridiagonal tridiagonal_solve
  """.split()
)
# No derivative passes: random numbers, devices, and what stands for nothing.
NOTHING = frozenset(
  """
  after_all all_gather all_to_all axis_index create_token dce_sink empty2 iota
  pmax pmin ppermute psum ragged_all_to_all random_bits random_fold_in
  random_gamma random_seed random_split rng_bit_generator rng_uniform
  threefry2x32 get swap
  """.split()
)


def registered():
  """JAX's primitives, by their names."""
  found = {}
  for module in (lax, jax.extend.core.primitives):
    for name in dir(module):
      primitive = getattr(module, name)
      if name.endswith('_p') and hasattr(primitive, 'bind'):
        found[primitive.name] = primitive
  return found


def is_elementwise(primitive):
  """Whether a primitive without settings maps floats element by element."""
  x = jnp.array([[0.3, 0.4, 0.5]])
  for operands in ([x], [x, x]):
    try:
      if primitive.bind(*operands).shape == x.shape:
        return True
    except Exception:  # it needs settings, or other operands
      continue
  return False


def test_primitives_have_a_kind():
  """Truth: JAX's own list; what it adds is elementwise or on no list.

  A primitive on no list is read soundly, and less sharply than it could be.
  """
  listed = set(kinds()) | ANYTHING | NOTHING
  rest = {x: p for x, p in registered().items() if x not in listed}
  assert not [x for x, p in rest.items() if is_elementwise(p)]
  assert not ANYTHING & set(kinds())
