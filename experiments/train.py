# SPDX-License-Identifier: Apache-2.0
"""Trains what a config says, into a folder.

How to start it:

  python -m experiments.train --config=experiments/configs/prototypes.py \
    --workdir=runs/prototypes [--config.batch_size=32 ...]
  python -m experiments.train --list
"""

from experiments.shell import signals

if __name__ == '__main__':
  signals.end_at_once()  # before JAX is imported, which takes seconds

from absl import flags

from experiments import session
from experiments.shell import commandline


def _main(argv: list[str]) -> None:
  del argv
  if _LIST.value:
    with commandline.bad_input():
      print(session.installed())
    return
  config = flags.FLAGS.config
  if config is None or not _WORKDIR.value:
    commandline.refuse('--config and --workdir are needed (or --list).')
  session.train(
    config,
    _WORKDIR.value,
    _PROBE.value,
    profile=_PROFILE.value,
    check_credit=_CHECK_CREDIT.value,
  )


if __name__ == '__main__':
  commandline.define_config('A file of experiments/configs, with :VARIANT.')
  _WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of this run; where it holds the run already, it goes on.',
  )
  _PROBE = flags.DEFINE_list(
    'probe',
    [],
    'Held-out trials, by number, to record from the inside at the end.',
  )
  _PROFILE = flags.DEFINE_bool(
    'profile', False, 'Write a JAX trace of one range of updates.'
  )
  _CHECK_CREDIT = flags.DEFINE_bool(
    'check_credit',
    True,
    'Check, before the run, the credit that the rule gives to a cell that is '
    'not built in.',
  )
  _LIST = flags.DEFINE_bool('list', False, 'List what is installed, and exit.')
  commandline.run(_main)
