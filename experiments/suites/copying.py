# SPDX-License-Identifier: Apache-2.0
"""Held-out recall on copying: BPTT, and D-RTRL beside what it must beat.

Every online result stands beside the same rule with its traces dropped (D = 0,
each step or window learns alone), beside a frozen recurrent core whose readout
alone learns, and, where D-RTRL is not exact, beside BPTT; chance is .125. One
table each:

  --only=batch    BPTT on a GRU by the size of the batch
  --only=hk.GRU,  D-RTRL on a stock GRU
  --only=bptt50   BPTT on a GRU after a lag of 50
  --only=lru      D-RTRL on a linear recurrent unit, by what it remembers untold
  --only=min_gru  D-RTRL on a minimal gated unit
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

from experiments.configs import copying as configs
from experiments.suites import accuracy

SEEDS = (0, 1, 2)


class _Setting(NamedTuple):
  """A cell and a task that D-RTRL learns.

  Attributes:
    variant: of the config.
    changes: to that variant.
    recurrent: modules that are not the readout.
    exact: whether D-RTRL is BPTT here, which then has no row of its own.
    rule: the learner; None for the variant's own.
    no_traces: steps of a window beyond which nothing earns credit.
  """

  variant: str
  changes: Mapping[str, object]
  recurrent: tuple[str, ...]
  exact: bool
  rule: Mapping[str, object] | None = None
  no_traces: int = 1


_CUT = {'name': 'd_rtrl', 'within': 'cut', 'execution': 'reverse'}
# The cut rule takes smaller steps than the exact one of the variant.
_SLOW = {'batch_size': 64, 'optimizer.learning_rate': 1e-2}
_SHORT = {
  **_SLOW,
  'num_updates': 1500,
  'task.num_symbols': 5,
  'task.time_lag': 5,
}
_GATES = ('min_gru/gate', 'min_gru/candidate')
_SETTINGS = {
  'hk.GRU, 5 symbols, lag 5, 1,500 updates': _Setting(
    'd_rtrl', _SHORT, ('gru',), False, _CUT
  ),
  'hk.GRU, 10 symbols, lag 10, 1,000 updates': _Setting(
    'd_rtrl', {**_SLOW, 'num_updates': 1000}, ('gru',), False, _CUT
  ),
  'hk.GRU, 10 symbols, lag 10, exact within 10, 700 updates': _Setting(
    'd_rtrl', {}, ('gru',), False, no_traces=10
  ),
  'lru, radius .5-.8, lag 10, 300 updates': _Setting('lru', {}, ('lru',), True),
  'lru, radius .8-.93, lag 50, 500 updates': _Setting(
    'lru_lag50', {}, ('lru',), True
  ),
  'lru, radius .9-.999, lag 10, 300 updates': _Setting(
    'lru', {'network.radius': (0.9, 0.999)}, ('lru',), True
  ),
  'lru, radius .9-.999, lag 50, 500 updates': _Setting(
    'lru_lag50', {'network.radius': (0.9, 0.999)}, ('lru',), True
  ),
  'min_gru, lag 10, 1,000 updates': _Setting('min_gru', {}, _GATES, True),
}


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Each row: a learner, its mean over seeds, the seeds' spread."""
  scores = {
    f'bptt, hk.GRU(128), batch {size}': functools.partial(
      _variant, 'bptt', {'batch_size': size}
    )
    for size in (64, 128, 256)
  }
  scores['bptt50, hk.GRU(128), 1,500 updates'] = functools.partial(
    _variant, 'bptt_lag50', {}
  )
  for name, setting in _SETTINGS.items():
    truncated = {'name': 'truncated_bptt', 'window': setting.no_traces}
    scores[f'{name}: d_rtrl'] = functools.partial(_score, setting, setting.rule)
    scores[f'{name}: d_rtrl, traces dropped'] = functools.partial(
      _score, setting, truncated
    )
    # Of a readout alone, which needs no memory, all rules say the same.
    scores[f'{name}: frozen core'] = functools.partial(
      _score,
      setting._replace(
        changes={
          **setting.changes,
          'optimizer.rate_factors': dict.fromkeys(setting.recurrent, 0.0),
        }
      ),
      {'name': 'bptt'},
    )
    if not setting.exact:
      scores[f'{name}: bptt'] = functools.partial(
        _score, setting, {'name': 'bptt'}
      )
  return accuracy.rows(scores, seeds, only)


def _variant(variant: str, changes: Mapping, seed: int) -> float:
  return accuracy.held_out(configs.get_config(variant), changes, seed)


def _score(setting: _Setting, rule: Mapping | None, seed: int) -> float:
  config = configs.get_config(setting.variant)
  return accuracy.held_out(config, setting.changes, seed, rule)
