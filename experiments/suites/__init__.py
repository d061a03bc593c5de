# SPDX-License-Identifier: Apache-2.0
"""One file per suite of `experiments.bench`, and what all suites share.

A suite has `SEEDS` (its default) and `run(seeds, only) -> rows`: dicts with the
same keys, those whose name contains `only`. It may have `draw(rows, path)`.
"""

import re
import types
from collections.abc import Mapping, Sequence

SUITES = types.MappingProxyType(
  {
    'cell_fate': 'utility at three time steps, each learner and seed',
    'copying': 'recall by BPTT and by D-RTRL, beside what has no traces',
    'digits': 'local plasticity on real digits, beside linear classifiers',
    'evidence': 'evidence accumulation by spiking units, each variant and seed',
    'evolution': 'CPU time of a generation, beside a loop over members',
    'gpu': 'truth and speed on an accelerator, to be run where there is one',
    'memory': 'BPTT and online rules on every task that tests memory',
    'prototypes': 'local plasticity on prototypes, beside what is simpler',
    'online': 'time and memory of an update by length of the trials',
    'relaxation': 'CPU time of an update, beside its bare matrix products',
    'scale': 'how memory and time of each rule grow, beside theory',
    'sde': 'order, noise, memory and time of the tissue',
  }
)
"""`{name: what it measures}`; each is a module of this package."""


def table(rows: Sequence[Mapping]) -> str:
  """Rows of one set of keys as an aligned text table."""
  names = list(rows[0])
  cells = [names] + [[_cell(row[name]) for name in names] for row in rows]
  widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
  lines = [
    '  '.join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    )
    for line in cells
  ]
  lines.insert(1, '  '.join('-' * width for width in widths))
  return '\n'.join(line.rstrip() for line in lines)


def _cell(value) -> str:
  return f'{value:.4f}' if isinstance(value, float) else str(value)


def parse_seeds(parts: Sequence[str]) -> list[int]:
  """Seeds of a list such as `['0', '10-12']`: 0, 10, 11 and 12.

  Raises:
    ValueError: for a part that is neither a seed nor a range.
  """
  seeds = []
  for part in parts:
    match = re.fullmatch(r'(\d+)(?:-(\d+))?', part.strip())
    if not match:
      raise ValueError(f'--seeds: {part!r} is neither a seed nor a range.')
    first, last = int(match[1]), int(match[2] or match[1])
    seeds += range(first, last + 1)
  return seeds
