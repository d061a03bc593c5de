# SPDX-License-Identifier: Apache-2.0
"""A run is asked to stop, at any time, by any of the signals for it.

Truth: status 75, one line on standard error, and in the folder a whole
checkpoint of the last border, or nothing where there was none.
"""

import ast
import os
import pathlib
import pty
import signal
import subprocess
import sys
import time

import pytest

import experiments.shell
from bionet_learners.training import checkpoints
from experiments import session
from experiments.configs import prototypes
from experiments.runs import build, saved
from experiments.shell import signals

REPO = pathlib.Path(__file__).parents[3]
NOTED = ('SIGTERM', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU', 'SIGHUP')
EARLY = 'there is nothing to save. Give the same command again.'


@pytest.fixture(autouse=True)
def handlers():
  """Ctrl-C as in a terminal; the handlers from before come back.

  What a shell starts in the background ignores it, and so would the tests.
  """
  numbers = [getattr(signal, name) for name in (*NOTED, 'SIGINT')]
  before = {number: signal.getsignal(number) for number in numbers}
  signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


def config():
  made = prototypes.get_config('smoke')
  made.log_every, made.eval_every, made.checkpoint_every = 2, 100, 0
  return made


def stopped(capsys, status=75, run=None):
  """The line of a session that ends so."""
  with pytest.raises(SystemExit) as info:
    run()
  assert info.value.code == status
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1
  return error.removeprefix('error: ').removesuffix('\n')


@pytest.mark.parametrize('name', NOTED[2:])
def test_each_signal_saves_the_run(tmp_path, monkeypatch, capsys, name):
  """Truth: the signal came in the range before update 4; nothing was due.

  Of the first two the same is tested with processes, in `signals_test.py`.
  """
  say, workdir = session._say, tmp_path / 'run'

  def said(line):
    say(line)
    if line.startswith('update 4/'):
      signal.raise_signal(getattr(signal, name))

  monkeypatch.setattr(session, '_say', said)
  line = stopped(capsys, run=lambda: session.train(config(), workdir))
  assert line == (
    'asked to stop: saved after update 4. The same command goes on from what '
    f'is saved in {workdir}.'
  )
  assert checkpoints.all_steps(workdir / 'checkpoints') == [4]
  checkpoints.verify(workdir / 'checkpoints' / 'checkpoint_4')


PLACES = {  # where a run can be before its first update, once it is locked
  'begins': (saved, 'begin'),
  'is built': (build, 'build'),
}


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR2', 'SIGINT'])
@pytest.mark.parametrize('place', PLACES)
def test_before_the_first_update_nothing_is_left(
  tmp_path, monkeypatch, capfd, name, place
):
  """Truth: the folder is not there; one line. The process ends where it is.

  The end of the process is made an exception here.
  """
  owner, function = PLACES[place]
  real, status = getattr(owner, function), 130 if name == 'SIGINT' else 75

  def interrupted(*args):
    signal.raise_signal(getattr(signal, name))
    return real(*args)

  def ended(status):
    raise SystemExit(status)

  monkeypatch.setattr(owner, function, interrupted)
  monkeypatch.setattr(os, '_exit', ended)
  signals.end_at_once()
  line = stopped(
    capfd, status, lambda: session.train(config(), tmp_path / 'run')
  )
  said = 'interrupted' if name == 'SIGINT' else 'asked to stop'
  assert line == f'{said}: {EARLY}'
  assert not (tmp_path / 'run').exists()


def test_where_the_run_has_begun_it_goes_on_from_there(
  tmp_path, monkeypatch, capsys
):
  """Truth: Ctrl-C before any checkpoint; what was saved is said to be there."""
  say, workdir = session._say, tmp_path / 'run'

  def said(line):
    say(line)
    if line.startswith('update 4/'):
      signal.raise_signal(signal.SIGINT)

  signals.end_at_once()
  monkeypatch.setattr(session, '_say', said)
  line = stopped(capsys, 130, lambda: session.train(config(), workdir))
  assert line == (
    f'interrupted. The same command goes on from what is saved in {workdir}.'
  )


def seconds(process) -> float:
  """What a process has worked, which does not depend on the others here."""
  stat = pathlib.Path(f'/proc/{process.pid}/stat').read_text()
  _, _, fields = stat.rpartition(') ')
  user, system = fields.split()[11:13]
  return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')


def ended(name, work, *command):
  """Status and standard error of a command that a signal ends.

  Args:
    name: of the signal.
    work: CPU seconds of the command before it comes.
    *command: its module and flags.
  """
  if not pathlib.Path('/proc').is_dir():
    pytest.skip('reads /proc')
  with subprocess.Popen(
    [sys.executable, '-m', *command],
    cwd=REPO,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    while seconds(process) < work:
      time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=60)
  return process.returncode, error


@pytest.mark.parametrize('name', [*NOTED, 'SIGINT'])
def test_it_is_heard_while_it_imports(tmp_path, name):
  """Truth: .3 s of work after the start; a mutant ends by the signal itself."""
  workdir = tmp_path / 'run'
  config = '--config=experiments/configs/prototypes.py:smoke'
  said, status = 'asked to stop', 75
  if name == 'SIGINT':
    said, status = 'interrupted', 130
  end = ended(name, 0.3, 'experiments.train', config, f'--workdir={workdir}')
  assert end == (status, f'error: {said}: {EARLY}\n')
  assert not workdir.exists()


def test_a_command_that_saves_nothing_ends_at_once(tmp_path):
  """Truth: one line and 130, while it imports. Mutant: a traceback."""
  end = ended('SIGINT', 0.3, 'experiments.evaluate', f'--workdir={tmp_path}')
  assert end == (130, f'error: interrupted: {EARLY}\n')


@pytest.mark.parametrize(
  'name',
  [
    *('train', 'evaluate', 'compare', 'bench'),
    *('figures/psychometric', 'figures/forecast'),
  ],
)
def test_handlers_come_before_all_that_takes_time(name):
  """Truth: the first statements of the command; what it imports for them."""
  command = (REPO / 'experiments' / f'{name}.py').read_text()
  docstring, imported, first, *_ = ast.parse(command).body
  assert isinstance(docstring, ast.Expr)
  assert ast.unparse(imported) == 'from experiments.shell import signals'
  assert ast.unparse(first).splitlines() == [
    "if __name__ == '__main__':",
    '    signals.end_at_once()',
  ]
  for module in (signals, experiments, experiments.shell):
    for node in ast.parse(pathlib.Path(module.__file__).read_text()).body:
      if isinstance(node, ast.Import):
        assert {alias.name for alias in node.names} <= sys.stdlib_module_names
      elif isinstance(node, ast.ImportFrom):
        assert node.module == 'collections.abc'


PROGRAM = """
import fcntl, os, pathlib, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal whose end is heard
signals = runpy.run_path(sys.argv[1])
if sys.argv[2] == 'early':
  signals['end_at_once']()
with signals['noted']() if sys.argv[2] == 'late' else open(os.devnull) as came:
  print('ready', flush=True)
  while sys.argv[2] == 'early' or not came():
    pass
  print('update 4', flush=True)
  pathlib.Path(sys.argv[3]).write_text('saved')
sys.exit(75)
"""


@pytest.mark.parametrize('when', ['early', 'late'])
def test_a_terminal_that_is_closed_takes_no_run_along(tmp_path, when):
  """Truth: a terminal, closed; a mutant that prints there would end in 1."""
  ours, theirs = pty.openpty()
  saved_to = tmp_path / 'saved'
  process = subprocess.Popen(
    [sys.executable, '-c', PROGRAM, signals.__file__, when, saved_to],
    stdin=theirs,
    stdout=theirs,
    stderr=theirs,
    start_new_session=True,
  )
  os.close(theirs)
  assert os.read(ours, 5) == b'ready'
  os.close(ours)
  assert process.wait(timeout=60) == 75
  assert saved_to.exists() == (when == 'late')


def test_nohup_is_respected():
  """Truth: a user's own SIG_IGN; the others are heard all the same."""
  for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  signals.end_at_once()
  assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN
  with signals.noted() as came:
    signal.raise_signal(signal.SIGHUP)
    assert not came()
    signal.raise_signal(signal.SIGTERM)
    assert came()
