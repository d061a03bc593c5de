# SPDX-License-Identifier: Apache-2.0
"""Measures: speed against a floor, accuracy against baselines.

  python -m experiments.bench --suite=relaxation
  python -m experiments.bench --suite=prototypes --seeds=0,1,2 --only=best

Every suite prints a table; `--output=FILE.json` also keeps its rows, and draws
FILE.png where the suite has a figure.
"""

from experiments.shell import signals

if __name__ == '__main__':
  signals.end_at_once()

import importlib

from absl import flags

from bionet_learners.training import paths
from experiments import suites
from experiments.shell import commandline, workdirs


def _main(argv: list[str]) -> None:
  del argv
  suite = importlib.import_module(f'experiments.suites.{_SUITE.value}')
  with commandline.bad_input():
    seeds = suites.parse_seeds(_SEEDS.value) or list(suite.SEEDS)
    output = paths.local('--output', _OUTPUT.value or 'unused').absolute()
  if not output.parent.is_dir() or output.is_dir():
    commandline.refuse(
      f'--output={_OUTPUT.value}: must be a file in a folder that is there.'
    )
  rows = suite.run(seeds, _ONLY.value)
  if not rows:
    commandline.refuse(
      f'--only={_ONLY.value}: no row of {_SUITE.value} has it in its name.'
    )
  print(suites.table(rows))
  if _OUTPUT.value:
    content = {'suite': _SUITE.value, 'seeds': seeds, 'rows': rows}
    workdirs.write_json(output, content)
    print(f'wrote {output}')
    if hasattr(suite, 'draw'):
      suite.draw(rows, output.with_suffix('.png'))
      print(f'wrote {output.with_suffix(".png")}')


if __name__ == '__main__':
  _SUITE = flags.DEFINE_enum(
    'suite',
    None,
    list(suites.SUITES),
    'What to measure. '
    + ' '.join(f'{name}: {text}.' for name, text in suites.SUITES.items()),
    required=True,
  )
  _SEEDS = flags.DEFINE_list(
    'seeds',
    [],
    "Seeds or splits, e.g. 0,1,2 or 0-19; default: the suite's own.",
  )
  _ONLY = flags.DEFINE_string(
    'only', '', 'Measure only the rows with this in their name.'
  )
  _OUTPUT = flags.DEFINE_string('output', None, 'A JSON file for the rows.')
  commandline.run(_main)
