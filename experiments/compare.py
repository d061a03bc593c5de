# SPDX-License-Identifier: Apache-2.0
"""Compares runs of one task: metrics against what it took to reach them.

How to start it:

  python -m experiments.compare --workdirs=runs/online,runs/offline \
    --output=comparison.png [--metric=loss,accuracy] [--split=eval]

Runs that differ by seed alone are drawn as one: their mean, with the 95 %
interval of the mean. Their tasks must have the same settings, but for seeds and
such as change the training alone.

Drawn are the held-out evaluations of each run, so give the runs a small
`eval_every`; a finished one begins with its untrained network. What a run took
is counted in updates, in trials simulated and in CPU seconds of training:
`experiments/judge/comparison.py` says how.
"""

from experiments.shell import signals

if __name__ == '__main__':
  signals.end_at_once()

from absl import flags

from bionet_learners.training import paths
from experiments.figures import comparison as figure
from experiments.judge import comparison
from experiments.shell import commandline


def _main(argv: list[str]) -> None:
  del argv
  with commandline.bad_input():
    output = paths.local('--output', _OUTPUT.value).absolute()
    if not output.parent.is_dir() or output.suffix != '.png':
      raise ValueError(
        f'--output={_OUTPUT.value}: name a .png file in a folder that is there.'
      )
    title, compared = comparison.compare(
      _WORKDIRS.value, _METRIC.value, _SPLIT.value
    )
    figure.draw(title, compared, output)
  width = max(len(curve.label) for curve in compared[0].curves)
  for row in compared:
    for curve in row.curves:
      costs = ', '.join(
        f'{values[-1]:,.0f} {axis}' for axis, values in curve.costs.items()
      )
      spread = ''
      if curve.interval is not None:
        low, high = (end[-1] for end in curve.interval)
        spread = f' (95 % interval {low:.4f} to {high:.4f})'
      print(
        f'{curve.label:{width}}  {row.metric} {curve.values[-1]:.4f}{spread} '
        f'after {costs}'
      )
  print(f'wrote {output}')


if __name__ == '__main__':
  _WORKDIRS = flags.DEFINE_list(
    'workdirs', None, 'Folders of the runs, with commas.', required=True
  )
  _OUTPUT = flags.DEFINE_string(
    'output', None, 'The PNG to write.', required=True
  )
  _METRIC = flags.DEFINE_list(
    'metric', [], "The metrics to compare; the task's main one if not given."
  )
  _SPLIT = flags.DEFINE_enum(
    'split', 'eval', ['eval', 'train'], 'Held-out rows, or those of training.'
  )
  commandline.run(_main)
