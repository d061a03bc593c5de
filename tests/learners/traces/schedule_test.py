# SPDX-License-Identifier: Apache-2.0
"""The order in which rules of traces take steps, by what is asked.

Truth: a Python loop over windows; every step comes once and in its place.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_core import interfaces, platforms
from bionet_core.cells import cores, noisy
from bionet_learners import base
from bionet_learners.traces import (
  d_rtrl,
  e_prop,
  opening,
  parts,
  rflo,
  schedule,
)
from tests import small
from tests.learners import contracts

T = 7
KEY = jax.random.key(0)
GRU = cores.gru(small.Sizes((6,), 3), hidden=5)
CELL = noisy.noisy(GRU, 0.1)  # noise is numbered by step, which must be right


def trials_of(asked):
  """Trials of two, whose inputs count steps; the one or the other is asked."""
  steps = len(asked)
  mask = jnp.asarray(asked, jnp.float32)[:, None] * jnp.asarray([[1.0, 0.0]])
  mask = jnp.where(jnp.arange(steps)[:, None] % 2 == 0, mask, mask[:, ::-1])
  inputs = jnp.broadcast_to(jnp.arange(steps)[:, None, None], (steps, 2, 1))
  return contracts.trials(steps, 2).replace(mask=mask, inputs=inputs * 1.0)


class Log:
  """Writes down what is called: one row a step, by its place and kind."""

  def __init__(self):
    self.empty = jnp.zeros((), int), jnp.full((T, 3), -1)

  @staticmethod
  def _written(log, step, kind, needed):
    count, rows = log
    row = jnp.stack([jnp.asarray(x, int) for x in (step, kind, needed)])
    return count + 1, rows.at[count].set(row, mode='promise_in_bounds')

  def learn(self, log, window, needed):
    """Every step of a window."""
    for inputs in window.inputs:
      log = self._written(log, inputs[0, 0], 1, needed)
    return log

  def listen(self, log, start, count):
    """The steps of a range."""
    return jax.lax.fori_loop(
      0, count, lambda i, log: self._written(log, start + i, 0, 1), log
    )


def by_hand(asked, size, keep):
  """`[(step, whether it is learned from, whether traces are needed)]`."""
  windows = [
    (range(at, min(at + size, T)), any(asked[at : at + size]))
    for at in range(0, T, size)
  ]
  while not keep and windows and not windows[-1][1]:
    windows.pop()
  return [
    (step, int(learns), int(keep or w < len(windows) - 1 or not learns))
    for w, (steps, learns) in enumerate(windows)
    for step in steps
  ]


@pytest.mark.parametrize('keep', [False, True])
@pytest.mark.parametrize(
  ('size', 'longest'), [(1, 3), (2, 7), (3, 4), (4, 1), (9, 2)]
)
def test_every_step_comes_once_and_in_its_place(size, longest, keep):
  """Truth: a loop over windows; all masks of seven steps."""
  log = Log()

  @jax.jit
  def found(asked):
    return schedule.run(
      log.learn,
      log.listen,
      log.empty,
      trials_of(asked),
      size=size,
      longest=longest,
      keep=keep,
    )

  masks = np.asarray(list(itertools.product([0, 1], repeat=T)))
  counts, rows = jax.vmap(found)(jnp.asarray(masks))
  for mask, count, got in zip(masks, counts, np.asarray(rows), strict=True):
    wanted = by_hand(mask, size, keep)
    assert int(count) == len(wanted), mask
    assert [tuple(row) for row in got[: len(wanted)]] == wanted, mask


@pytest.mark.parametrize('keep', [False, True])
@pytest.mark.parametrize('size', [1, 2, 3, 7, None])
def test_an_accelerator_learns_from_every_window(size, keep):
  """Truth: all steps in order; the last window alone may need no traces."""
  log = Log()

  def learn(carry, window, needed):
    assert isinstance(needed, bool)  # nothing waits for what is asked
    return log.learn(carry, window, needed)

  with platforms.traced_for('cuda'):
    _, rows = jax.jit(
      lambda: schedule.run(
        learn,
        None,
        log.empty,
        trials_of([0, 1, 0, 0, 0, 0, 0]),
        size=size,
        longest=1,
        keep=keep,
      )
    )()
  last = (T - 1) // (size or T) * (size or T)
  wanted = [(step, 1, int(keep or step < last)) for step in range(T)]
  assert [tuple(row) for row in np.asarray(rows)] == wanted


@pytest.mark.parametrize(
  ('mib', 'window', 'wanted'),
  [(0, 10, 10), (1, 10, 25), (1, 40, 34), (100, 10, 100), (1, None, 100)],
)
def test_as_many_steps_as_fit_divided_evenly(mib, window, wanted):
  """Truth: by hand; 32 kB a step, so that 32 of 100 steps fit in a MiB.

  Of 32 at most there are four parts of 25; where a window has 40, three of 34.
  """
  step = {'x': jax.ShapeDtypeStruct((64, 128), jnp.float32)}
  settings = opening.Settings(window=window, silent_mib=mib)
  trials = contracts.trials(100, 2)
  assert schedule.longest(step, settings, trials) == wanted


RULES = {
  'd_rtrl': d_rtrl.d_rtrl,
  'exact within': functools.partial(d_rtrl.d_rtrl, within='exact'),
  'e_prop': e_prop.e_prop,
  'rflo': rflo.rflo,
}
MASKS = {
  'the last steps': [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
  'the first steps': [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
  'here and there': [0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1],
  'no step': [0] * 13,
  'all steps': [1] * 13,
}


@pytest.mark.parametrize(
  'rule',
  [
    name if name == 'd_rtrl' else pytest.param(name, marks=pytest.mark.slow)
    for name in RULES
  ],
)
def test_how_long_a_window_is_where_nobody_is_asked_changes_nothing(rule):
  """Truth: windows of K that are all learned from, as an accelerator has them.

  Each mask, budgets of 0 and of all steps, the last estimate and the one after
  which trials go on. Mutant: a suffix product that leaves the empty steps of a
  window out, or decays through them.
  """
  trials = contracts.trials(13, 4)
  params, constants = CELL.init(KEY, trials.inputs[0])

  def estimates(platform, mib, trials):
    made = RULES[rule](CELL, contracts.cross_entropy, window=3, silent_mib=mib)
    with platforms.traced_for(platform):

      @jax.jit
      def run(mask):
        here = dataclasses.replace(trials, mask=mask)
        state = made.init(KEY, params, constants, here)
        args = params, constants, state, KEY, here
        assert made.estimate_last is not None
        kept, after = made.estimate(*args)
        return kept, made.estimate_last(*args)[0], after

      return [
        run(jnp.outer(jnp.asarray(m), jnp.ones(4))) for m in MASKS.values()
      ]

  wanted = estimates('cuda', 0, trials)
  for mib in (0, 10):
    for mask, want, got in zip(
      MASKS, wanted, estimates('cpu', mib, trials), strict=True
    ):
      for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6, err_msg=mask)
      if 'no' not in mask:
        assert any(np.any(x) for x in jax.tree.leaves(got[0].gradient))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('cached', [1, 250])
def test_parts_of_the_trials_are_as_all_at_once(cached, dtype, monkeypatch):
  """Truth: all trials at once, as an accelerator has them; six, in parts.

  A cache of a byte holds one trial, one of 250 two or three of some synapses.
  Mutant: each part reads the first one's trials.
  """
  trials = contracts.trials(7, 6)
  trials = trials.replace(mask=jnp.ones_like(trials.mask) / 7)
  params, constants = CELL.init(KEY, trials.inputs[0])
  found = {}
  monkeypatch.setattr(parts, '_CACHED', cached)
  for platform in ('cpu', 'cuda'):
    made = d_rtrl.d_rtrl(
      CELL, contracts.cross_entropy, window=3, trace_dtype=dtype
    )
    state = made.init(KEY, params, constants, trials)
    traces = jax.tree.leaves(state.per_trial.traces)
    sizes = {parts.Parts.of((x,)).size for x in traces if x.ndim == 4}
    with platforms.traced_for(platform):
      found[platform] = jax.jit(made.estimate)(
        params, constants, state, KEY, trials
      )
  assert max(sizes) < 6 and (cached == 1) == (max(sizes) == 1)
  for x, y in zip(*map(jax.tree.leaves, found.values()), strict=True):
    x, y = (np.asarray(z, np.float32) for z in (x, y))
    np.testing.assert_allclose(
      x, y, rtol=2e-2 if dtype != 'float32' else 1e-5, atol=1e-5
    )


def test_a_slope_without_end_where_nobody_asks_is_no_matter():
  """Truth: the CPU's form. Mutant: no zeros for windows that are not asked."""

  def step(params, constants, state, keys, inputs):
    del constants, keys
    state = 0.5 * state + jnp.sqrt(jnp.abs(inputs @ params['w']))
    return state, state

  cell = interfaces.Cell(
    lambda key, inputs: ({'w': jnp.full((6, 3), 0.3)}, {}),
    lambda constants, keys: jnp.zeros((*keys.shape, 3)),
    step,
    lambda params, constants, emission: emission @ jnp.diag(jnp.arange(3.0)),
  )
  trials = contracts.trials(8, 2)
  # What comes in after the last asked step is set to 0, where the slope is.
  trials = trials.replace(mask=jnp.zeros((8, 2)).at[3].set(1.0))
  rule = d_rtrl.d_rtrl(cell, contracts.cross_entropy, window=4)
  norms = []
  for platform in ('cpu', 'cuda'):
    learner = base.descend(rule, optax.sgd(0.1))
    with platforms.traced_for(platform):
      state = learner.init(KEY, trials)
      update = jax.jit(lambda *args, learner=learner: learner.update(*args))
      norms.append(float(update(state, KEY, trials)[1]['gradient_norm']))
  assert norms[0] > 0.1
  np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)


def test_a_nan_of_the_past_is_no_reason_to_stop():
  """Truth: the whole gradient is NaN, as that of BPTT would be.

  The traces' update waits for a number that was computed of them: whatever it
  is, the update comes.
  """
  trials = contracts.trials(13, 4)
  trials = trials.replace(inputs=trials.inputs.at[1, 0].set(jnp.nan))
  rule = d_rtrl.d_rtrl(CELL, contracts.cross_entropy, window=3)
  params, constants = CELL.init(KEY, trials.inputs[0])
  state = rule.init(KEY, params, constants, trials)
  got, after = jax.jit(rule.estimate)(params, constants, state, KEY, trials)
  assert np.isnan(got.loss)
  for traces in jax.tree.leaves(after.per_trial.traces):
    assert np.all(np.isfinite(traces[1:]))
    assert np.any(np.isnan(traces[0]))


def test_a_learner_that_begins_anew_keeps_no_traces():
  """Truth: its state; one that goes on keeps them, and so does `every`."""
  trials = contracts.trials(6, 4)
  rule = d_rtrl.d_rtrl(CELL, contracts.cross_entropy, window=3)
  sizes = {}
  for carry in (False, True):
    learner = base.descend(rule, optax.sgd(0.1), carry=carry)
    state = jax.eval_shape(learner.init, KEY, trials)
    sizes[carry] = len(jax.tree.leaves(state.rule_state.per_trial))
  assert sizes[False] == 0 < sizes[True]
