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
  """Inside, SIGTERM and SIGUSR1 end nothing; what is yielded tells of them.

  The loop asks at each border, saves, and ends the process itself. To be
  entered in the main thread.
  """
  came = []
  before = {
    number: signal.signal(number, lambda number, _: came.append(number))
    for number in _SIGNALS
  }
  try:
    yield lambda: bool(came)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
