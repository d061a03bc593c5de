# SPDX-License-Identifier: Apache-2.0
"""The form for an accelerator: its program, and that its values are the CPU's.

The program for CUDA is lowered on any machine, and run nowhere. What must not
be in it: a loop over trials, a conditional in a loop, a step by itself.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_core import platforms
from bionet_learners import base
from bionet_learners.influence import rtrl, snap, uoro
from bionet_learners.local import local_plasticity
from bionet_learners.reverse import bptt, truncated_bptt
from bionet_learners.sampling import score_function
from bionet_learners.traces import d_rtrl, e_prop, pp_prop, rflo, three_factor
from tests import small
from tests.learners import contracts

T, B, K = 70, 13, 10
KEY = jax.random.key(0)
CELL = contracts.leaky_cell()
GRU = small.stock('gru', 4, 3)


def over_time(make, cell=CELL, **settings):
  rule = make(cell, contracts.cross_entropy, **settings)
  return base.descend(rule, optax.adam(0.1)), contracts.trials(T, B)


def relaxed(**settings):
  rule = local_plasticity.local_plasticity(contracts.network(**settings))
  return base.descend(rule, optax.sgd(0.1)), contracts.trials(1, B)


# Of what the form is asked: a learner and its trials.
UPDATES = {
  'bptt': lambda: over_time(bptt.bptt, GRU),
  'remat': lambda: over_time(bptt.bptt, GRU, remat=True),
  'truncated_bptt': lambda: over_time(truncated_bptt.truncated_bptt, window=K),
  'd_rtrl': lambda: over_time(d_rtrl.d_rtrl, GRU, window=K),
  'step by step': lambda: over_time(d_rtrl.d_rtrl, window=1),
  'exact within': lambda: over_time(d_rtrl.d_rtrl, within='exact'),
  'in reverse': lambda: over_time(d_rtrl.d_rtrl, GRU, execution='reverse'),
  'bfloat16': lambda: over_time(d_rtrl.d_rtrl, trace_dtype='bfloat16'),
  'e_prop': lambda: over_time(e_prop.e_prop, feedback='random', kappa=0.5),
  'pp_prop': lambda: over_time(pp_prop.pp_prop),
  'rflo': lambda: over_time(rflo.rflo, tau=2.0),
  'rtrl': lambda: over_time(rtrl.rtrl),
  'score_function': lambda: over_time(
    score_function.score_function, contracts.noisy_cell(), traces=True
  ),
  'snap': lambda: over_time(snap.snap),
  'three_factor': lambda: over_time(three_factor.three_factor),
  'uoro': lambda: over_time(uoro.uoro),
  'local_plasticity': lambda: relaxed(),
  'until nothing changes': lambda: relaxed(stop_at_fixed_point=True),
  'evolution': lambda: (contracts.evolved(), contracts.trials(T, B)),
  'open_es': lambda: (contracts.stepped(), contracts.trials(T, B)),
}


def update_for(platform, learner, state, trials):
  """Traced for a platform: `.lower(...)`, and what it gives on this one."""
  with platforms.traced_for(platform):
    return jax.jit(lambda *args: learner.update(*args)).trace(
      state, KEY, trials
    )


@pytest.fixture
def short_rounds(monkeypatch):
  """Two steps in a round: ten take five times as long to compile."""
  monkeypatch.setattr(platforms, '_UNROLLED', 2)


def in_both_forms(learner, trials):
  """Parameters: the first, and those after an update in either form."""
  state = jax.jit(learner.init)(KEY, trials)
  after = (
    update_for(form, learner, state, trials).lower().compile()
    for form in ('cpu', 'cuda')
  )
  ours, theirs = (run(state, KEY, trials)[0].params for run in after)
  return state.params, ours, theirs


class Loop:
  """A loop of a program: how often it goes round, and the loops inside it."""

  def __init__(self, trips, functions):
    self._functions, self.trips = functions, trips
    self.inner, self.calls, self.cases = [], [], 0

  def all(self):
    """This loop, and all that it runs."""
    called = [self._functions[name] for name in self.calls]
    return [self, *(x for loop in (*self.inner, *called) for x in loop.all())]

  def rounds(self):
    """How often the body of any loop is run."""
    called = [self._functions[name] for name in self.calls]
    within = sum(loop.rounds() for loop in (*self.inner, *called))
    return within if self.trips is None else self.trips * (1 + within)


def main_of(text):
  """The main function of a program in StableHLO, as a Loop that runs once."""
  functions, stack, depth = {}, [], 0
  for line in text.splitlines():
    if name := re.search(r'func\.func \w+ @(\w+)', line):
      functions[name[1]] = Loop(None, functions)
      stack = [(depth, functions[name[1]])]
    elif 'stablehlo.while' in line:
      loop = Loop(0, functions)
      stack[-1][1].inner.append(loop)
      stack.append((depth, loop))
    elif stack:
      here = stack[-1][1]
      here.cases += len(re.findall(r'stablehlo\.(?:case|if)\b', line))
      here.calls += re.findall(r'call @(\w+)', line)
      # The last bound that is named before the body begins.
      if bound := re.search(r'dense<(\d+)> : tensor<i(?:32|64)>', line):
        if len(stack) > 1 and not here.trips:
          here.trips = int(bound[1])
    depth += line.count('{') - line.count('}')
    while len(stack) > 1 and depth <= stack[-1][0] and 'while' not in line:
      stack.pop()
  return functions['main']


def test_loops_are_counted():
  """Truth: by hand; one loop in another, beside a third, and in a function."""

  def once(x, _):
    return jax.lax.cond(x[0] > 0, lambda x: x + 1, jnp.sin, x), None

  def twice(x, _):
    return jax.lax.scan(once, x, None, 5)

  def both(x):
    x, _ = jax.lax.scan(twice, x, None, 7)
    return jax.lax.scan(lambda x, _: (jnp.cos(x), None), x, None, 4)[0]

  text = jax.jit(lambda x: jax.jit(both)(x) + 1).trace(jnp.zeros(3))
  program = main_of(text.lower(lowering_platforms=('cuda',)).as_text())
  assert program.rounds() == 7 * (1 + 5) + 4
  assert sorted(loop.trips for loop in program.all() if loop.trips) == [4, 5, 7]
  assert sum(loop.cases for loop in program.all()) == 1


@pytest.mark.parametrize('name', UPDATES)
def test_the_program_for_cuda_waits_for_nothing(name):
  """Truth: no loop over trials, no conditional, ten steps in a round."""
  learner, trials = UPDATES[name]()
  state = jax.eval_shape(learner.init, KEY, trials)
  traced = update_for('cuda', learner, state, trials)
  text = traced.lower(lowering_platforms=('cuda',)).as_text()
  loops = main_of(text).all()
  assert sum(loop.cases for loop in loops) == 0
  steps = -(-trials.mask.shape[0] // 10)
  # The number of trials is none of these; nor is what is read off a loop whose
  # end is no constant.
  found = {loop.trips for loop in loops if loop.trips is not None}
  # A rule may take its last window by itself.
  assert found <= {steps, steps - 1} - {0, 1}
  most = (6 if name == 'remat' else 4) * steps
  assert main_of(text).rounds() <= most


@pytest.mark.parametrize(
  'name',
  [
    name
    if name in ('d_rtrl', 'until nothing changes', 'score_function')
    else pytest.param(name, marks=pytest.mark.slow)
    for name in UPDATES
  ],
)
def test_both_forms_have_the_same_value(name, short_rounds):
  """Truth: the CPU's form; and the parameters move."""
  learner, trials = UPDATES[name]()
  # Some trials are asked before the others, and the first steps of none are.
  if trials.mask.shape[0] > 1:
    mask = trials.mask.at[T // 2 : T - K, ::2].set(0)
    trials = dataclasses.replace(trials, mask=mask)
  start, ours, theirs = in_both_forms(learner, trials)
  for x, y, before in zip(
    *map(jax.tree.leaves, (ours, theirs, start)), strict=True
  ):
    np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6)
    assert not np.array_equal(x, before) or not x.any()


def test_a_loss_over_those_that_are_asked_has_a_gradient_in_both_forms(
  short_rounds,
):
  """Truth: the CPU's, which skips a step that divides by 0. Mutant: its NaN."""

  def loss(outputs, targets, mask):
    hits = -jax.nn.log_softmax(outputs)[jnp.arange(B), targets]
    return jnp.sum(hits * mask) / jnp.sum(mask), {}

  rule = d_rtrl.d_rtrl(CELL, loss)
  learner, trials = base.descend(rule, optax.sgd(0.1)), contracts.trials(T, B)
  _, ours, theirs = in_both_forms(learner, trials)
  for x, y in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
    assert np.all(np.isfinite(x))
    np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6)
