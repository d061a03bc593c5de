# SPDX-License-Identifier: Apache-2.0
"""Scores a trained learner on every evaluation of its task.

How to start it:

  python -m experiments.evaluate --workdir=runs/prototypes

It prints a table, saves it as evaluation.json and draws the figures anew.
"""

from experiments.shell import signals

if __name__ == '__main__':
  signals.end_at_once()

from absl import flags

from experiments import session
from experiments.shell import commandline


def _main(argv: list[str]) -> None:
  del argv
  session.evaluate(_WORKDIR.value, _WHICH.value, _PROBE.value)


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run to evaluate.', required=True
  )
  _WHICH = flags.DEFINE_enum(
    'which', 'last', ['last', 'best'], 'The checkpoint to evaluate.'
  )
  _PROBE = flags.DEFINE_list(
    'probe',
    [],
    'Held-out trials, by number, whose states and traces to record.',
  )
  commandline.run(_main)
