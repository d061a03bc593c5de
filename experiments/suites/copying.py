# SPDX-License-Identifier: Apache-2.0
"""Held-out recall on copying: BPTT, and D-RTRL beside what it must beat.

Every online result stands beside the same rule with its traces dropped (D = 0,
each step or window learns alone), beside a frozen recurrent core whose readout
alone learns, and beside BPTT; chance is .125.
"""

import functools
from collections.abc import Mapping

from experiments.configs import copying as configs
from experiments.suites import accuracy

SEEDS = (0, 1, 2)

_CUT = {'name': 'd_rtrl', 'within': 'cut', 'execution': 'reverse'}
_NO_TRACES = {'name': 'truncated_bptt', 'window': 1}
_SHORT = {'num_steps': 1500, 'task.num_symbols': 5, 'task.time_lag': 5}
_ONLINE: Mapping[str, tuple[dict, dict, dict]] = {
  '5 symbols, lag 5, 1,500 updates': (
    _SHORT,
    _CUT,
    _NO_TRACES,
  ),
  '10 symbols, lag 10, 1,000 updates': (
    {'num_steps': 1000},
    _CUT,
    _NO_TRACES,
  ),
  '10 symbols, lag 10, exact within 10, 700 updates': (
    {'num_steps': 700},
    {'name': 'd_rtrl', 'within': 'exact', 'window': 10},
    {'name': 'truncated_bptt', 'window': 10},
  ),
}
"""`{setting: (what it changes, the rule, the rule without traces)}`."""


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Each row: a learner, its mean over seeds, the seeds' spread."""
  scores = {
    f'bptt, hk.GRU(128), batch {size}': functools.partial(_bptt, size)
    for size in (64, 128, 256)
  }
  for setting, (changes, rule, without) in _ONLINE.items():
    backprop = {'name': 'bptt'}
    for name, learner, more in (
      ('d_rtrl', rule, {}),
      ('d_rtrl, traces dropped', without, {}),
      ('frozen core', backprop, {'optimizer.rate_factors': {'gru': 0.0}}),
      ('bptt', backprop, {}),
    ):
      overrides = {**changes, **more}
      scores[f'{setting}: {name}'] = functools.partial(
        _online, learner, overrides
      )
  return accuracy.rows(scores, seeds, only)


def _bptt(batch_size: int, seed: int) -> float:
  config = configs.get_config('bptt')
  return accuracy.held_out(config, {'batch_size': batch_size}, seed)


def _online(learner: Mapping, overrides: Mapping, seed: int) -> float:
  config = configs.get_config('d_rtrl')
  config.learner = {'every': 0, 'carry': False, **learner}
  factors = overrides.get('optimizer.rate_factors')
  if factors:
    config.optimizer.rate_factors = factors
  return accuracy.held_out(config, overrides, seed)
