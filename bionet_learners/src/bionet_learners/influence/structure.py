# SPDX-License-Identifier: Apache-2.0
"""Which floats of a cell's state each parameter reaches, in how many steps."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners.influence import operations, reach, row_sets, rules
from bionet_learners.synapses import program


class Table(NamedTuple):
  """A bool table `[R, P]` in which many columns are equal.

  Attributes:
    kinds: bool `[C, R]`: the columns, each once.
    kind: int `[P]`: which of them each column is.
  """

  kinds: np.ndarray
  kind: np.ndarray

  def dense(self) -> np.ndarray:
    """Bool `[R, P]`: the table itself."""
    return self.kinds[self.kind].T


class Structure(NamedTuple):
  """Where the Jacobians of one step of a trial can differ from 0.

  The rows R are the S floats of the next state and, where the emission is not
  among these, the N of the emission behind them.

  Attributes:
    direct: a table `[R, P]`, by the parameters; P in `ravel_pytree`'s order.
    recurrent: bool `[R, S]`, by the state before.
    emitted: int `[N]`, the rows that are the emission.
    forward: whether forward mode can differentiate the step, which a
      `custom_vjp` forbids.
  """

  direct: Table
  recurrent: np.ndarray
  emitted: np.ndarray
  forward: bool


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
  """Reads the structure of a cell's step from the program of its derivative.

  The program is that of one backward pass through the step. An entry is True
  where a way leads from the row's cotangent to the parameter's or the state's,
  whatever the values of parameters, state and inputs are. So a derivative that
  is 0 everywhere (of a comparison, a rounding, `stop_gradient`) is no way, and
  the derivative that a `custom_vjp` defines is the one that counts.

  Constants that do not depend on the key count by their values: a 0 in a mask
  cuts what it multiplies. Those that the key draws count as anything, since
  each run draws others.

  Args:
    cell: the dynamics.
    input_shape: I of the inputs `[B, *I]`.
    dtype: of the inputs.

  Returns:
    A Structure; its arrays are concrete, whatever is being traced around it.

  Raises:
    ValueError: if a leaf of the state or of the parameters is complex.
  """
  with jax.ensure_compile_time_eval():
    traced = _traced(cell, input_shape, dtype)
    lines, num_floats = traced.backward, traced.num_floats
    rows = lines.ins[: num_floats + 1]  # the cotangents' elements, in order
    sizes = [int(np.prod(lines.shape(number))) for number in rows]
    starts = np.cumsum([0, *sizes])
    store = row_sets.Sets(int(starts[-1]))
    cotangents = [
      rules.Value(None, store.singletons(start, lines.shape(number)))
      for start, number in zip(starts[:-1], rows, strict=True)
    ]
    unknown = [rules.Value()] * traced.num_params
    unknown += [rules.Value()] * num_floats
    # What the program of `init` knows without the key, no key changes.
    constants = reach.walk(
      traced.init, [rules.Value()] * len(traced.init.ins), store
    )
    arguments = [*cotangents, *unknown, *constants]
    arguments += [rules.Value()] * (len(lines.ins) - len(arguments))
    reached = reach.walk(lines, arguments, store)

  def numbers(start: int, count: int) -> np.ndarray:
    """Int: the sets that reach some of the results, flat."""
    flat = [np.zeros(0, np.int32)]
    for x, atom in list(zip(reached, lines.outs, strict=True))[start:][:count]:
      sets = rules.empty(lines.shape(atom)) if x.sets is None else x.sets
      flat.append(sets.ravel())
    return np.concatenate(flat)

  num_rows, num_states = starts[-1], starts[-2]
  emitted = _emitted(traced.plain, num_floats)
  if emitted is None:
    emitted = np.arange(num_states, num_rows)
  else:
    num_rows = num_states
  members = store.members()[:, :num_rows]
  return Structure(
    _merged(members, numbers(0, traced.num_params)),
    members[numbers(traced.num_params, num_floats)].T,
    emitted,
    traced.forward,
  )


class _Traced(NamedTuple):
  """The programs of a cell.

  Attributes:
    init: `(key, inputs) -> constants`.
    plain: the step, `(params, floats, ...) -> (floats, emission)`.
    backward: `(cotangents, params, floats, constants, ...) -> (cotangents of
      params and of floats, floats, emission)`. The floats are the float leaves
      of the state. Cotangents come in are those of the next floats, then of
      the emission.
    num_params: leaves of the parameters.
    num_floats: float leaves of the state.
    forward: whether forward mode can differentiate the step.
  """

  init: program.Program
  plain: program.Program
  backward: program.Program
  num_params: int
  num_floats: int
  forward: bool


def _traced(
  cell: interfaces.Cell, input_shape: Sequence[int], dtype: jnp.dtype
) -> _Traced:
  """Traces a cell and one backward pass through its step, on one trial."""
  key = jax.eval_shape(lambda: unroll.seed_key(0))
  keys = jax.ShapeDtypeStruct((1,), key.dtype)
  inputs = jax.ShapeDtypeStruct((1, *input_shape), dtype)
  init, (params, constants) = program.read(cell.init, key, inputs)
  state = jax.eval_shape(cell.initial_state, constants, keys)
  _check_real(params=params, state=state)
  leaves, tree = jax.tree.flatten(state)
  moving = [i for i, x in enumerate(leaves) if _is_float(x)]
  floats = [leaves[i] for i in moving]
  num_params = len(jax.tree.leaves(params))

  def step(params, floats, constants, rest, keys, inputs):
    before = list(rest)
    for i, x in zip(moving, floats, strict=True):
      before[i] = x
    emission, after = cell.step(
      params, constants, tree.unflatten(before), keys, inputs
    )
    return [x for x in jax.tree.leaves(after) if _is_float(x)], emission

  def backward(cotangents, params, floats, *data):
    results, pull = jax.vjp(lambda *x: step(*x, *data), params, floats)
    return pull(cotangents), results

  data = constants, leaves, keys, inputs
  plain, cotangents = program.read(step, params, floats, *data)
  names = program.names(plain)
  return _Traced(
    init._replace(outs=init.outs[num_params:]),
    plain,
    program.read(backward, cotangents, params, floats, *data)[0],
    num_params,
    len(floats),
    # What JAX calls 'hi' may be a custom_vjp, too; reverse mode does for all.
    forward=not any(
      name.startswith(('custom_vjp', 'call_hi_primitive')) for name in names
    ),
  )


def _emitted(lines: program.Program, num_floats: int) -> np.ndarray | None:
  """Int `[N]`: which floats of the state the emission is; None if it is not.

  In the step itself: a backward pass has lost the operations whose value is
  that of a state and whose derivative is another.

  Args:
    lines: a program whose last results are the float leaves of the state, and
      behind them the emission.
    num_floats: the number of these leaves.
  """
  makers = {out: line for line in lines.lines for out in line.outs}
  labels, count = {}, 0

  def label(atom):
    """Int: equal for elements that are copies of one."""
    nonlocal count
    if isinstance(atom, int) and atom in labels:
      return labels[atom]
    line = makers.get(atom) if isinstance(atom, int) else None
    if line is not None and line.name in operations.COPIES:
      results = operations.copied(line, [label(x) for x in line.ins])
      labels.update(zip(line.outs, results, strict=True))
      return labels[atom]
    shape = lines.shape(atom)
    count += (size := int(np.prod(shape)))
    result = np.arange(count - size, count, dtype=np.int32).reshape(shape)
    if isinstance(atom, int):
      labels[atom] = result
    return result

  *state, emission = [label(x) for x in lines.outs[-num_floats - 1 :]]
  flat = [x for leaf in state for x in leaf.ravel().tolist()]
  row = {x: i for i, x in enumerate(flat)}
  rows = [row.get(x, -1) for x in emission.ravel().tolist()]
  return None if -1 in rows else np.array(rows, int)


def _merged(kinds: np.ndarray, kind: np.ndarray) -> Table:
  """A table in which no two kinds are equal, and none is without a column."""
  used, kind = np.unique(kind, return_inverse=True)
  kinds, which = np.unique(kinds[used], axis=0, return_inverse=True)
  return Table(kinds, which.ravel()[kind])


def _check_real(**trees: interfaces.ArrayTree) -> None:
  for name, tree in trees.items():
    for path, x in jax.tree.leaves_with_path(tree):
      if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(
          f'{name}{jax.tree_util.keystr(path)} is complex; keep the real and '
          'the imaginary part as two leaves.'
        )


def _is_float(x: jax.Array | jax.ShapeDtypeStruct) -> bool:
  return jnp.issubdtype(x.dtype, jnp.floating)


def within(step: Structure, order: int) -> Table:
  """A table `[R, P]`: what a parameter reaches within `order` steps."""
  num_states = step.recurrent.shape[1]
  steps = step.recurrent.T.astype(np.float32)
  reached = step.direct.kinds
  for _ in range(order - 1):
    on = reached[:, :num_states].astype(np.float32) @ steps > 0
    more = step.direct.kinds | on
    if np.array_equal(more, reached):
      break
    reached = more
  return _merged(reached, step.direct.kind)


def groups(reached: Table, num_states: int) -> list[Group]:
  """All parameters that reach anything, by what they reach."""
  if not len(reached.kinds):  # a cell without parameters
    return []
  counts = np.bincount(reached.kind, minlength=len(reached.kinds))
  members = np.split(
    np.argsort(reached.kind, kind='stable'), np.cumsum(counts)[:-1]
  )
  sets: dict[tuple[int, int, int], list] = {}
  for kind, params in zip(reached.kinds, members, strict=True):
    rows = np.flatnonzero(kind)
    size = int(np.sum(rows < num_states)), len(rows), len(params)
    if len(rows):  # the readout's reach none
      sets.setdefault(size, []).append((params, rows))
  return [
    Group(
      params=np.stack([params for params, _ in alike]),
      rows=np.stack([rows for _, rows in alike]),
      num_states=size[0],
    )
    for size, alike in sets.items()
  ]


def colours(kinds: np.ndarray) -> np.ndarray:
  """Int `[R]`: rows of one colour share no column (greedily chosen).

  One backward pass per colour then gives a Jacobian `[R, P]` entry by entry:
  each column's entry comes from a single row.

  Args:
    kinds: bool `[C, R]`, the columns of the Jacobian's structure, each once.
  """
  meets = kinds.T.astype(np.float32) @ kinds.astype(np.float32) > 0
  chosen = np.zeros(len(meets), int)
  for row in range(len(meets)):
    taken = set(chosen[:row][meets[row, :row]])
    chosen[row] = next(c for c in range(row + 1) if c not in taken)
  return chosen
