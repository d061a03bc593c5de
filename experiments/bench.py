# SPDX-License-Identifier: Apache-2.0
"""Measures: speed against a floor, accuracy against baselines.

  python -m experiments.bench --suite=relaxation
  python -m experiments.bench --suite=prototypes --seeds=0,1,2 --only=best

Every suite prints a table; `--output=FILE.json` also keeps its rows, and draws
FILE.png where the suite has a figure.
"""

import importlib
import pathlib
import re
import types

from absl import flags

from experiments import commandline
from experiments import workdir as workdirs

SUITES = types.MappingProxyType(
  {
    'cell_fate': 'utility at three time steps, each learner and seed',
    'copying': 'recall by BPTT and by D-RTRL, beside what has no traces',
    'digits': 'local plasticity on real digits, beside linear classifiers',
    'evidence': 'evidence accumulation by spiking units, each variant and seed',
    'evolution': 'CPU time of a generation, beside a loop over members',
    'memory': 'BPTT and online rules on every task that tests memory',
    'prototypes': 'local plasticity on prototypes, beside what is simpler',
    'online': 'time and memory of an update by length of the trials',
    'relaxation': 'CPU time of an update, beside its bare matrix products',
    'sde': 'order, noise, memory and time of the tissue',
  }
)
"""`{name: what it measures}`; each is a module of `experiments.suites`."""


def table(rows: list[dict]) -> str:
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


def parse_seeds(parts: list[str]) -> list[int]:
  """Seeds of a list such as `['0', '10-12']`: 0, 10, 11 and 12."""
  seeds = []
  for part in parts:
    found = re.fullmatch(r'(\d+)(?:-(\d+))?', part.strip())
    if not found:
      commandline.refuse(f'--seeds: {part!r} is neither a seed nor a range.')
    first, last = int(found[1]), int(found[2] or found[1])
    seeds += range(first, last + 1)
  return seeds


def _cell(value) -> str:
  return f'{value:.4f}' if isinstance(value, float) else str(value)


def _main(argv: list[str]) -> None:
  del argv
  suite = importlib.import_module(f'experiments.suites.{_SUITE.value}')
  seeds = parse_seeds(_SEEDS.value) if _SEEDS.value else list(suite.SEEDS)
  output = pathlib.Path(_OUTPUT.value or 'unused').absolute()
  if not output.parent.is_dir() or output.is_dir():
    commandline.refuse(f'--output={_OUTPUT.value} cannot be written as a file.')
  rows = suite.run(seeds, _ONLY.value)
  if not rows:
    commandline.refuse(f'no row of {_SUITE.value} has {_ONLY.value!r} in it.')
  print(table(rows))
  if _OUTPUT.value:
    content = {'suite': _SUITE.value, 'seeds': seeds, 'rows': rows}
    workdirs.write_json(output, content)
    if hasattr(suite, 'draw'):
      suite.draw(rows, output.with_suffix('.png'))


if __name__ == '__main__':
  _SUITE = flags.DEFINE_enum(
    'suite',
    None,
    list(SUITES),
    'What to measure. '
    + ' '.join(f'{name}: {text}.' for name, text in SUITES.items()),
    required=True,
  )
  _SEEDS = flags.DEFINE_list(
    'seeds',
    None,
    "Seeds or splits, e.g. 0,1,2 or 0-19; default: the suite's own.",
  )
  _ONLY = flags.DEFINE_string(
    'only', '', 'Measure only the rows with this in their name.'
  )
  _OUTPUT = flags.DEFINE_string('output', None, 'A JSON file for the rows.')
  commandline.run(_main)
