# SPDX-License-Identifier: Apache-2.0
"""Runs binaries on many argument lists, each in a fork of one warm process.

  python tests/experiments/fork_runs.py <<< '["experiments.train", "--list"]'

Answers each line, a JSON list `[module, argument, ...]`, with a line, a JSON
object `{"status", "stdout", "stderr"}`. Imports cost seconds and are done once;
no JAX backend starts before a fork, so each run is as alone as a process of its
own. The modules themselves are not imported here: they run as `__main__`.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback


def main() -> None:
  """Reads a case, forks a run for it, prints what came of it, and again."""
  import_all()
  for line in sys.stdin:
    print(json.dumps(_forked(*json.loads(line))), flush=True)


def import_all() -> None:
  """Imports all that the binaries do, before the first fork."""
  import experiments.figures.confusion_matrix
  import experiments.figures.learning_curve
  import experiments.session  # noqa: F401


def _forked(module: str, *args: str) -> dict:
  with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
    child = os.fork()
    if not child:
      os.dup2(out.fileno(), 1)
      os.dup2(err.fileno(), 2)
      os._exit(run(module, args))
    _, status = os.waitpid(child, 0)
    result = {'status': os.waitstatus_to_exitcode(status)}
    for name, stream in (('stdout', out), ('stderr', err)):
      stream.seek(0)
      result[name] = stream.read()
  return result


def run(module: str, args: tuple[str, ...]) -> int:
  """Runs a module as `python -m` would; returns its exit status."""
  status = 0
  sys.argv = [module, *args]
  sys.modules.pop(module, None)  # it runs anew, as __main__
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  except SystemExit as end:
    status = end.code if isinstance(end.code, int) else int(bool(end.code))
  except BaseException:
    traceback.print_exc()
    status = 1
  sys.stdout.flush()
  sys.stderr.flush()
  return status


if __name__ == '__main__':
  main()
