# SPDX-License-Identifier: Apache-2.0
"""The configs of tasks that test memory, and the baselines beside them."""

import importlib
from itertools import product

import pytest

from bionet_learners import base as learners
from experiments import build
from experiments.suites import evidence, memory


@pytest.mark.parametrize('name', ['evidence', *memory._ONLINE])
def test_each_variant_makes_the_rule_it_names(name):
  """Truth: the variant's name; what is no rule's changes the cell alone."""
  module = importlib.import_module(f'experiments.configs.{name}')
  own = {'bptt': 'bptt', 'd_rtrl': 'd_rtrl', 'stream': 'd_rtrl'}
  own |= {'frozen': 'bptt', 'lif': 'bptt', 'smoke': 'bptt'}
  for variant in module._VARIANTS:
    config = module.get_config(variant)
    assert config.learner.name == own.get(variant, 'e_prop')
    task = build.make('bionet.tasks', 'task', config.task)
    dynamics = build.make_dynamics(config, task)
    rule = build.make_rule(config, task, dynamics)
    assert isinstance(rule, learners.GradientRule)


def test_the_variants_of_evidence_differ_in_what_they_say():
  """Truth: their names."""
  module = importlib.import_module('experiments.configs.evidence')
  configs = {name: module.get_config(name) for name in module._VARIANTS}
  assert configs['e_prop'].learner.feedback == 'symmetric'
  assert configs['e_prop_random'].learner.feedback == 'random'
  credit = {k: v.network.credit_adaptation for k, v in configs.items()}
  assert [k for k, v in credit.items() if not v] == ['e_prop_no_adaptation']
  frozen = {k: v.optimizer.rate_factors.spiking for k, v in configs.items()}
  assert [k for k, v in frozen.items() if v == 0] == ['frozen']
  adaptive = {k: v.network.adaptive for k, v in configs.items()}
  assert [k for k, v in adaptive.items() if v != 0.5] == ['lif']


def test_the_last_cues_alone_are_right_that_often():
  """Truth: all 2^7 orders of cues, weighed by their probability."""
  orders = list(product((0, 1), repeat=7))
  for k, whole, narrow in evidence.baselines():
    right = {
      order: (sum(order[-k:]) > k / 2) == (sum(order) > 3.5) for order in orders
    }
    weight = {
      order: 0.7 ** sum(order) * 0.3 ** (7 - sum(order)) for order in orders
    }
    assert whole == pytest.approx(sum(weight[o] for o in orders if right[o]))
    close = [order for order in orders if sum(order) in (3, 4)]
    assert narrow == pytest.approx(sum(right[o] for o in close) / len(close))
