# SPDX-License-Identifier: Apache-2.0
"""Utility of cell-fate patterns at dt, dt / 2 and dt / 4, by each learner.

Each row is one run: the utilities of fresh replicates, the CPU seconds of its
training, compilation included, and the most frequent pattern with its share at
dt. Beside the gradient stands the best of its restarts before any update, by
validation.
"""

import time

import jax
import numpy as np

from bionet_core import information, surrogate
from experiments.configs import cell_fate as configs
from experiments.judge import scoring
from experiments.runs import build, records, updates

SEEDS = (0, 1, 2)

_VARIANTS = (
  'annealed',
  'pinned',
  'evolution',
  'bptt_original',
  'bptt',
  'gradient',
)
_UNTRAINED = 'gradient, best untrained restart'
_EVALUATIONS = {'held_out': 'U', 'half_dt': 'U dt/2', 'quarter_dt': 'U dt/4'}


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Each row: a variant and a seed."""
  rows = []
  for variant in _VARIANTS:
    names = [variant] + [_UNTRAINED] * (variant == 'gradient')
    if any(only in name for name in names):
      for seed in seeds:
        rows += [row for row in _rows(variant, seed) if only in row['learner']]
  return rows


def _rows(variant: str, seed: int) -> list[dict]:
  """The row of a run, and that of its best untrained restart."""
  began = time.process_time()
  config = configs.get_config(variant)
  config.seed = seed
  built = build.build(config)
  state = jax.block_until_ready(updates.trained(built))
  seconds = round(time.process_time() - began, 1)
  rows = [_row(variant, seed, built, state, seconds)]
  if variant == 'gradient':
    untrained = state._replace(params=state.rule_state.shared.untrained)
    rows.append(_row(_UNTRAINED, seed, built, untrained, 0.0))
  return rows


def _row(name: str, seed: int, built: records.Run, state, seconds) -> dict:
  row = {'learner': name, 'seed': seed}
  patterns = []
  for evaluation, column in _EVALUATIONS.items():
    metrics, outputs, _ = scoring.score_run(built, state, evaluation)
    row[column] = metrics['utility']
    fates = np.asarray(surrogate.fates(outputs[-1]))
    patterns.append(information.most_frequent_patterns(fates, 1)[0])
  pattern, share = patterns[0]
  return {
    **row,
    'CPU s': seconds,
    'pattern': pattern,
    'share': round(share, 3),
  }
