# SPDX-License-Identifier: Apache-2.0
"""Measures: speed against a floor, accuracy against baselines.

  python -m experiments.bench --suite=relaxation
  python -m experiments.bench --suite=prototypes --seeds=0,1,2,3,4

Every suite prints a table; `--output=FILE.json` also keeps its rows.
"""

import importlib
import pathlib
import types

from absl import flags

from experiments import commandline
from experiments import workdir as workdirs

SUITES = types.MappingProxyType(
  {
    'copying': 'recall after 500 updates of BPTT',
    'digits': 'local plasticity on real digits, beside linear classifiers',
    'prototypes': 'local plasticity on prototypes, beside what is simpler',
    'relaxation': 'CPU time of an update, beside its bare matrix products',
  }
)
"""`{name: what it measures}`; each is a module of `experiments.suites`."""


def table(rows: list[dict]) -> str:
  """Rows of one set of keys as an aligned text table."""
  names = list(rows[0])
  cells = [names] + [[_cell(row[name]) for name in names] for row in rows]
  widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
  lines = [
    '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
    for line in cells
  ]
  lines.insert(1, '  '.join('-' * width for width in widths))
  return '\n'.join(line.rstrip() for line in lines)


def _cell(value) -> str:
  return f'{value:.4f}' if isinstance(value, float) else str(value)


def _main(argv: list[str]) -> None:
  del argv
  suite = importlib.import_module(f'experiments.suites.{_SUITE.value}')
  with commandline.bad_input():
    seeds = [int(seed) for seed in _SEEDS.value or suite.SEEDS]
  rows = suite.run(seeds)
  print(table(rows))
  if _OUTPUT.value:
    content = {'suite': _SUITE.value, 'seeds': seeds, 'rows': rows}
    workdirs.write_json(pathlib.Path(_OUTPUT.value).absolute(), content)


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
    'seeds', None, "Seeds or splits, e.g. 0,1,2; by default the suite's own."
  )
  _OUTPUT = flags.DEFINE_string('output', None, 'A JSON file for the rows.')
  commandline.run(_main)
