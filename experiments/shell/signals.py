# SPDX-License-Identifier: Apache-2.0
"""What a scheduler says before it stops a job."""

import contextlib
import signal
from collections.abc import Callable, Iterator

REQUEUE = 75
"""Exit status of a run that saved itself and wants to be started again."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], bool]]:
  """Inside, SIGTERM and SIGUSR1 end nothing, and are noted.

  Yields a function that says whether a signal has come. The loop calls it at
  each border, saves, and ends the process itself. Python sets handlers in the
  main thread alone, so this is entered there.
  """
  received = []
  before = {
    number: signal.signal(number, lambda number, _: received.append(number))
    for number in _SIGNALS
  }
  try:
    yield lambda: bool(received)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
