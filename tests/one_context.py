# SPDX-License-Identifier: Apache-2.0
"""One MLIR context, in which a process lowers all its programs.

JAX makes one for each program, which takes a fifth of the time that a small
program takes, and two thirds of the megabyte: what is lowered is kept, and with
it its context. A program that is lowered while another one is gets its own:
MLIR would write it into the other.
"""

import functools


@functools.cache
def _shared():
  return _make()


def _context():  # the current one raises where there is none
  try:
    ir.Context.current  # noqa: B018
  except ValueError:
    return _shared()
  return _make()


try:  # JAX's own affair: a version may have none to replace
  from jax._src.interpreters import mlir
  from jaxlib.mlir import ir

  _make, mlir.make_ir_context = mlir.make_ir_context, _context
except (ImportError, AttributeError):
  pass


def forget() -> None:
  """What is lowered from now on is in another one."""
  _shared.cache_clear()
