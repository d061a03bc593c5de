# SPDX-License-Identifier: Apache-2.0
"""What a function says to a keyword argument that it does not have."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import ParamSpec, TypeVar

from bionet_core import plugins

P = ParamSpec('P')
R = TypeVar('R')


def answered(**elsewhere: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
  """A decorator: an unknown keyword raises a TypeError that names a known one.

  Args:
    **elsewhere: the argument that is meant by a name other libraries use.
  """

  def decorate(function: Callable[P, R]) -> Callable[P, R]:
    known = [*inspect.signature(function).parameters]

    @functools.wraps(function)
    def decorated(*args: P.args, **kwargs: P.kwargs) -> R:
      check(function.__qualname__, kwargs, known, elsewhere)
      return function(*args, **kwargs)

    return decorated

  return decorate


def check(
  function: str,
  given: Collection[str],
  known: Collection[str],
  elsewhere: Mapping[str, str],
) -> None:
  """Raises TypeError for a name that is not known, with the one to use."""
  for name in given:
    if name not in known:
      # A name of another library's is near nothing but what it stands for.
      hint = plugins.near(elsewhere.get(name, name), known)
      names = ', '.join(n for n in known if n not in ('self', 'cls'))
      raise TypeError(
        f'{function} has no argument {name!r}.{hint} There are: {names}.'
      )
