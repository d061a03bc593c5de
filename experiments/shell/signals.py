# SPDX-License-Identifier: Apache-2.0
"""What a scheduler, or a user, says before a job is stopped.

It imports nothing that takes time: `end_at_once` is called first of all.
"""

import contextlib
import os
import signal
import stat
import types
from collections.abc import Callable, Iterator

REQUEUE = 75
"""Exit status of a run that saved itself and wants to be started again."""

INTERRUPTED = 130
"""Exit status of a run that a user has interrupted by Ctrl-C."""

_NOTHING = 'there is nothing to save. Give the same command again.'
STOPPED_EARLY = f'asked to stop: {_NOTHING}'
"""What is said of a run that was asked to stop before its first update."""
INTERRUPTED_EARLY = f'interrupted: {_NOTHING}'
"""Likewise, by Ctrl-C."""

_SIGNALS = (
  signal.SIGTERM,  # of every scheduler, and of `kill`
  signal.SIGUSR1,  # as Slurm is often told, and Grid Engine before a pause
  signal.SIGUSR2,  # of submitit, and of Grid Engine before the end
  signal.SIGXCPU,  # the CPU time is used up
  signal.SIGHUP,  # the terminal is closed
)


def end_at_once() -> None:
  """From now on a signal ends the process: one line, and status 75.

  To be called before anything else is imported, for JAX takes seconds: until a
  run has its folder there is nothing to save. `noted` takes over then. Ctrl-C
  ends in status 130.
  """
  for number in _heard():
    signal.signal(number, _end)
  if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as of `command &`
    signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], bool]]:
  """Inside, a signal that asks to stop ends nothing, and is noted.

  Yields a function that says whether one has come. The loop calls it at each
  border, saves, and ends the process itself. Ctrl-C raises KeyboardInterrupt.
  Python sets handlers in the main thread alone, so this is entered there.
  """
  received = []

  def note(number, frame):
    del frame
    received.append(number)
    _leave_terminal(number)

  handlers = dict.fromkeys(_heard(), note)
  if signal.getsignal(signal.SIGINT) is _end:
    handlers[signal.SIGINT] = signal.default_int_handler
  before = {
    number: signal.signal(number, handler)
    for number, handler in handlers.items()
  }
  try:
    yield lambda: bool(received)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _heard() -> tuple[signal.Signals, ...]:
  """The signals that ask to stop: all, but under `nohup` not SIGHUP."""
  if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    return tuple(n for n in _SIGNALS if n != signal.SIGHUP)
  return _SIGNALS


def _end(number: int, frame: types.FrameType | None) -> None:
  """Ends the process from within whatever it does."""
  del frame
  line, status = STOPPED_EARLY, REQUEUE
  if number == signal.SIGINT:
    line, status = INTERRUPTED_EARLY, INTERRUPTED
  _leave_terminal(number)
  # Neither Python's streams nor an exception: here either could get lost.
  with contextlib.suppress(OSError):
    os.write(2, f'error: {line}\n'.encode())
  os._exit(status)


def _leave_terminal(number: int) -> None:
  """After SIGHUP: what is written to a terminal that is closed would fail."""
  if number != signal.SIGHUP:
    return
  nowhere = os.open(os.devnull, os.O_WRONLY)
  for stream in (1, 2):
    # A device: that it is a terminal is not known of a closed one any more.
    with contextlib.suppress(OSError):  # a stream that is closed
      if stat.S_ISCHR(os.fstat(stream).st_mode):
        os.dup2(nowhere, stream)
  os.close(nowhere)
