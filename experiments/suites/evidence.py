# SPDX-License-Identifier: Apache-2.0
"""Evidence accumulation by each variant of its config, beside exact baselines.

The baselines know the cues and forget all but the last: their majority is right
that often among all trials, and among those decided by one cue ('narrow').
"""

import time
from math import comb

from bionet_tasks.temporal import evidence
from experiments.configs import evidence as configs
from experiments.suites import accuracy

SEEDS = (0, 1, 2)

_CUES = 7
_VARIANTS = (
  'e_prop',
  'e_prop_random',
  'e_prop_no_adaptation',
  'bptt',
  'frozen',
  'lif',
)


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Each row: a variant and a seed, or a baseline; its two accuracies."""
  rows = [
    _row(f'majority of the last {k}', '-', whole, narrow, 0.0)
    for k, whole, narrow in baselines()
    if only in f'majority of the last {k}'
  ]
  for variant in _VARIANTS:
    for seed in seeds if only in variant else ():
      began = time.process_time()
      scores = accuracy.judged(configs.get_config(variant), seed)
      spent = round(time.process_time() - began, 1)
      rows.append(
        _row(variant, seed, scores['held_out'], scores['narrow'], spent)
      )
  return rows


def baselines() -> list[tuple[int, float, float]]:
  """`(k, accuracy of the last k cues' majority, the same if narrow)`.

  Narrow trials have n = (N + 1) / 2 of N cues on their side, in every order
  alike, so that the last k hold a number of them that is hypergeometric.
  """
  most = (_CUES + 1) // 2
  rows = []
  for k in (1, 3, 5):
    ways = sum(
      comb(most, right) * comb(_CUES - most, k - right)
      for right in range(k // 2 + 1, min(k, most) + 1)
    )
    whole = evidence.majority_of_last(k, num_cues=_CUES)
    rows.append((k, whole, ways / comb(_CUES, k)))
  return rows


def _row(learner, seed, whole, narrow, seconds) -> dict:
  return {
    'learner': learner,
    'seed': seed,
    'held out': float(whole),
    'narrow': float(narrow),
    'CPU s': seconds,
  }
