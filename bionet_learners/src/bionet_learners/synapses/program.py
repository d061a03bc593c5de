# SPDX-License-Identifier: Apache-2.0
"""A step as a list of lines: the only module that reads jaxprs.

Every value of the step has a number. A line is one primitive operation: the
numbers of its operands and of its results. Calls (`jit`, `checkpoint`) are
written out in place, so that the list is flat; a primitive with a derivative of
its own (`custom_jvp`, `custom_vjp`) and control flow (`scan`, `cond`) stay one
line, whose inside `inner` reads in the same way.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jaxprs

CALLS = frozenset(
  'call checkpoint closed_call core_call jit pjit remat remat2'.split()
)
"""Primitives that only call a jaxpr."""

CUSTOM = frozenset(
  'custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr'.split()
)
"""Primitives that call a jaxpr and have a derivative of their own."""


class Literal(NamedTuple):
  """An operand that stands for itself.

  Attributes:
    val: its value.
  """

  val: Any


Atom = int | Literal
"""An operand: the number of a value, or a literal."""


class Line(NamedTuple):
  """One operation of a step.

  Attributes:
    primitive: JAX's primitive.
    settings: its parameters.
    ins: its operands.
    outs: the numbers of its results.
  """

  primitive: Any
  settings: dict[str, Any]
  ins: tuple[Atom, ...]
  outs: tuple[int, ...]

  @property
  def name(self) -> str:
    """The primitive's name."""
    return self.primitive.name

  def bind(self, values: list[Any]) -> list[Any]:
    """The results of the operation on these operands."""
    # Some primitives hold jaxprs that must be functions again to be bound.
    settings = self.primitive.get_bind_params(self.settings)
    results = self.primitive.bind(*values, **settings)
    return list(results) if self.primitive.multiple_results else [results]


class Program(NamedTuple):
  """A step, flat.

  Attributes:
    lines: its operations, in their order.
    shapes: of each value.
    dtypes: of each value.
    ins: the numbers of the step's arguments, leaf by leaf.
    outs: of its results.
    closed: `{number: value}` of the arrays that the step closed over.
  """

  lines: list[Line]
  shapes: list[tuple[int, ...]]
  dtypes: list[Any]
  ins: list[int]
  outs: list[Atom]
  closed: dict[int, Any]

  def shape(self, atom: Atom) -> tuple[int, ...]:
    """The shape of an operand."""
    if isinstance(atom, int):
      return self.shapes[atom]
    return tuple(np.shape(atom.val))

  def floating(self, number: int) -> bool:
    """Whether a value can carry a derivative."""
    return jnp.issubdtype(self.dtypes[number], jnp.inexact)


def read(function: Callable, *args: Any) -> tuple[Program, Any]:
  """Traces a function and writes it out as a Program.

  Args:
    function: the function, e.g. a cell's step.
    *args: trees of arrays, tracers or shapes.

  Returns:
    The Program, and the tree of shapes of the function's result.
  """
  closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
  return written_out(closed.jaxpr, closed.consts), out


def written_out(jaxpr: Any, consts: Any = ()) -> Program:
  """A jaxpr as a Program."""
  program = Program([], [], [], [], [], {})
  program.ins.extend(_number(program, variable) for variable in jaxpr.invars)
  program.outs.extend(_write(program, jaxpr, consts, program.ins))
  return program


def inner(line: Line) -> Program:
  """The inside of a line that calls a jaxpr."""
  return written_out(*_opened(line.settings))


def _number(program: Program, variable: Any) -> int:
  program.shapes.append(tuple(variable.aval.shape))
  program.dtypes.append(variable.aval.dtype)
  return len(program.shapes) - 1


def _write(program: Program, jaxpr, consts, ins) -> list[Atom]:
  """Appends a jaxpr's lines; returns the numbers of its results."""
  known = dict(zip(jaxpr.invars, ins, strict=True))
  # Arrays that the step closed over are fixed values like any other.
  for variable, value in zip(jaxpr.constvars, consts, strict=True):
    known[variable] = _number(program, variable)
    program.closed[known[variable]] = value

  def atom(x) -> Atom:
    return Literal(x.val) if isinstance(x, jaxprs.Literal) else known[x]

  for equation in jaxpr.eqns:
    operands = tuple(atom(x) for x in equation.invars)
    # Written out in place: credit is followed line by line, also inside of jit.
    if equation.primitive.name in CALLS:
      outs = _write(program, *_opened(equation.params), operands)
    else:
      outs = tuple(_number(program, x) for x in equation.outvars)
      program.lines.append(
        Line(equation.primitive, equation.params, operands, outs)
      )
    known.update(zip(equation.outvars, outs, strict=True))
  return [atom(x) for x in jaxpr.outvars]


def _opened(settings: dict[str, Any]) -> tuple[Any, Any]:
  """The jaxpr of a call and its constants, closed or not."""
  for name in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
    if name in settings:
      called = settings[name]
      return getattr(called, 'jaxpr', called), getattr(called, 'consts', ())
  raise TypeError(f'a call without a jaxpr: {sorted(settings)}')


def names(program: Program) -> set[str]:
  """The names of all primitives, those inside of lines among them."""
  result = set()
  for line in program.lines:
    result.add(line.name)
    for setting in line.settings.values():
      for part in setting if isinstance(setting, tuple | list) else [setting]:
        called = getattr(part, 'jaxpr', part)
        if hasattr(called, 'eqns'):
          result |= names(written_out(called, getattr(part, 'consts', ())))
  return result


def live(program: Program) -> list[Line]:
  """The lines that the results depend on, in their order."""
  used, lines = {o for o in program.outs if isinstance(o, int)}, []
  for line in reversed(program.lines):
    if used & set(line.outs):
      used |= {i for i in line.ins if isinstance(i, int)}
      lines.append(line)
  return lines[::-1]


def used_inputs(program: Program) -> list[bool]:
  """Which arguments the results depend on."""
  used = {o for o in program.outs if isinstance(o, int)}
  for line in reversed(program.lines):
    if used & set(line.outs):
      used |= {i for i in line.ins if isinstance(i, int)}
  return [number in used for number in program.ins]


def pushed(line: Line) -> tuple[list[bool], Program]:
  """The tangents of a line that has a derivative of its own.

  Returns:
    Which operands have a tangent, and the program of `(tangents of these,
    operands) -> tangents of the results`.
  """
  ins, moves = _operands(line)
  floats = [x for x, m in zip(ins, moves, strict=True) if m]

  def push(tangents, values):
    run, primals = _of_floats(line, values, moves)
    return jax.jvp(run, primals, tangents)[1]

  return moves, read(push, floats, ins)[0]


def pulled(line: Line) -> tuple[list[bool], Program]:
  """The cotangents of a line that has a derivative of its own.

  Returns:
    Which operands have a cotangent, and the program of `(cotangents of the
    results, operands) -> cotangents of these`.
  """
  ins, moves = _operands(line)

  def pull(cotangents, values):
    run, primals = _of_floats(line, values, moves)
    return jax.vjp(run, *primals)[1](
      [
        c
        if jnp.issubdtype(c.dtype, jnp.inexact)
        else np.zeros(c.shape, jax.dtypes.float0)
        for c in cotangents
      ]
    )

  outs = jax.eval_shape(line.bind, ins)
  return moves, read(pull, outs, ins)[0]


def _operands(line: Line) -> tuple[list[jax.ShapeDtypeStruct], list[bool]]:
  """The shapes of a call's operands, and which of them are floating."""
  inside = inner(line)
  ins = [
    jax.ShapeDtypeStruct(inside.shapes[n], inside.dtypes[n]) for n in inside.ins
  ]
  return ins, [inside.floating(n) for n in inside.ins]


def _of_floats(line: Line, values, moves) -> tuple[Callable, list[Any]]:
  """A line as a function of its floating operands, and these."""

  # Integers and keys have no tangent; they stay as they are.
  def run(*floats):
    left = iter(floats)
    return line.bind(
      [next(left) if m else x for x, m in zip(values, moves, strict=True)]
    )

  return run, [x for x, m in zip(values, moves, strict=True) if m]
