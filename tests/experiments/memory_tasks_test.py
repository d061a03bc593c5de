# SPDX-License-Identifier: Apache-2.0
"""The configs of tasks that test memory, and the baselines beside them."""

import importlib
from itertools import product

import pytest

from bionet_learners import base as learners
from experiments.configs import base, memory
from experiments.runs import factories
from experiments.suites import evidence


def _choices():
  """Every choice of a config of memory, and the variant that it names."""
  for name in ('evidence', 'lorenz'):
    module = importlib.import_module(f'experiments.configs.{name}')
    for variant in module._VARIANTS:
      yield pytest.param(module, variant, variant, id=f'{name}:{variant}')
  for task, rule in product(memory.TASKS, base.gru_variants({})):
    yield pytest.param(memory, f'{task},{rule}', rule, id=f'{task},{rule}')


@pytest.mark.parametrize(('module', 'choice', 'variant'), [*_choices()])
def test_each_variant_makes_the_rule_it_names(module, choice, variant):
  """Truth: the variant's name; what is no rule's changes the cell alone."""
  rules = {'bptt': 'bptt', 'd_rtrl': 'd_rtrl', 'stream': 'd_rtrl'}
  rules |= {'frozen': 'bptt', 'lif': 'bptt', 'smoke': 'bptt'}
  config = module.get_config(choice)
  assert config.learner.name == rules.get(variant, 'e_prop')
  task = factories.make_task(config)
  dynamics = factories.make_dynamics(config, task)
  rule = factories.make_rule(config, task, dynamics)
  assert isinstance(rule, learners.GradientRule)


def test_a_task_of_memory_is_chosen_by_name():
  """Truth: the factory's name; 1,000 updates for two of the six, by hand."""
  lengths = {'temporal_parity': 1000, 'adding': 1000}
  for task in memory.TASKS:
    config = memory.get_config(task)
    assert config.task.name == task
    assert config.num_updates == lengths.get(task, 500)
    chosen = memory.get_config(f'{task},bptt')
    assert chosen.to_dict() == config.to_dict()
  for choice, words in (
    ('smoke', "no task 'smoke'"),
    ('ading', "Did you mean 'adding'"),
    ('adding,d_rtl', "Did you mean 'd_rtrl'"),
  ):
    with pytest.raises(KeyError, match=words):
      memory.get_config(choice)


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
