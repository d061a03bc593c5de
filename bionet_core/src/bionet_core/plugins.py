# SPDX-License-Identifier: Apache-2.0
"""Finding tasks, cells, networks and learners by name.

Built-ins stand in one read-only table a package, `name -> 'module:factory'`.
Other people's packages announce theirs as entry points of the groups
`bionet.tasks`, `bionet.cells`, `bionet.networks` and `bionet.learners`:

  [project.entry-points."bionet.learners"]
  my_rule = "my_package.my_rule:my_rule"

While a factory is being written, the name `my_module:my_rule` finds it without
any package at all. Geometries of a tissue (`bionet.geometries`) are found so.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata


def names(group: str, builtin: Mapping[str, str]) -> list[str]:
  """All names of a group, sorted; nothing is imported.

  Args:
    group: the entry-point group, e.g. `bionet.learners`.
    builtin: the package's own table, `name -> 'module:factory'`.

  Raises:
    ValueError: if one name has two owners.
  """
  return sorted(_table(group, builtin))


def load(group: str, name: str, builtin: Mapping[str, str]) -> Callable:
  """The factory of that name; only this one is imported.

  Args:
    group: the entry-point group, e.g. `bionet.learners`.
    name: a name in the group, or `module:factory`.
    builtin: the package's own table, `name -> 'module:factory'`.

  Raises:
    KeyError: for an unknown name; says what is near and all there is.
    TypeError: if the factory hides its parameters behind `**kwargs`.
    ValueError: if one name has two owners.
  """
  table = _table(group, builtin)
  if ':' not in name and name not in table:
    raise KeyError(
      f'no {group} named {name!r}.{near(name, table)} There are: '
      f'{", ".join(sorted(table))}.'
    )
  factory = _import(table.get(name, name), group)
  parameters = inspect.signature(factory).parameters.values()
  if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
    raise TypeError(
      f'{group} {name!r}: a factory must name its parameters, not take '
      '**kwargs; otherwise a misspelt setting would pass unseen.'
    )
  return factory


def near(word: str, known: Iterable[str]) -> str:
  """What an error adds for a misspelt word: a suggestion, or nothing.

  Args:
    word: what was given.
    known: what could have been meant.
  """
  matches = difflib.get_close_matches(word, [*known], n=1)
  return f' Did you mean {matches[0]!r}?' if matches else ''


def _table(group: str, builtin: Mapping[str, str]) -> dict[str, str]:
  table = dict(builtin)
  for point in metadata.entry_points(group=group):
    if table.get(point.name, point.value) != point.value:
      raise ValueError(
        f'two {group} are named {point.name!r}: {table[point.name]} and '
        f'{point.value}. Uninstall one of their packages.'
      )
    table[point.name] = point.value
  return table


def _import(path: str, group: str) -> Callable:
  module_name, _, attribute = path.partition(':')
  try:
    module = importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    if error.name != module_name:  # the module is there; its import is not
      raise
    raise KeyError(f'{group} {path!r}: no module {module_name!r}.') from error
  try:
    return getattr(module, attribute)
  except AttributeError as error:
    raise KeyError(
      f'{group} {path!r}: {module_name} has no {attribute!r}.'
    ) from error
