# SPDX-License-Identifier: Apache-2.0
"""`check_credit` passes rules that keep their claims, and names a broken one.

Each mutant is a rule that still runs, and its gradient is not what it claims.
"""

import jax
import jax.numpy as jnp
import pytest

import bionet_learners as bl
from bionet_learners import base, testing
from tests import small

TRIALS = small.trials((6, 3, 2, 2), seed=0)


CELL = small.leaky()


def check(rule, cell=CELL):
  return testing.check_credit(cell, small.squared_error, rule, TRIALS)


RULES = {
  'bptt': (bl.bptt, 'BPTT on one step, BPTT'),
  'rtrl': (bl.rtrl, 'BPTT, windows'),
  'd_rtrl': (bl.d_rtrl, 'forward = reverse, windows'),
  'uoro': (bl.uoro, 'BPTT on average'),
}


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] if name == 'rtrl' else [])
    for name in RULES
  ],
)
def test_rules_keep_their_claims(name):
  """Truth: the laws that each of them claims, in the answer."""
  make, laws = RULES[name]
  said = check(make(CELL, small.squared_error))
  assert said.startswith('credit checked in float64: ') and laws in said


def changed(rule, change):
  """The rule, its gradient changed."""

  def estimate(*args):
    result, state = rule.estimate(*args)
    return result._replace(gradient=change(result.gradient)), state

  return rule._replace(estimate=estimate)


def without_input_weights(gradient):
  return {**gradient, 'w': jnp.zeros_like(gradient['w'])}


def forgetful(rule):
  """The rule, its traces gone at every border."""

  def estimate(params, constants, rule_state, key, window):
    memory = rule_state.per_trial
    empty = jax.tree.map(jnp.zeros_like, memory.traces)
    rule_state = rule_state._replace(per_trial=memory._replace(traces=empty))
    return rule.estimate(params, constants, rule_state, key, window)

  return rule._replace(estimate=estimate)


def mutants():
  d_rtrl = bl.d_rtrl(CELL, small.squared_error)
  truncated = bl.truncated_bptt(CELL, small.squared_error, window=2)
  return {
    'a lost gradient': (
      changed(d_rtrl, without_input_weights),
      r"\['w'\] is exactly 0",
    ),
    'a gradient of half the size': (
      changed(d_rtrl, lambda g: jax.tree.map(lambda x: x / 2, g)),
      'on one step it is not BPTT',
    ),
    'a cut rule that claims BPTT': (
      d_rtrl._replace(claim=base.Claim(whole=True)),
      'it is not BPTT',
    ),
    'BPTT that claims to be cut': (
      bl.bptt(CELL, small.squared_error)._replace(claim=base.Claim(cut=True)),
      'forward is not reverse',
    ),
    'traces lost at borders': (forgetful(d_rtrl), 'not one window'),
    'truncated, and claims windows': (
      truncated._replace(claim=base.Claim(windows=True)),
      'not one window',
    ),
    'a bias under the noise': (
      changed(
        bl.uoro(CELL, small.squared_error),
        lambda g: jax.tree.map(lambda x: 1.5 * x, g),
      ),
      'not BPTT on average',
    ),
  }


@pytest.mark.parametrize('name', mutants())
def test_a_broken_claim_is_named(name):
  """Truth: what the mutant changes is said by its name."""
  rule, message = mutants()[name]
  with pytest.raises(AssertionError, match=message):
    check(rule)


def test_a_cell_of_float32_is_checked_in_float32():
  """Truth: its state is float32 whatever its parameters are."""
  cell = small.leaky(dtype=jnp.float32)
  said = check(bl.bptt(cell, small.squared_error), cell)
  assert said.startswith('credit checked in float32')


def test_a_large_cell_is_said_to_be_unchecked():
  """Truth: 200 units have 40,800 parameters; nothing is computed."""
  cell = small.leaky(units=200)
  said = check(bl.bptt(cell, small.squared_error), cell)
  assert said.startswith('credit is unchecked: 40,800 parameters')
