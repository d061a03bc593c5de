# SPDX-License-Identifier: Apache-2.0
"""The laws of `testing` that need a problem of their own.

Those of padded trials, and those that `testing.check_credit` holds the gradient
of a rule to.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, testing, unroll
from bionet_learners import base, description, oracles
from bionet_learners.reverse import bptt
from bionet_learners.synapses import cut_step

_DRAWS = 1_024  # estimates of a rule that is right on average
_MOST_Z = 4.5  # in 8 directions: 1 in 20,000 right rules is refused


def _random_problem(trials, seed, num_steps, dtype) -> interfaces.Trials:
  """A short problem: random inputs, the targets of these trials."""
  rows = np.arange(2) % trials.index.shape[0]
  last = trials.mask.shape[0] - 1 - np.arange(num_steps)[::-1]
  # Of late steps, where the targets of most tasks are.
  targets = np.asarray(trials.targets)[np.maximum(last, 0)][:, rows]
  if jnp.issubdtype(targets.dtype, jnp.inexact):
    targets = targets.astype(dtype)
  mask = np.zeros((num_steps, 2))
  mask[num_steps // 2 :] = 1 / len(mask[num_steps // 2 :])
  shape = (num_steps, 2, *trials.inputs.shape[2:])
  return interfaces.Trials(
    inputs=jax.random.normal(unroll.seed_key(seed), shape, dtype),
    targets=jnp.asarray(targets),
    mask=jnp.asarray(mask, dtype),
    index=jnp.asarray(np.arange(2)),
  )


def keeps_float64(cell, rule, trials, seed) -> bool:
  """Whether a cell runs in float64 from parameters to emission."""
  problem = _random_problem(trials, seed, 2, jnp.float64)

  def run(key):
    params, constants = rule.model.init(key, problem)
    keys = unroll.trial_keys(key, problem.index)
    state = unroll.initial_state(cell, constants, key, problem.index)
    return state, cell.step(params, constants, state, keys, problem.inputs[0])

  state, (emission, after) = jax.eval_shape(run, unroll.seed_key(seed))
  floats = [
    x
    for x in jax.tree.leaves((emission, state, after))
    if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return all(x.dtype == jnp.float64 for x in floats)


def until_last_asked(trials: interfaces.Trials) -> np.ndarray:
  """Bool `[T, B]`: the steps up to the last one at which a trial is asked."""
  is_asked = np.asarray(trials.mask) != 0
  return np.cumsum(is_asked[::-1], axis=0)[::-1] > 0


def check_padding(
  learner: base.Learner,
  update: base.UpdateFn,
  state: base.LearnerState,
  key: jax.Array,
  trials: interfaces.Trials,
) -> None:
  """Pads the last step of trials: no update and no judged output changes.

  Args:
    learner: the learner.
    update: its update, compiled for these shapes.
    state: any state of it.
    key: the noise key.
    trials: whole trials, T >= 2, asked at the last step.

  Raises:
    AssertionError: if what comes in after the last asked step is felt.
  """
  mask = trials.mask.at[-1].set(0.0).at[-2].set(trials.mask[-1])
  ended = dataclasses.replace(trials, mask=mask)
  padded = dataclasses.replace(
    testing.without_targets(ended), inputs=ended.inputs.at[-1].set(jnp.nan)
  )
  judged, predict = until_last_asked(ended), jax.jit(learner.predict)
  learned, felt = (
    (*update(state, key, data), predict(state, key, data)[judged])
    for data in (ended, padded)
  )
  for what, plain, other in (
    ('parameters', learned[0].params, felt[0].params),
    ('metrics', learned[1], felt[1]),
    ('predictions', learned[2], felt[2]),
  ):
    chex.assert_trees_all_equal(
      other,
      plain,
      custom_message=f'{what} depend on what follows the last asked step',
    )


class Credit:
  """The laws of credit, on one rule, one cell and one short problem."""

  def __init__(self, cell, loss, rule, trials, seed, dtype, tolerance):
    self._cell, self._rule, self._tolerance = cell, rule, tolerance
    self._key = unroll.seed_key(seed)
    self._short = _random_problem(trials, seed, 1, dtype)
    self._long = _random_problem(trials, seed, 5, dtype)
    init = jax.jit(rule.model.init)
    self._params, self._constants = init(self._key, self._long)
    self._exact = bptt.bptt(cell, loss)
    self._cut = bptt.bptt(cut_step.cut(cell), loss)

  def check(self) -> str:
    """Checks all that is claimed; returns the names of the laws."""
    claim, names = self._rule.claim, ['no gradient is lost']
    exact = self._gradient(self._exact, self._long)
    if claim.on_average:
      self._on_average(exact)
      return 'equal to BPTT on average'
    gradient = self._gradient(self._rule, self._long)
    self._loses_nothing(gradient, exact)
    if claim.step:
      wanted = self._gradient(self._exact, self._short)
      got = self._gradient(self._rule, self._short)
      self._assert_close(got, wanted, 'on one step it is not BPTT')
      names.append('BPTT on one step')
    if claim.whole:
      self._assert_close(gradient, exact, 'it is not BPTT')
      names.append('BPTT')
    if claim.cut:
      within = () if claim.whole else self._within()
      wanted = self._through_cut_cell
      self._assert_close(
        gradient, wanted, 'forward is not reverse through the cut cell', within
      )
      names.append('forward = reverse')
    if claim.windows:
      within = () if claim.whole else self._within()
      got = self._gradient(self._rule, self._long, in_windows=True)
      self._assert_close(
        got, gradient, 'windows of one step are not one window', within
      )
      names.append('windows')
    return ', '.join(names)

  def _gradient(self, rule, trials, *, in_windows=False, key=None):
    """The gradient of whole trials, or summed over windows of one step."""
    key = self._key if key is None else key
    params, constants = self._params, self._constants

    @jax.jit
    def begun():
      state = rule.init(self._key, params, constants, trials)
      return rule.begin(params, constants, state, key, trials)

    state, estimate = begun(), jax.jit(rule.estimate)
    if not in_windows:
      return estimate(params, constants, state, key, trials)[0].gradient
    total = jax.tree.map(np.zeros_like, params)
    steps = jax.tree.map(np.asarray, unroll.timed(trials))
    for t in range(trials.mask.shape[0]):
      timed = jax.tree.map(lambda x, t=t: x[t : t + 1], steps)
      window = interfaces.Trials(index=trials.index, **timed)
      result, state = estimate(params, constants, state, key, window)
      total = jax.tree.map(np.add, total, result.gradient)
    return total

  @functools.cached_property
  def _through_cut_cell(self):
    """The gradient of whole trials by BPTT on the cut cell."""
    return self._gradient(self._cut, self._long)

  @functools.cached_property
  def _rows(self):
    """What `describe` says of each parameter; None where it refuses."""
    try:
      return description.describe(self._cell, self._long.inputs[0])
    except ValueError:  # units meet outside of synapses: nothing to say of
      return None

  def _within(self) -> set[str]:
    return {row.name for row in self._rows or () if row.within_window}

  def _loses_nothing(self, gradient, exact) -> None:
    wanted = exact if self._rows is None else self._through_cut_cell
    for (path, got), leaf in zip(
      jax.tree.leaves_with_path(gradient), jax.tree.leaves(wanted), strict=True
    ):
      name = jax.tree_util.keystr(path)
      assert np.any(got) or not np.any(leaf), (
        f'the gradient of {name} is exactly 0 where that of BPTT is not'
      )

  def _on_average(self, exact) -> None:
    keys = jax.random.split(self._key, _DRAWS)

    def difference(key):  # noise of the cell is the same in both
      got = self._gradient(self._rule, self._long, key=key)
      wanted = self._gradient(self._exact, self._long, key=key)
      return jax.tree.map(lambda a, b, e: a - b + e, got, wanted, exact)

    bias = oracles.bias(jax.lax.map(difference, keys), exact, self._key)
    worst = float(np.max(np.abs(bias.z)))
    assert worst < _MOST_Z, (
      f'it is not BPTT on average: |z| is {worst:.1f} along one of 8 directions'
    )

  def _assert_close(self, got, wanted, message, leave=()) -> None:
    largest = max(np.max(np.abs(x)) for x in jax.tree.leaves(wanted))
    for (path, have), want in zip(
      jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True
    ):
      name = jax.tree_util.keystr(path)
      off = np.max(np.abs(have - want)) / largest
      assert name in leave or off <= self._tolerance, (
        f'{message}: {name} is off by {off:.1e} of the largest gradient'
      )
