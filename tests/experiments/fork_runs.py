# SPDX-License-Identifier: Apache-2.0
"""Runs binaries on many argument lists, each in a fork of one warm process.

  python tests/experiments/fork_runs.py <<< '{"run": ["experiments.train"]}'

Answers each line, a JSON object, with another. Imports cost seconds and are
done once; no JAX backend starts before a fork, so each run is as alone as a
process of its own. The modules themselves are not imported here: they run as
`__main__`.

  {"run": [module or file, argument, ...], "cwd", "paths"}
    -> {"status", "stdout", "stderr"}, when it has ended; `paths` are searched
    for modules first
  {"start": [module or file, argument, ...], "cwd", "paths", "stdout", "stderr"}
    -> {"pid"}, at once; the last two are the files that it writes to
  {"wait": pid} -> {"status"}
"""

import gc
import json
import os
import runpy
import sys
import tempfile
import traceback


def main() -> None:
  """Reads a request, forks a run for it, prints what came of it, and again."""
  import_all()
  for line in sys.stdin:
    print(json.dumps(_answer(**json.loads(line))), flush=True)


def import_all() -> None:
  """Imports all that the binaries do, before the first fork."""
  import experiments.figures.comparison
  import experiments.figures.confusion_matrix
  import experiments.figures.learning_curve
  import experiments.session  # noqa: F401
  from tests import one_context  # noqa: F401

  gc.collect()
  gc.freeze()  # else a fork's first collection copies all that was imported


def _answer(run=None, start=None, wait=None, **where) -> dict:
  if wait is not None:
    return {'status': _status(wait)}
  if start is not None:
    out, err = where.pop('stdout'), where.pop('stderr')
    with open(out, 'w') as out, open(err, 'w') as err:
      return {'pid': fork(start, out, err, **where)}
  with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
    result = {'status': _status(fork(run, out, err, **where))}
    for name, stream in (('stdout', out), ('stderr', err)):
      stream.seek(0)
      result[name] = stream.read()
  return result


def fork(arguments, out, err, cwd='.', paths=()) -> int:
  """Starts a run in a fork that writes to these files; its pid."""
  child = os.fork()
  if not child:
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    os.chdir(cwd)
    sys.path[:0] = paths
    os._exit(_run(*arguments))
  return child


def _status(child: int) -> int:
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run(program: str, *arguments: str) -> int:
  """Runs a program as `python -m` or `python` would; its exit status."""
  status = 0
  sys.argv = [program, *arguments]
  sys.modules.pop(program, None)  # it runs anew, as __main__
  try:
    if program.endswith('.py'):
      sys.path.insert(0, os.path.dirname(program))
      runpy.run_path(program, run_name='__main__')
    else:
      runpy.run_module(program, run_name='__main__', alter_sys=True)
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
