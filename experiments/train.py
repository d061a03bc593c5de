# SPDX-License-Identifier: Apache-2.0
r"""Trains what a config says, into a folder.

How to start it:

  python -m experiments.train --config=experiments/configs/prototypes.py \
    --workdir=runs/prototypes [--config.batch_size=32 ...]
  python -m experiments.train --list
  python -m experiments.train --config=FILE --print_config
"""

from experiments.shell import signals

if __name__ == '__main__':
  signals.end_at_once()  # before JAX is imported, which takes seconds

from absl import flags

from experiments import reference, session, suites
from experiments.runs import optimizer_settings
from experiments.shell import commandline, config_flag


def _main(argv: list[str]) -> None:
  del argv
  if _LIST.value:
    with commandline.bad_input():
      print(reference.installed())
    print('suites: python -m experiments.bench --suite=NAME, of')
    for name, text in suites.SUITES.items():
      print(f'{name}: {text}')
    return
  config = flags.FLAGS.config
  if _PRINT_CONFIG.value:
    if not config:
      commandline.refuse('--print_config: give --config=FILE, too.')
    with commandline.bad_input():
      print(reference.described(config, config_flag.file()))
    return
  if not config or not _WORKDIR.value:
    commandline.refuse(
      '--config and --workdir are needed (or --list, or --config and '
      '--print_config).'
    )
  session.train(
    config,
    _WORKDIR.value,
    _PROBE.value,
    profile=_PROFILE.value,
    check_credit=_CHECK_CREDIT.value,
  )


if __name__ == '__main__':
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
  _LIST = flags.DEFINE_bool(
    'list',
    False,
    'List every task, cell, network, learner and optimizer, every config with '
    'its variants, and the suites of measurements; and exit.',
  )
  _PRINT_CONFIG = flags.DEFINE_bool(
    'print_config',
    False,
    'Print every key of the config, with what it means and may be; and exit.',
  )
  commandline.run(_main, prepare=optimizer_settings.complete)
