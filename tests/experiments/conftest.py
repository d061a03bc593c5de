# SPDX-License-Identifier: Apache-2.0
"""Runs that many tests look at are made by one worker for all."""

import contextlib
import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from matplotlib import figure as mpl_figure

from bionet_learners.training import metrics
from bionet_learners.training import scoring as learner_scoring
from experiments import session
from experiments.figures import confusion_matrix, learning_curve
from experiments.judge import scoring
from experiments.runs import build, updates
from tests.experiments import smoke

_DRAWN = {figure: figure.draw for figure in (learning_curve, confusion_matrix)}


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were saved."""
  figures = []
  save = mpl_figure.Figure.savefig

  def savefig(self, *args, **kwargs):
    figures.append(self)
    save(self, *args, **kwargs)

  monkeypatch.setattr(mpl_figure.Figure, 'savefig', savefig)
  return figures


@pytest.fixture(scope='session')
def environment(compiled):
  """`(own=None) -> environment` of another process that runs an experiment.

  Such processes share what they compile with this one, which waits for them.
  One that is to be killed may leave half a file: it gets a folder of its own,
  with what the others have compiled.
  """

  def variables(own=None):
    if own:
      shutil.copytree(compiled, own, copy_function=os.link)
    return {
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': str(own or compiled),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0',
      'JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES': 'none',
    }

  return variables


@pytest.fixture(scope='session')
def server(environment):
  """`**request -> answer` of a process that forks runs: see fork_runs.py."""
  devices = '--xla_force_host_platform_device_count=4'
  with subprocess.Popen(
    [sys.executable, smoke.REPO / 'tests' / 'experiments' / 'fork_runs.py'],
    cwd=smoke.REPO,
    env={
      **environment(),
      'PYTHONPATH': os.pathsep.join(
        filter(None, [str(smoke.REPO), os.environ.get('PYTHONPATH', '')])
      ),
      'PYTHONDONTWRITEBYTECODE': '1',
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {devices}',
    },
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:

    def answer(**request):
      process.stdin.write(json.dumps(request, default=str) + '\n')
      process.stdin.flush()
      return json.loads(process.stdout.readline())

    yield answer


@pytest.fixture(scope='session')
def command(server):
  """`(program, *arguments) -> result` of a run: `status, stdout, stderr`.

  The program is a module or a file, and runs as alone as a process of its own.
  """

  def result(*arguments, cwd=smoke.REPO, paths=()):
    arguments = [str(argument) for argument in arguments]
    return server(run=arguments, cwd=cwd, paths=list(map(str, paths)))

  return result


@pytest.fixture(scope='session')
def once(of_all_workers):
  """`(name, make) -> folder`: made by the first worker that asks for it.

  Tests may read it, and must not write there.
  """
  root = of_all_workers / 'once'
  root.mkdir(exist_ok=True)

  def folder(name, make):
    path, done = root / name, root / f'{name}.done'
    with path.with_name(f'{name}.lock').open('w') as stream:
      fcntl.flock(stream, fcntl.LOCK_EX)
      if not done.exists():
        shutil.rmtree(path, ignore_errors=True)  # of a worker that failed
        make(path)
        done.touch()
    return path

  return folder


@pytest.fixture(scope='session')
def finished(once):
  """`name -> workdir` of a config's smoke variant, run once."""

  def workdir(name):
    def make(folder):
      folder.mkdir()
      (folder / 'head').write_text(str(smoke.head()))
      with contextlib.ExitStack() as stack:
        for figure, draw in _DRAWN.items():  # the test may draw none
          stack.enter_context(mock.patch.object(figure, 'draw', draw))
        smoke.run(smoke.config(name), folder / 'run')

    return once(f'finished_{name}', make) / 'run'

  return workdir


_OF_SESSIONS = {
  *('log_every', 'eval_every', 'checkpoint_every', 'early_stopping'),
  *('keep_last', 'keep_best', 'init_from'),
}


@pytest.fixture(scope='session')
def memory():
  """What `compiled_once` has made so far, by its arguments."""
  return {}


@pytest.fixture
def compiled_once(memory, monkeypatch):
  """Runs of one config in this process are one run, built and compiled once.

  For tests of what a session does with a run, its files and its borders: they
  train the same few configs again and again. Whether a run that is built anew
  is the same one, tests of processes tell.
  """

  def once_for(owner, name, key_of):
    make = getattr(owner, name)

    def made(*args):
      key = (name, *key_of(*args))
      if key not in memory:
        memory[key] = make(*args), args  # which keeps their ids theirs
      return memory[key][0]

    monkeypatch.setattr(owner, name, made)

  def ids(*args):
    return tuple(map(id, args))

  def built_of(config):  # what a session alone reads makes no other run
    content = config.to_dict()
    return (repr({k: v for k, v in content.items() if k not in _OF_SESSIONS}),)

  once_for(build, 'build', built_of)
  once_for(updates, 'make_advance_between', ids)
  once_for(scoring, 'on_training_trials', lambda task, size: (id(task), size))
  once_for(learner_scoring, 'make_score', ids)


@pytest.fixture
def no_figures(monkeypatch):
  for figure in _DRAWN:
    monkeypatch.setattr(figure, 'draw', lambda *_: None)


@pytest.fixture
def hollow(monkeypatch, no_figures):
  """Makes updates count and do nothing else: `{update: accuracy after it}`.

  An update that is not in the table has accuracy 0.5.
  """
  accuracies = {}

  def advance(state, first, last):
    state = state._replace(step=state.step + np.int32(last - first))
    return state, [metrics.Metrics({'loss': np.ones(last - first)})]

  def score(state):
    accuracy = accuracies.get(int(state.step), 0.5)
    trials = mock.Mock(targets=np.ones(1))
    return {'accuracy': accuracy, 'loss': 1.0}, None, trials

  monkeypatch.setattr(updates, 'make_advance_between', lambda _: advance)
  monkeypatch.setattr(learner_scoring, 'make_score', lambda *_: score)
  return accuracies


@pytest.fixture
def start():
  """The command's work, in this process."""
  return functools.partial(session.train)
