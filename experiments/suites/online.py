# SPDX-License-Identifier: Apache-2.0
"""Time and memory of an update by length of the trials, beside BPTT.

Copying with lags of 50, 200 and 1,000 on hk.GRU(128), batch 64, Adam: CPU time
(one core, the subjects in turn, medians), and of the same compiled update its
temporary memory and the CPU time to compile it. Loss on the last 10 steps, as
the task has it, or on all of them, where no window may skip its backward pass.

RTRL keeps an influence `[B, N, P]` and SnAp-1 of a GRU a third of that: at N =
128, P = 54,666 they would take 1.8 GB and .6 GB, and minutes an update. Their
rows are of hk.GRU(16), beside BPTT's on the same.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import tqdm

from experiments.configs import copying as configs
from experiments.figures import online_cost
from experiments.runs import build, updates

SEEDS = (0,)
LAGS = (50, 200, 1000)
draw = online_cost.draw
_ROUNDS = {50: 7, 200: 5, 1000: 3}

_WIDE, _NARROW = 128, 16
_RULES: Mapping[str, tuple[int, Mapping[str, object]]] = {
  'bptt': (_WIDE, {'name': 'bptt'}),
  'bptt, remat': (_WIDE, {'name': 'bptt', 'remat': True}),
  'd_rtrl, windows of 10': (_WIDE, {'name': 'd_rtrl', 'window': 10}),
  'd_rtrl, exact within 10': (
    _WIDE,
    {'name': 'd_rtrl', 'window': 10, 'within': 'exact'},
  ),
  'd_rtrl, step by step': (_WIDE, {'name': 'd_rtrl', 'window': 1}),
  'd_rtrl, in reverse': (_WIDE, {'name': 'd_rtrl', 'execution': 'reverse'}),
  'e_prop, random': (_WIDE, {'name': 'e_prop', 'feedback': 'random'}),
  'rflo': (_WIDE, {'name': 'rflo'}),
  'pp_prop': (_WIDE, {'name': 'pp_prop'}),
  'three_factor': (_WIDE, {'name': 'three_factor'}),
  'uoro': (_WIDE, {'name': 'uoro'}),
  'bptt, GRU 16': (_NARROW, {'name': 'bptt'}),
  'snap 1, GRU 16': (_NARROW, {'name': 'snap', 'order': 1}),
  'rtrl, GRU 16': (_NARROW, {'name': 'rtrl'}),
}
_ON_ALL = ('bptt', 'd_rtrl, windows of 10')


class Subject(NamedTuple):
  """An update, compiled, and what the compiler says of it."""

  call: Callable[[], None]
  temporary: int
  compile_seconds: float


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Rows: a rule and a length; CPU ms per update, temporary MiB, CPU s."""
  # Threads that wait for each other burn CPU time; one core is comparable. This
  # must come before JAX starts its own threads.
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  # What an earlier start compiled would take no time here.
  jax.config.update('jax_enable_compilation_cache', False)
  rows = []
  # A bar where somebody looks, since the whole takes minutes.
  for lag in tqdm.tqdm(LAGS, unit='length', disable=None):
    subjects = {
      (rule, on): subject(seeds[0], lag, *_RULES[rule], on_all=on == 'all')
      for on, rules in (('last 10', _RULES), ('all', _ON_ALL))
      for rule in rules
      if only in f'{rule}, T {lag + 20}, loss on {on}'
    }
    times = {name: [] for name in subjects}
    for _ in range(_ROUNDS[lag]):
      for name, timed in subjects.items():
        began = time.process_time()
        timed.call()
        times[name].append((time.process_time() - began) * 1e3)
    rows += [
      {
        'rule': rule,
        'T': lag + 20,
        'loss on': on,
        'CPU ms': statistics.median(times[rule, on]),
        'temp MiB': made.temporary / 2**20,
        'compile CPU s': round(made.compile_seconds, 1),
      }
      for (rule, on), made in subjects.items()
    ]
  return rows


def subject(
  seed: int,
  lag: int,
  hidden: int,
  learner: Mapping[str, object],
  *,
  on_all: bool,
  batch_size: int = 64,
) -> Subject:
  """The update of a rule on copying by hk.GRU, compiled and called once.

  Args:
    seed: of the run.
    lag: steps to wait; T is 20 more.
    hidden: units of the GRU.
    learner: the learner's name and settings.
    on_all: whether all steps are asked, or the last 10.
    batch_size: trials.
  """
  config = configs.get_config('bptt')
  config.seed, config.batch_size = seed, batch_size
  config.task.time_lag = lag
  config.network.hidden = hidden
  config.learner = {'every': 0, 'carry': False, **learner}
  run = build.build(config)
  stage, state = run.first, updates.init(run)
  trials = stage.task.sample(stage.keys.data, jnp.arange(stage.batch_size))
  if on_all:
    trials = trials.replace(
      mask=jnp.full_like(trials.mask, 1 / len(trials.mask))
    )
  update = jax.jit(stage.learner.update)
  began = time.process_time()
  compiled = update.lower(state, stage.keys.noise, trials).compile()
  seconds = time.process_time() - began
  temporary = compiled.memory_analysis().temp_size_in_bytes

  def call():
    jax.block_until_ready(compiled(state, stage.keys.noise, trials))

  call()  # the first one touches its memory
  return Subject(call, temporary, seconds)
