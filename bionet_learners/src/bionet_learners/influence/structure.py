# SPDX-License-Identifier: Apache-2.0
"""Which floats of a cell's state each parameter reaches, in how many steps."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from bionet_core import interfaces
from bionet_learners.influence import steps

_PROBES = 16


class Structure(NamedTuple):
  """Where the Jacobians of one step of a trial can differ from 0.

  The rows R are the S floats of the next state and, where the emission is not
  among these, the N of the emission behind them.

  Attributes:
    direct: bool `[R, P]`, by the parameters; P in `ravel_pytree`'s order.
    recurrent: bool `[R, S]`, by the state before.
    emitted: int `[N]`, the rows that are the emission.
  """

  direct: np.ndarray
  recurrent: np.ndarray
  emitted: np.ndarray


class Group(NamedTuple):
  """Sets of parameters, of one size, that reach equally many rows.

  Attributes:
    params: int `[U, m]`, U sets of m parameters; one set reaches the same.
    rows: int `[U, r]`, the rows that each set reaches, in ascending order.
    num_states: k, how many of them are floats of the state; they come first.
  """

  params: np.ndarray
  rows: np.ndarray
  num_states: int


def structure(
  cell: interfaces.Cell, input_shape: Sequence[int], dtype: jnp.dtype
) -> Structure:
  """Finds the structure of a cell's step by probing it at random points.

  An entry that is 0 at 16 random draws of parameters, state and inputs is taken
  for 0 everywhere. A constant that follows from the key (a random mask) is
  unknown before the run: its zeros count as if they could be anything.

  Args:
    cell: the dynamics.
    input_shape: I of the inputs `[B, *I]`.
    dtype: of the inputs.

  Returns:
    A Structure; its arrays are concrete, whatever is being traced around it.

  Raises:
    ValueError: if integer constants (a random wiring) follow from the key.
  """
  with jax.ensure_compile_time_eval():
    keys = jax.random.split(jax.random.key(0), _PROBES)
    inputs = jax.random.uniform(
      keys[0], (_PROBES, *input_shape), dtype, 0.05, 1.0
    )
    example = jnp.zeros((1, *input_shape), dtype)
    params, constants = jax.jit(jax.vmap(lambda key: cell.init(key, example)))(
      keys
    )
    constants = jax.tree.map_with_path(_unknown, constants)

    @jax.jit
    def probe(key, params, constants, inputs):
      kick, shake, noise, start = jax.random.split(key, 4)
      flat, unravel = flatten_util.ravel_pytree(params)
      flat += 0.1 * jax.random.normal(kick, flat.shape, flat.dtype)
      state = cell.initial_state(constants, start[None])
      row = steps.rows(state, 1)
      row += 0.5 * jax.random.normal(shake, row.shape, row.dtype)

      def step(flat, row):
        emission, after = cell.step(
          unravel(flat),
          constants,
          steps.with_rows(state, row[None]),
          noise[None],
          inputs[None],
        )
        values = steps.rows(after, 1)[0], emission[0].ravel()
        return jnp.concatenate(values), values

      found, values = jax.jacrev(step, (0, 1), has_aux=True)(flat, row[0])
      # A NaN may be anything.
      return jax.tree.map(lambda x: x != 0, found), values

    found = [
      probe(key, *jax.tree.map(lambda x, i=i: x[i], (params, constants)), x)
      for i, (key, x) in enumerate(zip(keys, inputs, strict=True))
    ]
  (direct, recurrent), (after, emission) = jax.tree.map(
    lambda *x: np.stack([np.asarray(y) for y in x]), *found
  )
  direct, recurrent = np.any(direct, axis=0), np.any(recurrent, axis=0)
  num_states = recurrent.shape[1]
  same = np.all(emission[:, :, None] == after[:, None, :], axis=0)
  if same.any(axis=1).all():
    emitted = np.argmax(same, axis=1)
    return Structure(direct[:num_states], recurrent[:num_states], emitted)
  return Structure(direct, recurrent, np.arange(num_states, len(direct)))


def _unknown(path, draws: jax.Array) -> jax.Array:
  """The draws of a constant, without the zeros that another key moves."""
  if np.all(draws == draws[:1]):
    return draws
  if not jnp.issubdtype(draws.dtype, jnp.inexact) and draws.dtype != bool:
    raise ValueError(
      f'the constant {jax.tree_util.keystr(path)} is {draws.dtype} and drawn '
      'by the key: which parameters reach which units is unknown before the '
      'run. Choose rtrl, or draw the wiring from a seed of the cell.'
    )
  return jnp.where(draws == 0, jnp.ones_like(draws), draws)


def within(found: Structure, order: int) -> np.ndarray:
  """Bool `[R, P]`: what a parameter reaches within `order` steps."""
  reached = found.direct
  num_states = found.recurrent.shape[1]
  hops = found.recurrent.astype(np.float32)
  for _ in range(order - 1):
    on = hops @ reached[:num_states].astype(np.float32) > 0
    more = found.direct | on
    if np.array_equal(more, reached):
      break
    reached = more
  return reached


def groups(reached: np.ndarray, num_states: int) -> list[Group]:
  """All parameters that reach anything, by what they reach."""
  kinds, which = np.unique(reached, axis=1, return_inverse=True)
  sets: dict[tuple[int, int, int], list] = {}
  for number, kind in enumerate(kinds.T):
    params, rows = np.flatnonzero(which == number), np.flatnonzero(kind)
    size = int(np.sum(rows < num_states)), len(rows), len(params)
    if len(rows):  # the readout's reach none
      sets.setdefault(size, []).append((params, rows))
  return [
    Group(
      params=np.stack([params for params, _ in members]),
      rows=np.stack([rows for _, rows in members]),
      num_states=size[0],
    )
    for size, members in sets.items()
  ]


def colours(direct: np.ndarray) -> np.ndarray:
  """Int `[R]`: rows of one colour share no parameter (greedily chosen).

  One backward pass a colour then gives the Jacobian `direct` [R, P] entry by
  entry: each parameter's gradient comes from a single row.
  """
  meets = direct.astype(np.float32) @ direct.T.astype(np.float32) > 0
  chosen = np.zeros(len(direct), int)
  for row in range(len(direct)):
    taken = set(chosen[:row][meets[row, :row]])
    chosen[row] = next(c for c in range(row + 1) if c not in taken)
  return chosen
