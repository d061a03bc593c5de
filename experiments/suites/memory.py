# SPDX-License-Identifier: Apache-2.0
"""Each task that tests memory by the rules of its config, held out.

Each row names the metric and its chance and ceiling. Errors are better low, and
their 'lower 95 %' is the good side of the mean.
"""

import functools
import importlib

from experiments.configs import memory, sequential_digits
from experiments.suites import accuracy

SEEDS = (0, 1, 2)

_TASKS = {
  'adding': 'mse 1/6 -> 0',
  'copying': 'accuracy 1/8 -> 1',
  'delayed_match': 'accuracy 1/2 -> 1',
  'delayed_xor': 'accuracy 1/2 -> 1',
  'evidence': 'accuracy 1/2 -> 1',
  'flip_flop': 'mse 1 -> 0',
  'lorenz': 'nrmse 1 -> 0',
  'sequential_digits': 'accuracy .1 -> 1',
  'store_recall': 'accuracy 1/2 -> 1',
  'temporal_parity': 'accuracy 1/2 -> 1',
}


# Tasks whose config has online rules, and which no other suite measures.
_ONLINE = (*memory.TASKS, 'lorenz')


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Each row: a task and a rule, its mean over seeds, the seeds' spread."""
  scores = {}
  for task, scale in _TASKS.items():
    for variant in ('bptt', *(('d_rtrl', 'e_prop') if task in _ONLINE else ())):
      name = f'{task}, {variant}, {scale}'
      scores[name] = functools.partial(_score, task, variant)
  # Digits forward in time, and what that must beat.
  for name, learner, changes in (
    ('d_rtrl', None, {}),
    ('d_rtrl, traces dropped', {'name': 'truncated_bptt', 'window': 1}, {}),
    (
      'readout, frozen core',
      {'name': 'bptt'},
      {'optimizer.rate_factors': {'gru': 0.0}},
    ),
  ):
    scores[f'sequential_digits, {name}'] = functools.partial(
      _digits, learner, changes
    )
  return accuracy.rows(scores, seeds, only)


def _digits(learner: dict | None, overrides: dict, seed: int) -> float:
  config = sequential_digits.get_config('d_rtrl')
  return accuracy.held_out(config, overrides, seed, learner)


def _score(task: str, variant: str, seed: int) -> float:
  if task in memory.TASKS:
    config = memory.get_config(f'{task},{variant}')
  else:
    module = importlib.import_module(f'experiments.configs.{task}')
    config = module.get_config(variant)
  return accuracy.held_out(config, {}, seed)
