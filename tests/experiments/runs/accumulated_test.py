# SPDX-License-Identifier: Apache-2.0
"""Gradients that are gathered for a step get their step, or the run is refused.

Truth: calls of the optimizer counted by hand, stage by stage.
"""

import re

import ml_collections
import pytest

from experiments.configs import copying
from experiments.runs import build, checks, records


def check(*stages, copies=1):
  """Of stages `(updates, windows of each, accumulate)`."""
  configs = [
    ml_collections.ConfigDict(
      {'optimizer': {'accumulate': k}, 'restarts': {'count': copies}}
    )
    for _, _, k in stages
  ]
  none = dict.fromkeys(records.Stage._fields)
  made = [
    records.Stage(**{**none, 'num_updates': n, 'optimizer_calls': n * windows})
    for n, windows, _ in stages
  ]
  checks.check_accumulated(configs, made)


@pytest.mark.parametrize(
  'stages',
  [
    [(6, 1, 1)],
    [(6, 1, 3)],
    [(6, 1, 6)],
    [(6, 2, 4)],
    [(3, 5, 15)],
    [(6, 1, 4), (6, 1, 4)],  # 12 calls make 3 steps, the second of both stages
    [(2, 1, 3), (1, 4, 3)],
    [(4, 1, 2), (9, 1, 3)],
    [(6, 0, 4)],  # a learner without an optimizer
    [(6, 0, 4), (4, 1, 4)],
  ],
)
def test_every_gradient_is_used(stages):
  """Truth: the calls are a multiple of `accumulate`, where it changes, too."""
  check(*stages)


@pytest.mark.parametrize(
  'stages, message',
  [
    ([(6, 1, 1000)], r'is 1000, .* 6 times: it would make no step'),
    ([(6, 2, 13)], r'is 13, .* 12 times: it would make no step'),
    ([(6, 1, 4)], r'is 4, .* 6 times: the last 2 would make no step'),
    ([(6, 2, 5)], r'is 5, .* 12 times: the last 2 would make no step'),
    ([(6, 1, 4), (5, 1, 4)], r'is 4, .* 11 times: the last 3 would'),
    ([(4, 1, 4), (3, 1, 2)], r'is 2, .* 7 times: the last 1 would'),
    (
      [(3, 1, 2), (4, 1, 4)],
      r'changes from 2 to 4 .* 3 calls .* the last 1 of them',
    ),
    ([(6, 1, 4), (2, 0, 4)], r'is 4, .* 6 times: the last 2 would'),
  ],
)
def test_a_gradient_that_is_lost_is_said(stages, message):
  """Truth: the calls and what is left of them, by hand; one sentence."""
  with pytest.raises(ValueError, match=f'^optimizer.accumulate {message}') as e:
    check(*stages)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('updates, accumulate', [(4, 3), (9, 4), (9, 8)])
def test_copies_make_one_step_at_least(updates, accumulate):
  """Truth: of n updates copies make n - 1, and validation says which count."""
  check((updates, 1, accumulate), copies=3)
  refused = pytest.raises(ValueError, match=rf' {updates - 1} times: it would')
  with refused:
    check((updates, 1, updates), copies=3)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'optimizer.accumulate': 1000}, '6 times: it would make no step'),
    ({'optimizer.accumulate': 4}, '6 times: the last 2 would make no step'),
    # Windows of 3 steps in trials of 8: three calls an update.
    ({'optimizer.accumulate': 9, 'learner.every': 3}, None),
    (
      {'optimizer.accumulate': 12, 'learner.every': 3},
      '18 times: the last 6 would make no step',
    ),
  ],
)
def test_a_run_is_refused_when_it_is_built(settings, message):
  """Truth: 6 updates of a rule, whose windows are counted by hand."""
  config = copying.get_config('smoke')
  config.num_updates = 6
  with config.unlocked():
    config.update_from_flattened_dict(settings)
  if message is None:
    run = build.build(config)
    assert run.first.task.spec.num_steps == 8
    assert run.first.optimizer_calls == 18
  else:
    with pytest.raises(ValueError, match=re.escape(message)):
      build.build(config)


def test_a_learner_without_an_optimizer_calls_none():
  """Truth: evolution draws its members; nothing is to be gathered."""
  config = copying.get_config('smoke')
  config.optimizer.accumulate = 1000
  config.learner = {'name': 'evolution', 'elites': 1, 'population_size': 2}
  run = build.build(config)
  assert run.first.optimizer_calls == 0
