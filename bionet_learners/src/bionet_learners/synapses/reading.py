# SPDX-License-Identifier: Apache-2.0
"""A cell's step, read: its program, and what each of its values depends on."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces
from bionet_learners import over_time
from bionet_learners.synapses import axes, places, products, program

FIXED, LEARNED, DATA = range(3)
"""What a value depends on: nothing that changes, parameters alone, data."""


class Layout(NamedTuple):
  """Which values of a step's program are its arguments and its results.

  Attributes:
    params: of each leaf of the parameters.
    constants: of each leaf of the constants.
    states: of each leaf of the state before the step.
    data: of each leaf of state, keys and inputs.
    emission: the emission.
    after: each leaf of the state after the step.
    names: the path of each leaf of the state.
    tree: the tree of the state.
    batch: B.
  """

  params: list[int]
  constants: list[int]
  states: list[int]
  data: list[int]
  emission: program.Atom
  after: list[program.Atom]
  names: list[str]
  tree: Any
  batch: int


class Reading(NamedTuple):
  """A step, read.

  Attributes:
    steps: its program.
    layout: the program's arguments and results.
    kinds: FIXED, LEARNED or DATA, per value.
    sources: the leaves of the parameters behind each value.
    prelude: the lines that depend on no data.
    body: the others.
    mixes: of each line of the body, whether it is a product of data with what
      is none.
    learned: the values of the prelude that the body reads and that carry a
      derivative of parameters.
    fixed: the other values of the prelude that the body reads.
    trials: the axis that counts the trials, per value; None if there is none.
  """

  steps: program.Program
  layout: Layout
  kinds: list[int]
  sources: list[frozenset[int]]
  prelude: list[program.Line]
  body: list[program.Line]
  mixes: list[bool]
  learned: list[int]
  fixed: list[int]
  trials: list[axes.Axis | None]

  def kind(self, atom: program.Atom) -> int:
    """What an operand depends on."""
    return self.kinds[atom] if isinstance(atom, int) else FIXED

  def carries(self, line: program.Line, number: int) -> bool:
    """Whether a result of a line carries a derivative."""
    floating = self.steps.floating(number)
    return floating and line.name not in places.NO_DERIVATIVE


def read(
  cell: interfaces.Cell,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  state: interfaces.ArrayTree,
  keys: jax.Array,
  inputs: jax.Array,
) -> Reading:
  """Reads one step; arrays may be tracers or shapes.

  Raises:
    TypeError: if a state changes its shape or type in a step, or is complex.
  """
  args = (params, constants, state, keys, inputs)
  steps, layout = _trace(cell, args)
  kinds, sources = _kinds(steps, layout)
  shared = _without_a_line(steps, layout, kinds)
  if any(shared):
    # A second trace, of the few cells that need it, instead of a special case
    # in every pass below.
    steps, layout = _trace(_with_a_line(cell, layout, shared), args)
    kinds, sources = _kinds(steps, layout)
  # The prelude runs once per estimate, the body once per step.
  body = [line for line in steps.lines if kinds[line.outs[0]] == DATA]
  read_there = {i for line in body for i in line.ins if isinstance(i, int)}
  read_there |= {o for o in steps.outs if isinstance(o, int)}

  def mixes(line):
    fixed = any(not isinstance(i, int) or kinds[i] < DATA for i in line.ins)
    return fixed and line.name in products.PRIMITIVES

  def learned(number):  # a comparison of parameters has no derivative
    return kinds[number] == LEARNED and steps.floating(number)

  return Reading(
    steps=steps,
    layout=layout,
    kinds=kinds,
    sources=sources,
    prelude=[line for line in steps.lines if kinds[line.outs[0]] != DATA],
    body=body,
    mixes=[mixes(line) for line in body],
    learned=sorted(i for i in read_there if learned(i)),
    fixed=sorted(i for i in read_there if kinds[i] != DATA and not learned(i)),
    trials=axes.of_trials(steps, body, layout.data, layout.batch),
  )


def _trace(cell, args) -> tuple[program.Program, Layout]:
  steps, out = program.read(cell.step, *args)
  state, inputs = args[2], args[4]
  check_state(state, out[1])
  borders = np.cumsum([0, *(len(jax.tree.leaves(arg)) for arg in args)])
  params, constants, states, _, _ = (
    steps.ins[a:b] for a, b in itertools.pairwise(borders)
  )
  names = [
    jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)
  ]
  return steps, Layout(
    params=params,
    constants=constants,
    states=states,
    data=steps.ins[borders[2] :],
    emission=steps.outs[0],
    after=steps.outs[1:],
    names=names,
    tree=jax.tree.structure(state),
    batch=inputs.shape[0],
  )


def _without_a_line(steps, layout: Layout, kinds: list[int]) -> list[bool]:
  """Which floats of the new state are not made by a line of their own.

  A leaf that stores an old one, or the same value as another leaf, and a leaf
  made of parameters alone, which meets no data.
  """
  seen: set[program.Atom] = set(layout.data)
  shared = []
  for number in layout.after:
    floating = isinstance(number, int) and steps.floating(number)
    learned = isinstance(number, int) and kinds[number] == LEARNED
    shared.append(floating and (learned or number in seen))
    seen.add(number)
  return shared


def _with_a_line(cell, layout, shared) -> interfaces.Cell:
  """The cell in which such leaves pass by the old ones, for their structure.

  A leaf of parameters then is a synapse like others, whose credit reaches the
  next step; and credit that ends at one leaf does not end at another.
  """

  def step(params, constants, state, keys, inputs):
    emission, after = cell.step(params, constants, state, keys, inputs)
    new = [
      # The value is x for every number, and NaN is none the less data.
      jnp.where(old == old, x, x) if meet else x
      for x, old, meet in zip(
        jax.tree.leaves(after), jax.tree.leaves(state), shared, strict=True
      )
    ]
    return emission, jax.tree.unflatten(layout.tree, new)

  return cell._replace(step=step)


def check_state(
  before: interfaces.ArrayTree, after: interfaces.ArrayTree
) -> None:
  """Raises TypeError unless a step keeps the tree, shapes and types of a state.

  Complex leaves are refused: traces and influences are real.
  """
  if jax.tree.structure(before) != jax.tree.structure(after):
    raise TypeError(
      'a step changes the tree of the state, from '
      f'{jax.tree.structure(before)} to {jax.tree.structure(after)}.'
    )
  # Traces multiply real slopes; of complex ones they would be wrong silently.
  over_time.check_real(before)
  pairs = zip(
    jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
  )
  for (path, old), new in pairs:
    name = f'state{jax.tree_util.keystr(path)}'
    if (old.shape, old.dtype) != (new.shape, new.dtype):
      raise TypeError(
        f'a step changes {name} from {old.dtype}{list(old.shape)} to '
        f'{new.dtype}{list(new.shape)}; a state keeps its shape and type.'
      )


def _kinds(steps, layout) -> tuple[list[int], list[frozenset[int]]]:
  """What each value depends on, and the leaves of the parameters behind it."""
  kinds = [FIXED] * len(steps.shapes)
  sources = [frozenset[int]()] * len(steps.shapes)
  for leaf, number in enumerate(layout.params):
    kinds[number] = LEARNED
    sources[number] = frozenset((leaf,))
  for number in layout.data:
    kinds[number] = DATA
  for line in steps.lines:
    ins = [i for i in line.ins if isinstance(i, int)]
    for number in line.outs:
      kinds[number] = max((kinds[i] for i in ins), default=FIXED)
      sources[number] = frozenset().union(*(sources[i] for i in ins))
  return kinds, sources
