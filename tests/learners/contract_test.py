# SPDX-License-Identifier: Apache-2.0
"""Every rule against every law of `bionet_learners.testing`."""

import haiku as hk
import jax.numpy as jnp
import numpy as np
import pytest

import bionet_learners
from bionet_core import interfaces, plugins
from bionet_core.cells import haiku as cells
from bionet_core.relaxation import asymmetric
from bionet_learners import base, bptt, local_plasticity, testing


class Sizes:
  input_shape = (6,)
  num_outputs = 3


def cross_entropy(outputs, targets, mask):
  shifted = outputs - jnp.max(outputs, axis=-1, keepdims=True)
  log_z = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
  hit = targets[:, None] == jnp.arange(outputs.shape[-1])[None, :]
  losses = log_z - jnp.sum(jnp.where(hit, shifted, 0), axis=-1)
  return jnp.mean(losses * mask), {}


def trials(num_steps, batch=3):
  rng = np.random.default_rng(3)
  mask = np.zeros((num_steps, batch), np.float32)
  mask[num_steps // 2 :] = 1 / (num_steps - num_steps // 2)
  inputs = rng.normal(size=(num_steps, batch, 6))
  return interfaces.Trials(
    inputs=jnp.asarray(inputs, jnp.float32),
    targets=jnp.asarray(rng.integers(0, 3, (num_steps, batch)), jnp.int32),
    mask=jnp.asarray(mask),
    index=jnp.arange(batch) + 5,
  )


def network():
  return asymmetric.asymmetric(Sizes(), hidden=6)


RULES = {
  'bptt': [
    (bptt.bptt(cells.gru(Sizes(), hidden=5), cross_entropy), trials(7)),
    (
      bptt.bptt(cells.lstm(Sizes(), hidden=5), cross_entropy, remat=True),
      trials(7),
    ),
    (bptt.bptt(cells.vanilla_rnn(Sizes(), hidden=5), cross_entropy), trials(1)),
  ],
  'local_plasticity': [
    (local_plasticity.local_plasticity(network(), clamped=3, free=3), trials(1))
  ],
}
"""`{name: [(rule, trials)]}`: the whole table of rules."""


@pytest.mark.parametrize(
  'name, case', [(name, i) for name in RULES for i in range(len(RULES[name]))]
)
def test_rule_keeps_the_contract(name, case):
  """Truth: the laws listed in `check_rule`."""
  testing.check_rule(*RULES[name][case])


def test_the_table_is_full():
  """Truth: the package's own table of names, each loadable."""
  assert set(RULES) == set(bionet_learners.LEARNERS)
  for name in RULES:
    plugins.load('bionet.learners', name, bionet_learners.LEARNERS)


def broken(change):
  """A BPTT whose estimate went through `change(estimate, trials)`."""
  rule = RULES['bptt'][0][0]

  def estimate(params, constants, rule_state, key, trials):
    got, state = rule.estimate(params, constants, rule_state, key, trials)
    return change(got, trials), state

  return rule._replace(estimate=estimate)


MUTANTS = {
  'sum over trials': lambda e, t: e._replace(
    updates=_scaled(e.updates, t.index.shape[0])
  ),
  'counts padding': lambda e, t: e._replace(
    updates=_scaled(e.updates, 1 / t.mask.shape[0])
  ),
  'learns from nothing': lambda e, t: e._replace(
    updates=_shifted(e.updates, 0.1)
  ),
  'is silent': lambda e, t: e._replace(updates=_scaled(e.updates, 0.0)),
}


def _scaled(tree, factor):
  return {m: {k: v * factor for k, v in d.items()} for m, d in tree.items()}


def _shifted(tree, amount):
  return {m: {k: v + amount for k, v in d.items()} for m, d in tree.items()}


@pytest.mark.parametrize('mutant', MUTANTS)
def test_the_contract_refuses_mutants(mutant):
  """Truth: each mutant breaks one law by construction."""
  with pytest.raises(AssertionError):
    testing.check_rule(broken(MUTANTS[mutant]), trials(7))


def test_the_contract_refuses_predictions_that_read_targets():
  """Truth: these predictions are the targets."""
  rule = RULES['bptt'][0][0]
  cheat = rule.model._replace(
    predict=lambda p, c, k, t: jnp.broadcast_to(
      t.targets[..., None] * 1.0, (*t.targets.shape, 3)
    )
  )
  with pytest.raises(AssertionError, match='depend on the targets'):
    testing.check_rule(rule._replace(model=cheat), trials(7))


@pytest.mark.parametrize(
  'make, wrong',
  [
    (bptt.bptt, network()),
    (
      local_plasticity.local_plasticity,
      cells.cell_from_core(lambda: hk.GRU(3), lambda: hk.Linear(2)),
    ),
  ],
)
def test_a_wrong_kind_of_dynamics_is_a_type_error(make, wrong):
  """Truth: the message names what was given and what would fit."""
  with pytest.raises(TypeError, match=r'takes a .* and got a'):
    make(wrong, cross_entropy)


def test_no_rule_is_a_learner_yet():
  """Truth: factories of rules return a GradientRule, not a Learner."""
  for cases in RULES.values():
    for rule, _ in cases:
      assert isinstance(rule, base.GradientRule)
