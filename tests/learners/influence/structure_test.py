# SPDX-License-Identifier: Apache-2.0
"""Which units each parameter reaches, by hand and by derivatives at random."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util

from bionet_core import interfaces
from bionet_core.cells import cores
from bionet_learners.influence import steps
from bionet_learners.influence import structure as structures

pytestmark = pytest.mark.oracle

N, I = 4, 2


def cell(constants):
  """H <- relu(h (v * mask) + x w); `constants(key)` makes the mask."""

  def init(key, inputs):
    del inputs
    return {'v': jnp.zeros((N, N)), 'w': jnp.ones((I, N))}, constants(key)

  def step(params, constants, state, keys, inputs):
    del keys
    weights = params['v'] * constants['mask']
    h = jax.nn.relu(state['h'] @ weights + inputs @ params['w'])
    return h, {'h': h, 'count': state['count'] + 1}

  def initial_state(constants, keys):
    del constants
    count = jnp.zeros(keys.shape, jnp.int32)
    return {'h': jnp.zeros((*keys.shape, N)), 'count': count}

  return interfaces.Cell(
    init, initial_state, step, lambda params, constants, emission: emission
  )


def chain(key):
  del key
  return {'mask': jnp.eye(N, k=1)}


def structure(constants):
  return structures.structure(cell(constants), (I,), jnp.dtype('float32'))


def test_the_structure_of_a_masked_chain():
  """Truth: by hand: unit j hears j - 1; weight [i, j] writes unit j.

  The weights start at 0 and relu is flat for some, which must not matter. A
  weight behind the mask reaches nothing. The emission is the state.
  """
  found = structure(chain)
  hears = np.eye(N, k=1).T > 0
  np.testing.assert_array_equal(found.recurrent, hears)
  v, w = np.split(found.direct.dense(), [N * N], axis=1)
  for i in range(N):
    for j in range(N):
      wanted = (np.arange(N) == j) & (j == i + 1)
      np.testing.assert_array_equal(v[:, i * N + j], wanted)
  np.testing.assert_array_equal(w, np.tile(np.eye(N), I))
  np.testing.assert_array_equal(found.emitted, np.arange(N))


def test_an_emission_of_its_own_has_rows_of_its_own():
  """Truth: twice the state is where the state is, and is not the state."""
  plain = cell(chain)

  def step(params, constants, state, keys, inputs):
    h, state = plain.step(params, constants, state, keys, inputs)
    return 2 * h[:, :2], state

  found = structures.structure(
    plain._replace(step=step), (I,), jnp.dtype('float32')
  )
  wanted = structure(chain)
  for table, other in (
    (found.direct.dense(), wanted.direct.dense()),
    (found.recurrent, wanted.recurrent),
  ):
    np.testing.assert_array_equal(table, np.vstack([other, other[:2]]))
  np.testing.assert_array_equal(found.emitted, [N, N + 1])


def test_each_order_goes_one_unit_further():
  """Truth: by hand: an input weight of unit 0 reaches units 0 to n - 1."""
  found = structure(chain)
  for order in range(1, 7):
    reached = structures.within(found, order).dense()[:, N * N]
    np.testing.assert_array_equal(reached, np.arange(N) < order)


def test_groups_hold_every_parameter_that_reaches_once():
  """Truth: the reached floats, read back from the groups."""
  table = structures.within(structure(chain), 2)
  reached = table.dense()
  again = np.zeros_like(reached)
  for group in structures.groups(table, N):
    assert group.num_states == group.rows.shape[1]  # the emission is the state
    for params, rows in zip(group.params, group.rows, strict=True):
      assert not again[:, params].any()
      again[np.ix_(rows, params)] = True
  np.testing.assert_array_equal(again, reached)


def test_rows_of_one_colour_share_no_parameter():
  """Truth: the definition; a chain needs but one."""
  table = structure(chain).direct
  direct, colours = table.dense(), structures.colours(table.kinds)
  for colour in range(colours.max() + 1):
    assert direct[colours == colour].sum(axis=0).max() <= 1
  assert colours.max() + 1 == 1
  np.testing.assert_array_equal(
    structures.colours(np.ones((2, 3), bool)), [0, 1, 2]
  )


def test_a_mask_drawn_by_the_key_counts_as_open():
  """Truth: another run may draw any connection, so that all are possible."""

  def drawn(key):
    return {'mask': jax.random.bernoulli(key, 0.2, (N, N)) * 1.0}

  assert structure(drawn).recurrent.all()


def test_a_constant_of_zeros_and_draws_counts_element_by_element():
  """Truth: by hand: the key moves the draws of a band; beyond it are zeros."""
  band = np.tri(N, k=1) - np.tri(N, k=-2)

  def drawn(key):
    return {'mask': jax.random.bernoulli(key, 1e-6, (N, N)) * band}

  np.testing.assert_array_equal(structure(drawn).recurrent, band.T > 0)


@pytest.mark.parametrize('drawn', [False, True])
def test_a_wiring_of_indices(drawn):
  """Truth: by hand: a fixed wiring is what it says, a drawn one is open."""

  def init(key, inputs):
    order = jax.random.permutation(key, N) if drawn else jnp.arange(N)[::-1]
    return {'v': jnp.ones(N)}, {'order': order}

  def step(params, constants, state, keys, inputs):
    heard = state[:, constants['order']]
    state = jnp.tanh(heard * params['v'][None])
    return state, state

  wired = interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, N)),
    step,
    lambda params, constants, emission: emission,
  )
  found = structures.structure(wired, (I,), jnp.dtype('float32'))
  wanted = np.ones((N, N)) if drawn else np.eye(N)[::-1]
  np.testing.assert_array_equal(found.recurrent, wanted)
  np.testing.assert_array_equal(found.direct.dense(), np.eye(N))


def test_the_structure_is_found_while_tracing():
  """Truth: the same outside; a rule's init is compiled."""
  found = []

  @jax.jit
  def traced(x):
    found.append(structure(chain))
    return x

  traced(jnp.zeros(()))
  jax.tree.map(np.testing.assert_array_equal, found[0], structure(chain))


def test_a_complex_state_is_refused():
  """Truth: the message names the leaf and the remedy."""
  plain = cell(chain)

  def initial_state(constants, keys):
    z = jnp.zeros((*keys.shape, N), jnp.complex64)
    return {**plain.initial_state(constants, keys), 'z': z}

  with pytest.raises(ValueError, match=r"^state\['z'\] is complex; keep the"):
    structures.structure(
      plain._replace(initial_state=initial_state), (I,), jnp.dtype('float32')
    )


@pytest.mark.parametrize('custom', [False, True])
def test_a_custom_vjp_allows_reverse_mode_alone(custom):
  """Truth: JAX refuses forward mode; the one here is inside a loop."""
  plain = cell(chain)
  square = jax.custom_vjp(jnp.square) if custom else jnp.square
  if custom:
    square.defvjp(lambda x: (x**2, x), lambda x, ct: (2 * x * ct,))

  def step(params, constants, state, keys, inputs):
    h, state = plain.step(params, constants, state, keys, inputs)
    h = jax.lax.fori_loop(0, 2, lambda i, h: square(h), h)
    return h, {**state, 'h': h}

  found = structures.structure(
    plain._replace(step=step), (I,), jnp.dtype('float32')
  )
  assert found.forward == (not custom)
  np.testing.assert_array_equal(found.recurrent, structure(chain).recurrent)


def nonzero(cell, num_points):
  """The structure of a cell as derivatives at random points show it.

  Bool `[S + N, P]` and `[S + N, S]`: all rows of the state, then the emission.
  """
  key = jax.random.key(0)
  params, constants = cell.init(key, jnp.zeros((1, I)))
  flat, unravel = flatten_util.ravel_pytree(params)
  state = cell.initial_state(constants, jax.random.split(key, 1))

  def step(flat, row, inputs):
    before = steps.with_rows(state, row[None])
    emission, after = cell.step(
      unravel(flat), constants, before, key[None], inputs[None]
    )
    return jnp.concatenate([steps.rows(after, 1)[0], emission.ravel()])

  draws = [
    jax.random.normal(k, (num_points, n))
    for k, n in zip(
      jax.random.split(key, 3),
      (flat.size, steps.rows(state, 1).size, I),
      strict=True,
    )
  ]
  jacobians = jax.jit(jax.vmap(jax.jacrev(step, (0, 1))))(*draws)
  return [np.any(np.asarray(x) != 0, axis=0) for x in jacobians]


def assert_structure(cell, num_points, tight=True):
  """The structure has what derivatives show, no less, and `tight`: no more."""
  found = structures.structure(cell, (I,), jnp.dtype(float))
  num_states = found.recurrent.shape[1]
  rows = np.concatenate([np.arange(num_states), found.emitted])
  tables = found.direct.dense()[rows], found.recurrent[rows]
  for table, wanted in zip(tables, nonzero(cell, num_points), strict=True):
    assert not (wanted & ~table).any()
    assert not tight or not (table & ~wanted).any()
  return found


SPARSE = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0.0]])
MOVES = {
  'tanh': lambda x, y, w: jnp.tanh(x),
  'dense': lambda x, y, w: x @ w,
  'masked': lambda x, y, w: x @ (w * SPARSE),
  'lower': lambda x, y, w: x @ jnp.tril(w, -1),
  'scaled': lambda x, y, w: x * w[:1],
  'roll': lambda x, y, w: jnp.roll(x, 1, axis=1),
  'product': lambda x, y, w: x * y,
  'sum': lambda x, y, w: x + y,
  'halves': lambda x, y, w: jnp.concatenate([x[:, 2:], y[:, :2]], axis=1),
  'choice': lambda x, y, w: jnp.where(SPARSE[:1] > 0, x, y),
  'wiring': lambda x, y, w: x[:, np.array([1, 1, 0, 3])],
  'cumsum': lambda x, y, w: jnp.cumsum(x, axis=1),
  'frozen': lambda x, y, w: jax.lax.stop_gradient(x) + y,
  'rounded': lambda x, y, w: jnp.floor(x) + y,
  'largest': lambda x, y, w: x * jax.nn.one_hot(jnp.argmax(y, 1), N),
  'sorted': lambda x, y, w: jnp.sort(x, axis=1),
  'rectified': lambda x, y, w: jax.nn.relu(x) + y,
  'switched': lambda x, y, w: jnp.where(y > 0, x, y),
  'scan': lambda x, y, w: jax.lax.fori_loop(
    0, 3, lambda i, x: x.at[:, i].add(x[:, i + 1] * y[:, i]), x
  ),
  'cond': lambda x, y, w: jax.lax.cond(y[0, 0] > 0, jnp.sin, lambda x: -x, x),
}


def random_cell(seed):
  """A cell of two leaves and two weights, moved by 6 operations at random."""
  rng = np.random.default_rng(seed)
  moves = list(MOVES.values())
  moves = [moves[i] for i in rng.choice(len(moves), 6, replace=False)]
  picks = rng.integers(0, 4, (6, 3))

  def step(params, constants, state, keys, inputs):
    drive = inputs @ params['u']
    values = [state['a'], state['b'], drive, state['a'] + drive]
    for move, (i, j, k) in zip(moves, picks, strict=True):
      values[i] = move(values[i], values[j], params['w' if k < 2 else 'v'])
    return values[2], {'a': values[0], 'b': values[1]}

  def init(key, inputs):
    shapes = {'u': (I, N), 'v': (N, N), 'w': (N, N)}
    return {name: jnp.ones(shape) for name, shape in shapes.items()}, {}

  def initial_state(constants, keys):
    return {name: jnp.zeros((*keys.shape, N)) for name in 'ab'}

  return interfaces.Cell(init, initial_state, step, lambda p, c, e: e)


@pytest.mark.parametrize(
  'seed',
  [1, 2, *(pytest.param(i, marks=pytest.mark.slow) for i in range(3, 13))],
)
def test_random_cells(seed):
  """Truth: Jacobians at 500 random points.

  Tight but at seed 4, whose two choices by data never disagree.
  """
  with jax.enable_x64(True):
    assert_structure(random_cell(seed), 500, tight=seed != 4)


@pytest.mark.parametrize('core', [hk.GRU, hk.LSTM, hk.VanillaRNN])
def test_stock_cores(core):
  """Truth: Jacobians at random points; the emission is in the state."""
  with jax.enable_x64(True):
    found = assert_structure(
      cores.cell_from_core(lambda: core(3), lambda: hk.Linear(2)), 20
    )
    assert len(found.recurrent) == found.recurrent.shape[1]


def test_tables_are_small():
  """Truth: the sizes; a dense table of hk.GRU's 256 units has 10^8 entries."""
  units = 256
  gru = cores.cell_from_core(lambda: hk.GRU(units), lambda: hk.Linear(2))
  found = structures.structure(gru, (units,), jnp.dtype('float32'))
  table = structures.within(found, 1)
  # One unit, all units (a reset gate's weights), none (the readout's).
  assert table.kinds.shape == (units + 2, units)
  onto_a_gate = 2 * units + 1
  sizes = {
    (group.params.shape, group.rows.shape)
    for group in structures.groups(table, units)
  }
  assert sizes == {
    ((units, 2 * onto_a_gate), (units, 1)),
    ((1, units * onto_a_gate), (1, units)),
  }
