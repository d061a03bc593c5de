# SPDX-License-Identifier: Apache-2.0
"""BPTT on every task that tests memory, held out, as its config has it.

Each row names the metric and its chance and ceiling. Errors are better low, and
their 'lower 95 %' is the good side of the mean.
"""

import functools
import importlib

from experiments.suites import accuracy

SEEDS = (0, 1, 2)

_TASKS = {
  'adding': 'mse 1/6 -> 0',
  'copying': 'accuracy 1/8 -> 1',
  'delayed_match': 'accuracy 1/2 -> 1',
  'delayed_xor': 'accuracy 1/2 -> 1',
  'evidence_accumulation': 'accuracy 1/2 -> 1',
  'flip_flop': 'mse 1 -> 0',
  'lorenz': 'nrmse 1 -> 0',
  'sequential_digits': 'accuracy .1 -> 1',
  'store_recall': 'accuracy 1/2 -> 1',
  'temporal_parity': 'accuracy 1/2 -> 1',
}


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Each row: a task, BPTT's mean over seeds, the seeds' spread."""
  scores = {
    f'{task}, {scale}': functools.partial(_bptt, task, {})
    for task, scale in _TASKS.items()
  }
  # What memory is worth: the same cell without the one that is slow.
  scores['evidence_accumulation, LIF alone'] = functools.partial(
    _bptt, 'evidence_accumulation', {'network.adaptive': 0.0}
  )
  return accuracy.rows(scores, seeds, only)


def _bptt(task: str, overrides: dict, seed: int) -> float:
  module = importlib.import_module(f'experiments.configs.{task}')
  return accuracy.held_out(module.get_config('bptt'), overrides, seed)
