# SPDX-License-Identifier: Apache-2.0
"""Every rule and learner against every law of `bionet_learners.testing`."""

import haiku as hk
import optax
import pytest

import bionet_learners
from bionet_core import plugins
from bionet_core.cells import cores as cells
from bionet_learners import base, testing
from bionet_learners.influence import rtrl, snap, uoro
from bionet_learners.local import local_plasticity
from bionet_learners.populations import evolution
from bionet_learners.reverse import bptt
from bionet_learners.sampling import score_function
from tests.learners import contracts


def _cases(table):
  """Each name once; its further cases are slow."""
  return [
    pytest.param(name, i, marks=[pytest.mark.slow] if i else [])
    for name, cases in table.items()
    for i in range(len(cases))
  ]


@pytest.mark.oracle
@pytest.mark.parametrize('name, case', _cases(contracts.RULES))
def test_rule_keeps_the_contract(name, case):
  """Truth: the laws listed in `check_rule`."""
  testing.check_rule(
    *contracts.RULES[name][case], per_trial=name not in contracts.COMPARING
  )


@pytest.mark.oracle
@pytest.mark.parametrize('name, case', _cases(contracts.LEARNERS))
def test_learner_keeps_the_contract(name, case):
  """Truth: the laws listed in `check_learner`."""
  testing.check_learner(*contracts.LEARNERS[name][case])


def test_a_rule_that_descends_keeps_the_contract_of_learners():
  """Truth: the laws listed in `check_learner`; a key in the optimizer too."""
  rule = bptt.bptt(contracts.plain_cell(), contracts.cross_entropy)
  optimizer = optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1))
  testing.check_learner(base.descend(rule, optimizer), contracts.trials(1))


def test_the_tables_are_full():
  """Truth: the package's own table of names, each loadable."""
  assert not set(contracts.RULES) & set(contracts.LEARNERS)
  assert {*contracts.RULES, *contracts.LEARNERS} == set(
    bionet_learners.LEARNERS
  )
  for name in (*contracts.RULES, *contracts.LEARNERS):
    plugins.load('bionet.learners', name, bionet_learners.LEARNERS)


@pytest.mark.parametrize(
  'make, wrong',
  [
    (bptt.bptt, contracts.network()),
    (rtrl.rtrl, contracts.network()),
    (snap.snap, contracts.network()),
    (uoro.uoro, contracts.network()),
    (score_function.score_function, contracts.network()),
    (evolution.evolution, contracts.network()),
    (
      local_plasticity.local_plasticity,
      cells.cell_from_core(lambda: hk.GRU(3), lambda: hk.Linear(2)),
    ),
  ],
)
def test_a_wrong_kind_of_dynamics_is_a_type_error(make, wrong):
  """Truth: the message names what was given and what would fit."""
  with pytest.raises(TypeError, match=r'takes a .* and got a'):
    make(wrong, contracts.cross_entropy)


def test_factories_return_what_their_table_says():
  """Truth: the types; a run makes a Learner of a rule, and needs not else."""
  for cases in contracts.RULES.values():
    for rule, _ in cases:
      assert isinstance(rule, base.GradientRule)
  for cases in contracts.LEARNERS.values():
    for learner, _ in cases:
      assert isinstance(learner, base.Learner)
