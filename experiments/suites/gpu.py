# SPDX-License-Identifier: Apache-2.0
"""Truth and speed on an accelerator: to be run once on a machine that has one.

Truth: float32 products in full; RTRL and D-RTRL beside the same gradient in
reverse; the bits of one command in two processes, and in one that is stopped
and started again, without the cache of programs. Speed: wall milliseconds of an
update (the subjects in turn, medians), beside BPTT's in the same process. Two
configs are trained as they are. On a CPU it says the same of the CPU.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from bionet_learners import oracles
from experiments.configs import copying as configs
from experiments.runs import build, numerics, saved
from experiments.suites import online

SEEDS = (0,)
_ROUNDS = 7
_LAG = 50  # T 70
_UPDATES = 100  # of the runs whose bits are compared
_LAST, _ALL = 'last 10', 'all steps'
# Hidden units and trials of the two sizes whose speed is measured.
_SIZES = {'GRU 128': (128, 64), 'GRU 512': (512, 256)}
_TRAINED = {  # a config: its metric, and what that is on a CPU
  'prototypes.py': ('accuracy', '.945'),
  'copying.py:d_rtrl': ('accuracy', '.930'),
}


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Rows: what was measured, and what the same costs or gives elsewhere."""
  seed = seeds[0]
  numerics.tell(configs.get_config())  # as a run is told by default
  # Else this process takes the memory that others need beside it.
  os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  measures = {
    'bits: a second process': lambda: _again(seed, stops=False),
    'bits: stopped and started again': lambda: _again(seed, stops=True),
    **{
      f'trained: {name}, {metric}': lambda name=name, metric=metric: _trained(
        name, metric, seed
      )
      for name, (metric, _) in _TRAINED.items()
    },
    'error in 1e-7: a product of 512 x 512': lambda: _product(seed),
    'error in 1e-7: RTRL, GRU 16': lambda: _against(
      seed, {'name': 'rtrl'}, {'name': 'bptt'}
    ),
    'error in 1e-7: D-RTRL in windows, leaky 16': lambda: _against(
      seed,
      {'name': 'd_rtrl'},
      {'name': 'd_rtrl', 'execution': 'reverse'},
      'leaky',
    ),
  }
  expected = {
    **{
      f'trained: {n}, {m}': f'{on} on a CPU' for n, (m, on) in _TRAINED.items()
    },
    **{name: '0 differ' for name in measures if name.startswith('bits')},
    **{name: '10 at most' for name in measures if name.startswith('error')},
  }
  rows = [
    _row(name, measure(), expected[name])
    for name, measure in measures.items()
    if only in name
  ]
  for size, (hidden, batch) in _SIZES.items():
    for asked in (_LAST, _ALL):
      names = {
        rule: f'ms: {rule}, {size}, loss on {asked}'
        for rule in ('BPTT', 'D-RTRL')
      }
      if any(only in name for name in names.values()):
        times = _times(seed, hidden, batch, on_all=asked == _ALL)
        most = '1 times' if asked == _LAST else '1.5 times'
        for rule, name in names.items():
          wanted = '-' if rule == 'BPTT' else f"{most} BPTT's at most"
          rows.append(_row(name, times[rule], wanted))
  return rows


def _row(name: str, value: float, expected: str) -> dict:
  device = jax.devices()[0].device_kind
  return {'measure': name, 'value': value, 'expected': expected, 'on': device}


def _config(seed: int, learner: dict, cell: str):
  config = configs.get_config('bptt')
  config.seed, config.batch_size = seed, 16
  config.network.name, config.network.hidden = cell, 16
  config.learner = {'every': 0, 'carry': False, **learner}
  return config


def _product(seed: int) -> float:
  """The relative error of a float32 product, as a run computes it."""
  a, b = np.random.default_rng(seed).normal(size=(2, 512, 512))
  a, b = a.astype(np.float32), b.astype(np.float32)
  exact = a.astype(np.float64) @ b.astype(np.float64)
  found = np.asarray(jax.jit(jnp.matmul)(a, b), np.float64)
  return 1e7 * float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _against(seed: int, learner: dict, truth: dict, cell: str = 'gru') -> float:
  """The relative error of a rule's gradient, beside that of another form."""
  gradients = []
  for settings in (learner, truth):
    stage = build.build(_config(seed, settings, cell)).first
    trials = stage.task.sample(stage.keys.data, jnp.arange(stage.batch_size))
    state = jax.jit(stage.learner.init)(stage.keys.init, trials)
    result, _ = jax.jit(stage.rule.estimate)(
      state.params, state.constants, state.rule_state, stage.keys.noise, trials
    )
    gradients.append(jax.device_get(result.gradient))
  return 1e7 * float(oracles.relative_error(*gradients))


def _times(seed: int, hidden: int, batch: int, *, on_all: bool) -> dict:
  """Wall milliseconds of an update of each rule, in turn, medians."""
  subjects = {
    name: online.subject(
      seed, _LAG, hidden, settings, on_all=on_all, batch_size=batch
    )
    for name, settings in (
      ('BPTT', {'name': 'bptt'}),
      ('D-RTRL', {'name': 'd_rtrl', 'window': 10}),
    )
  }
  times = {name: [] for name in subjects}
  for _ in range(_ROUNDS):
    for name, subject in subjects.items():
      began = time.perf_counter()
      subject.call()
      times[name].append(1e3 * (time.perf_counter() - began))
  return {name: statistics.median(values) for name, values in times.items()}


def _again(seed: int, *, stops: bool) -> float:
  """How many arrays of parameters differ between one run and another.

  Both runs are processes of their own; `stops`: the second is asked to stop
  after its first row, and started again.
  """
  with tempfile.TemporaryDirectory() as folder:
    first, second = (pathlib.Path(folder) / name for name in ('a', 'b'))
    _train('copying.py:d_rtrl', first, seed, _UPDATES)
    if stops:
      process = _start('copying.py:d_rtrl', second, seed, _UPDATES)
      rows = second / 'metrics.jsonl'
      while process.poll() is None and not (rows.exists() and rows.read_text()):
        time.sleep(0.05)
      process.send_signal(signal.SIGTERM)
      process.communicate()
    _train('copying.py:d_rtrl', second, seed, _UPDATES)
    states = [
      jax.tree.leaves(saved.restore(workdir, report=lambda _: None)[1].params)
      for workdir in (first, second)
    ]
  pairs = zip(*states, strict=True)
  return float(sum(not np.array_equal(x, y) for x, y in pairs))


def _trained(config: str, metric: str, seed: int) -> float:
  """A held-out metric of a config that is trained as it is."""
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / 'run'
    _train(config, workdir, seed)
    result = json.loads((workdir / 'evaluation.json').read_text())
  return result['evaluations']['held_out']['trained'][metric]


def _start(config: str, workdir: pathlib.Path, seed: int, num_updates: int = 0):
  command = [
    *(sys.executable, '-m', 'experiments.train', '--compilation_cache=none'),
    f'--config=experiments/configs/{config}',
    f'--workdir={workdir}',
    f'--config.seed={seed}',
  ]
  if num_updates:
    command.append(f'--config.num_updates={num_updates}')
    command.append(f'--config.log_every={num_updates // 4}')
  return subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _train(config: str, workdir: pathlib.Path, seed: int, num_updates: int = 0):
  """Trains in a process of its own.

  Raises:
    RuntimeError: if it does not end well; with its last line.
  """
  process = _start(config, workdir, seed, num_updates)
  said, _ = process.communicate()
  if process.returncode:
    lines = said.strip().splitlines() or ['']
    raise RuntimeError(f'{config} ended with {process.returncode}: {lines[-1]}')
