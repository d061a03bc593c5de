# SPDX-License-Identifier: Apache-2.0
"""Where metrics go: JSON lines for programs, event files for TensorBoard."""

import json
import os
import pathlib
import time
from collections.abc import Mapping

from tensorboardX import event_file_writer, summary
from tensorboardX.proto.event_pb2 import (  # made by protobuf at run time
  Event,  # pyright: ignore[reportAttributeAccessIssue]
  SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)

from bionet_learners.training import files, paths

Row = dict  # 'step' int, 'split' 'train' or 'eval', then {name: float}


class MetricsWriter:
  """Appends each row of scalars to `metrics.jsonl` and to an event file.

  A row is one JSON object a line: `step`, `split` ('train' or 'eval'), then the
  scalars. A row is on the disk when `write` returns.

  Attributes:
    rows: all rows of the file, those of earlier sessions included.
  """

  def __init__(self, workdir: str | os.PathLike[str], step: int = 0):
    """Opens the files in `workdir`, which must exist.

    Args:
      workdir: the folder.
      step: where the run goes on. Rows past it are of updates that are about to
        be made again; they are dropped, atomically, so that none stands twice,
        and TensorBoard is told to hide their scalars.
    """
    path = paths.local('workdir', workdir) / 'metrics.jsonl'
    self.rows = _drop_past(path, step)
    self._lines = path.open('a', encoding='utf-8')
    # Written here and now: SummaryWriter's thread would fail where nobody sees
    # it. The number keeps sessions of one second apart, and in their order.
    session = len(list(path.parent.glob('events.out.tfevents.*')))
    self._events = event_file_writer.EventsWriter(
      os.path.join(workdir, 'events'), filename_suffix=f'.{session:04d}'
    )
    if step:
      start = SessionLog(status=SessionLog.START)
      self._add_event(step + 1, session_log=start)

  def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
    """Writes one row (`make_row`); `step` counts updates done."""
    row = make_row(step, split, scalars)
    self._lines.write(json.dumps(row) + '\n')
    self._lines.flush()
    os.fsync(self._lines.fileno())
    self.rows.append(row)
    for name, value in scalars.items():
      scalar = summary.scalar(f'{split}/{name}', value)
      self._add_event(step, summary=scalar)
    self._events.flush()

  def _add_event(self, step: int, **content) -> None:
    self._events.write_event(Event(wall_time=time.time(), step=step, **content))

  def close(self) -> None:
    """Flushes and closes both files."""
    self._lines.close()
    self._events.close()

  def __enter__(self) -> 'MetricsWriter':
    return self

  def __exit__(self, *exc_info) -> None:
    self.close()


def make_row(step: int, split: str, scalars: Mapping[str, float]) -> Row:
  """A row of scalars.

  Raises:
    ValueError: for a scalar that is called as a field of the row.
  """
  taken = {'step', 'split'} & scalars.keys()
  if taken:
    raise ValueError(f'a metric may not be called {taken.pop()!r}.')
  return {'step': step, 'split': split, **scalars}


def read_rows(path: pathlib.Path) -> list[Row]:
  """The rows of a file; a last line that was cut short is left out."""
  if not path.exists():
    return []
  lines = path.read_text(encoding='utf-8').split('\n')
  return [json.loads(line) for line in lines[:-1]]


def _drop_past(path: pathlib.Path, step: int) -> list[Row]:
  """Leaves the rows up to a step in the file, and returns them."""
  rows = [row for row in read_rows(path) if row['step'] <= step]
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  if not path.exists() or path.read_text(encoding='utf-8') == text:
    return rows
  files.write_atomically(path, text)
  return rows
