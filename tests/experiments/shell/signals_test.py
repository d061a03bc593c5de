# SPDX-License-Identifier: Apache-2.0
"""What a scheduler says is heard, and answered with a checkpoint.

Truth: the signals themselves, sent to this process and to runs of their own.
"""

import os
import re
import signal
import time

import pytest

from bionet_learners.training import checkpoints
from experiments.shell import signals
from tests.experiments import smoke

NOTED = (
  signal.SIGTERM,
  signal.SIGUSR1,
  signal.SIGUSR2,
  signal.SIGXCPU,
  signal.SIGHUP,
)


@pytest.fixture
def handlers():
  """Handlers of the signals that are not the system's own."""
  before = {number: signal.getsignal(number) for number in NOTED}
  mine = {number: lambda *_: None for number in NOTED}
  for number, handler in mine.items():
    signal.signal(number, handler)
  yield mine
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize('number', NOTED, ids=lambda n: n.name)
def test_a_signal_is_noted_and_ends_nothing(number, handlers):
  """Truth: the signal, sent; it stays noted, and the next time starts anew."""
  for _ in range(2):
    with signals.noted() as came:
      assert not came()
      signal.raise_signal(number)
      assert came() and came()
  assert {n: signal.getsignal(n) for n in NOTED} == handlers


def test_handlers_come_back_after_an_error(handlers):
  """Truth: the handlers from before; another signal's was never touched."""
  interrupt = signal.getsignal(signal.SIGINT)
  with pytest.raises(InterruptedError), signals.noted():
    assert signal.getsignal(signal.SIGTERM) != handlers[signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) == interrupt
    raise InterruptedError
  assert {n: signal.getsignal(n) for n in NOTED} == handlers


# A run of 100,000 updates, with a border at every 50.
RUN = (
  'experiments.train',
  '--config=experiments/configs/copying.py:smoke',
  '--config.num_updates=100000',
  '--config.log_every=50',
  '--config.eval_every=100000',
  '--config.checkpoint_every=100000',
)


@pytest.mark.parametrize(
  'number',
  [NOTED[0], pytest.param(NOTED[1], marks=pytest.mark.slow)],
  ids=lambda n: n.name,
)
def test_a_run_saves_itself_and_asks_to_go_on(number, tmp_path, server):
  """Truth: status 75, one line, and the last border that was reported.

  The signal is sent after the first line of progress. Borders are the multiples
  of 50, and no checkpoint was due at any of them.
  """
  workdir, output = tmp_path / 'run', tmp_path / 'output'
  run = server(
    start=[*RUN, f'--workdir={workdir}'],
    cwd=smoke.REPO,
    stdout=output,
    stderr=tmp_path / 'error',
  )['pid']
  # The process ends by itself in some minutes, whatever comes.
  while '\nupdate ' not in output.read_text():
    time.sleep(0.01)
  os.kill(run, number)
  assert server(wait=run)['status'] == signals.REQUEUE == 75
  lines = output.read_text().splitlines()
  error = (tmp_path / 'error').read_text()
  found = re.fullmatch(
    r'error: asked to stop: saved after update (\d+)\. The same command goes '
    rf'on from .* in {re.escape(str(workdir))}\.\n',
    error,
  )
  step = int(found[1])
  assert step % 50 == 0 and 0 < step < 100_000
  assert lines[-1].startswith(f'update {step}/100000 ')
  assert checkpoints.all_steps(workdir / 'checkpoints') == [step]
  checkpoints.verify(workdir / 'checkpoints' / f'checkpoint_{step}')
  assert not (workdir / 'result.json').exists()
