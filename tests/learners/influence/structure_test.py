# SPDX-License-Identifier: Apache-2.0
"""Which units each parameter reaches, where that is plain from the cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import interfaces
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

  The weights start at 0 and relu is flat for some: probing must not see that. A
  weight behind the mask reaches nothing. The emission is the state.
  """
  found = structure(chain)
  hears = np.eye(N, k=1).T > 0
  np.testing.assert_array_equal(found.recurrent, hears)
  v, w = found.direct[:N, : N * N], found.direct[:N, N * N :]
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
  for own, other in ((found.direct, wanted.direct), (found[1], wanted[1])):
    np.testing.assert_array_equal(own, np.vstack([other, other[:2]]))
  np.testing.assert_array_equal(found.emitted, [N, N + 1])


def test_each_order_goes_one_unit_further():
  """Truth: by hand: an input weight of unit 0 reaches units 0 to n - 1."""
  found = structure(chain)
  for order in range(1, 7):
    reached = structures.within(found, order)[:N, N * N]
    np.testing.assert_array_equal(reached, np.arange(N) < order)


def test_groups_hold_every_parameter_that_reaches_once():
  """Truth: the reached floats, read back from the groups."""
  reached = structures.within(structure(chain), 2)
  again = np.zeros_like(reached)
  for group in structures.groups(reached, N):
    assert group.num_states == group.rows.shape[1]  # the emission is the state
    for params, rows in zip(group.params, group.rows, strict=True):
      assert not again[:, params].any()
      again[np.ix_(rows, params)] = True
  np.testing.assert_array_equal(again, reached)


def test_rows_of_one_colour_share_no_parameter():
  """Truth: the definition; a chain needs but one."""
  direct = structure(chain).direct
  colours = structures.colours(direct)
  for colour in range(colours.max() + 1):
    assert direct[colours == colour].sum(axis=0).max() <= 1
  assert colours.max() + 1 == 1
  np.testing.assert_array_equal(
    structures.colours(np.ones((3, 2), bool)), [0, 1, 2]
  )


def test_a_mask_drawn_by_the_key_counts_as_open():
  """Truth: another run may draw any connection, so that all are possible."""

  def drawn(key):
    return {'mask': jax.random.bernoulli(key, 0.2, (N, N)) * 1.0}

  assert structure(drawn).recurrent.all()


def test_an_integer_wiring_drawn_by_the_key_is_refused():
  """Truth: the message names the constant and what to choose."""

  def drawn(key):
    order = jax.random.permutation(key, N)
    return {'mask': jnp.ones((N, N)), 'order': order}

  with pytest.raises(ValueError, match=r"'order'.*Choose rtrl"):
    structure(drawn)


def test_the_structure_is_found_while_tracing():
  """Truth: the same outside; a rule's init is compiled."""
  found = []

  @jax.jit
  def traced(x):
    found.append(structure(chain))
    return x

  traced(jnp.zeros(()))
  for inside, outside in zip(found[0], structure(chain), strict=True):
    np.testing.assert_array_equal(inside, outside)
