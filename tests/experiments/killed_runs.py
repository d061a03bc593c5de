# SPDX-License-Identifier: Apache-2.0
"""Runs a training that is killed again and again, and goes on each time.

  python tests/experiments/killed_runs.py WORKDIR WHOLE KILLS SEED -- ARGUMENTS

Starts `experiments.train` with the arguments and `--workdir=WHOLE` in a fork of
this process, and waits for its end. Starts it with `--workdir=WORKDIR`, kills
it (SIGKILL) at a random moment after a checkpoint is there, and starts it
again, until it was killed KILLS times; the last one may end. Every other kill
waits for a checkpoint that is being written. After each, every checkpoint is
verified. Prints a JSON object: the statuses, the outputs,
and how many of the kills hit a write.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

import fork_runs

_PATIENCE = 120.0


def main() -> None:
  """Kills and restarts, and prints what came of it."""
  cut = sys.argv.index('--')
  folder, whole, kills, seed = sys.argv[1:cut]
  arguments = sys.argv[cut + 1 :]
  fork_runs.import_all()
  from bionet_learners.training import checkpoints

  workdir, rng = pathlib.Path(folder), random.Random(int(seed))
  report = {'statuses': [], 'outputs': [], 'writes_hit': 0, 'verified': 0}
  output = workdir.with_name(workdir.name + '.out')

  def start(path):
    flags = [*arguments, f'--workdir={path}']
    with output.open('w') as stream:
      return fork_runs.fork(['experiments.train', *flags], stream, stream)

  os.waitpid(start(whole), 0)
  for kill in range(int(kills) + 1):
    child = start(workdir)
    if kill < int(kills):
      _kill(child, workdir / 'checkpoints', rng, in_write=kill % 2 == 1)
    _, status = os.waitpid(child, 0)
    report['statuses'].append(os.waitstatus_to_exitcode(status))
    report['outputs'].append(output.read_text())
    saved = workdir / 'checkpoints'
    report['writes_hit'] += bool(list(saved.glob('*.partial*')))
    for step in checkpoints.all_steps(saved):
      checkpoints.verify(saved / f'checkpoint_{step}')
      report['verified'] += 1
  json.dump(report, sys.stdout)


def _kill(child: int, folder: pathlib.Path, rng, *, in_write: bool) -> None:
  """Kills a child after it has written a checkpoint of its own."""

  def there():
    return {path.name for path in folder.glob('checkpoint_*')}

  before, end = there(), time.monotonic() + _PATIENCE

  def wait(condition):
    while not condition() and _alive(child) and time.monotonic() < end:
      time.sleep(0.0005)

  wait(lambda: {name for name in there() - before if '.' not in name})
  time.sleep(rng.uniform(0, 0.2))
  if in_write:
    wait(lambda: any('.partial' in name for name in there()))
  os.kill(child, signal.SIGKILL)


def _alive(child: int) -> bool:
  """Whether a child runs still; it stays to be waited for."""
  options = os.WEXITED | os.WNOHANG | os.WNOWAIT
  return os.waitid(os.P_PID, child, options) is None


if __name__ == '__main__':
  main()
