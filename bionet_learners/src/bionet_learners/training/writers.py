# SPDX-License-Identifier: Apache-2.0
"""Where metrics go: JSON lines for programs, event files for TensorBoard."""

import json
import os
import pathlib
from collections.abc import Mapping

import tensorboardX


class MetricsWriter:
  """Appends each row of scalars to `metrics.jsonl` and to an event file.

  A row is one JSON object a line: `step`, `split` ('train' or 'eval'), then the
  scalars. Rows are flushed as they are written; nothing is ever truncated.
  """

  def __init__(self, workdir: str | os.PathLike[str]):
    """Opens the files in `workdir`, which must exist."""
    path = pathlib.Path(workdir) / 'metrics.jsonl'
    self._lines = path.open('a', encoding='utf-8')
    self._events = tensorboardX.SummaryWriter(
      logdir=os.fspath(workdir), write_to_disk=True
    )

  def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
    """Writes one row; `step` counts updates done."""
    row = {'step': step, 'split': split, **scalars}
    self._lines.write(json.dumps(row) + '\n')
    self._lines.flush()
    for name, value in scalars.items():
      self._events.add_scalar(f'{split}/{name}', value, step)

  def close(self) -> None:
    """Flushes and closes both files."""
    self._lines.close()
    self._events.close()

  def __enter__(self) -> 'MetricsWriter':
    return self

  def __exit__(self, *exc_info) -> None:
    self.close()
