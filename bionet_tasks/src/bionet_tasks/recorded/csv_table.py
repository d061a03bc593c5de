# SPDX-License-Identifier: Apache-2.0
"""A task of a table in a file: comma-separated values."""

import csv
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bionet_tasks import base
from bionet_tasks.recorded import arrays


class Table(NamedTuple):
  """The cells of a file, as they stand there.

  Attributes:
    path: the file.
    columns: `{name: cells}`, str `[R]`.
    lines: the line that each row ends in, int `[R]`, for messages.
  """

  path: str
  columns: dict[str, np.ndarray]
  lines: np.ndarray


def from_csv(
  *,
  path: str,
  targets: tuple[str, ...] = ('target',),
  inputs: tuple[str, ...] = (),
  trial: str = '',
  asked: str = 'each',
  classes: bool | None = None,
  num_classes: int | None = None,
  held_out: float = 0.2,
  split: int = 0,
  standardise: bool = False,
  ceiling: float | None = None,
  delimiter: str = ',',
) -> base.Task:
  r"""A task of the trials in a CSV file: `from_arrays` of its columns.

  The first line names the columns. A row is a static trial:

    width,height,target
    5.1,3.5,round
    4.9,3.0,long

  or, where a column numbers the trials, a step of one. Rows of a trial stand in
  the order of time, and trials may differ in length:

    trial,signal,target
    1,0.5,
    1,0.1,left
    2,0.3,

  A row without a target asks nothing. Where all targets are whole numbers they
  are classes, where all are numbers they are values, and else words, which are
  classes in the order of the alphabet.

  Args:
    path: the file; `~` is the home folder.
    targets: the column of the classes, or those of the values.
    inputs: the columns of the inputs; none: all others.
    trial: the column that tells one trial from the next; '': a row is a trial.
    asked: 'each' row that has a target, or the 'last' row of each trial alone,
      where a label is repeated in all rows.
    classes: whether targets are classes; None: as above.
    num_classes: as in `from_arrays`.
    held_out: the share of trials that are held out.
    split: seed of the draw.
    standardise: as in `from_arrays`.
    ceiling: likewise.
    delimiter: what stands between two columns; a tab is '\t'.

  Raises:
    ValueError: for a file that cannot be read, a column that it lacks, a cell
      that is no number, and what `from_arrays` refuses.
  """
  if asked not in ('each', 'last'):
    raise ValueError(f"asked={asked!r}: must be 'each' or 'last'.")
  table = _read(path, delimiter)
  for setting, names in (('targets', targets), ('trial', (trial,))):
    if not names:
      raise ValueError(f'{setting}=(): must name a column at least.')
    if trial or setting != 'trial':
      _check_columns(table, setting, names)
  others = [n for n in table.columns if n not in (*targets, trial)]
  inputs = tuple(inputs) or tuple(others)
  _check_columns(table, 'inputs', inputs)
  shared = [name for name in inputs if name not in others]
  if shared or not inputs:
    raise ValueError(
      f'inputs={inputs!r}: must name columns that are neither targets nor '
      f'trial; there are {", ".join(others) or "none"}.'
    )
  every = np.ones(len(table.lines), bool)
  shown = np.stack([_numbers(table, name, every) for name in inputs], axis=-1)
  rows = _rows_of_trials(table, trial)
  filled = [table.columns[name] != '' for name in targets]
  answered = np.all(filled, axis=0)
  partly = np.any(filled, axis=0) & ~answered
  if np.any(partly):
    raise ValueError(
      f'path={path!r}: line {table.lines[partly][0]} has some of its targets; '
      'a row must have all or none.'
    )
  if asked == 'last':
    last = [of_trial[-1] for of_trial in rows]
    answered &= np.isin(np.arange(len(every)), last)
  answers = _answers(table, targets, answered, classes)
  mask = np.zeros((len(rows), max(map(len, rows))))
  for weights, of_trial in zip(mask, rows, strict=True):
    weights[: len(of_trial)] = answered[of_trial]
    if not np.any(weights):
      raise ValueError(
        f'path={path!r}: the trial that ends in line '
        f'{table.lines[of_trial[-1]]} has no target; each must have one.'
      )
  return arrays.from_arrays(
    [shown[of_trial] for of_trial in rows],
    [answers[of_trial] for of_trial in rows],
    mask=mask,
    classes=classes,
    num_classes=num_classes,
    held_out=held_out,
    split=split,
    standardise=standardise,
    ceiling=ceiling,
    name='from_csv',
  )


def _read(path: str, delimiter: str) -> Table:
  separator = '\t' if delimiter == '\\t' else delimiter
  if len(separator) != 1:
    raise ValueError(f'delimiter={delimiter!r}: must be a single character.')
  file = pathlib.Path(path).expanduser()
  try:
    with file.open(newline='', encoding='utf-8-sig') as stream:
      reader = csv.reader(stream, delimiter=separator, strict=True)
      numbered = [(reader.line_num, [c.strip() for c in row]) for row in reader]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    reason = getattr(error, 'strerror', None) or error
    raise ValueError(f'path={path!r}: cannot be read: {reason}.') from error
  numbered = [(line, row) for line, row in numbered if any(row)]
  if len(numbered) < 2:
    raise ValueError(
      f'path={path!r}: must hold a line of names and rows below it.'
    )
  (_, names), *body = numbered
  if '' in names or len(set(names)) < len(names):
    raise ValueError(
      f'path={path!r}: must name each column once in its first line, and names '
      f'them {", ".join(map(repr, names))}.'
    )
  for line, row in body:
    if len(row) != len(names):
      raise ValueError(
        f'path={path!r}: line {line} has {len(row)} cells, and the first line '
        f'{len(names)} names.'
      )
  cells = np.array([row for _, row in body], dtype=str)
  return Table(
    path,
    dict(zip(names, cells.T, strict=True)),
    np.array([line for line, _ in body]),
  )


def _check_columns(table: Table, setting: str, names: Sequence[str]) -> None:
  for name in names:
    if name not in table.columns:
      given = names[0] if setting == 'trial' else tuple(names)
      raise ValueError(
        f'{setting}={given!r}: the file has no column {name!r}; there are '
        f'{", ".join(table.columns)}.'
      )


def _rows_of_trials(table: Table, trial: str) -> list[np.ndarray]:
  """The rows of each trial, in the order in which trials begin."""
  if not trial:
    return list(np.arange(len(table.lines))[:, None])
  _, first, which = np.unique(
    table.columns[trial], return_index=True, return_inverse=True
  )
  begun = np.argsort(np.argsort(first))[which]  # how many began before it
  order = np.argsort(begun, kind='stable')
  return np.split(order, np.cumsum(np.bincount(begun))[:-1])


def _answers(
  table: Table,
  targets: Sequence[str],
  answered: np.ndarray,
  classes: bool | None,
) -> np.ndarray:
  """Targets of the rows: classes int `[R]`, or float `[R]` or `[R, O]`."""
  cells = table.columns[targets[0]]
  if len(targets) == 1 and classes is not False:
    try:
      return _filled(answered, [int(cell) for cell in cells[answered]])
    except ValueError:
      pass  # of int: other numbers, or words
    try:
      [float(cell) for cell in cells[answered]]
    except ValueError:  # words
      return _filled(
        answered, np.unique(cells[answered], return_inverse=True)[1]
      )
  values = [_numbers(table, name, answered) for name in targets]
  return values[0] if classes else np.stack(values, axis=-1)


def _filled(rows: np.ndarray, values) -> np.ndarray:
  """The values of some rows, and 0 for the others."""
  values = np.asarray(values)
  whole = np.zeros(len(rows), values.dtype)
  whole[rows] = values
  return whole


def _numbers(table: Table, name: str, rows: np.ndarray) -> np.ndarray:
  """A column as float `[R]`: of some rows, and 0 for the others."""
  values = []
  for line, cell in zip(
    table.lines[rows], table.columns[name][rows], strict=True
  ):
    try:
      values.append(float(cell))
    except ValueError:
      raise ValueError(
        f'path={table.path!r}: line {line}, column {name!r}: {str(cell)!r} is '
        'no number.'
      ) from None
  return _filled(rows, np.array(values))
