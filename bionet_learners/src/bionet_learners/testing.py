# SPDX-License-Identifier: Apache-2.0
"""The contract of a rule and of a learner, for their authors' own tests.

def test_my_rule():
  testing.check_rule(my_rule(cell, loss), trials)

def test_my_learner():
  testing.check_learner(my_learner(cell, loss), trials)

def test_credit_on_my_cell():
  testing.check_credit(my_cell, loss, bl.d_rtrl(my_cell, loss), trials)
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bionet_core import interfaces, testing, unroll
from bionet_learners import base, laws

_RTOL, _ATOL = 1e-4, 1e-6

_MOST_PARAMETERS = 20_000  # of a cell whose credit is checked in seconds


def check_credit(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  rule: base.GradientRule,
  trials: interfaces.Trials,
  *,
  seed: int = 0,
) -> str:
  """Holds a rule's gradient on a cell to what the rule claims of it.

  On a random problem of 2 trials and 5 steps, by `GradientRule.claim`:

  - step: on one step the gradient is that of `bptt`;
  - whole: it is that of `bptt`;
  - cut: it is that of `bptt` on the cut cell (forward equals reverse);
  - windows: windows of one step sum to one window, but for parameters of which
    `describe` counts credit within windows (for rules that cut);
  - whatever it claims: of no parameter it is 0 where that of BPTT on the cut
    cell (on the cell itself, where units meet outside of synapses) is not.

  A rule that is right on average is held to it by a z-test on 8 directions.
  In float64, where the cell can; else in float32, to 1e-4. Cost: seconds.

  Args:
    cell: the cell.
    loss: the loss of one step.
    rule: the rule, made of that cell and that loss.
    trials: trials whose shapes and targets are taken; the inputs are drawn.
    seed: of all that is drawn.

  Returns:
    A sentence: in which precision what was checked; or that the cell is too
    large for it.

  Raises:
    AssertionError: naming the law, and the parameter that breaks it.
  """
  shapes, _ = jax.eval_shape(rule.model.init, unroll.seed_key(seed), trials)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  if count > _MOST_PARAMETERS:
    return (
      f'credit is unchecked: {count:,} parameters are more than '
      f'{_MOST_PARAMETERS:,}; check a smaller cell of the kind'
    )
  with jax.enable_x64(True):
    if laws.keeps_float64(cell, rule, trials, seed):
      credit = laws.Credit(cell, loss, rule, trials, seed, jnp.float64, 1e-6)
      return f'credit checked in float64: {credit.check()}'
  credit = laws.Credit(cell, loss, rule, trials, seed, jnp.float32, 1e-4)
  checked = credit.check()
  return f'credit checked in float32, which the cell is written for: {checked}'


def check_rule(
  rule: base.GradientRule,
  trials: interfaces.Trials,
  *,
  per_trial: bool = True,
  seed: int = 0,
) -> None:
  """Holds a rule against every law that all rules obey.

  - updates are a tree like the parameters, finite, and not all zero;
  - the same call gives the same answer, bit for bit;
  - a batch is the mean of its trials (for losses of the kind 'per_trial');
  - steps of mask zero put behind the trials change nothing;
  - at a step where some trials are asked, the others' targets may be anything,
    and so may be their inputs if they are asked no more, as long as these are
    finite;
  - all-zero masks give zero updates;
  - predictions read neither targets nor mask;
  - every per-trial leaf of the rule's state leads with B;
  - an optimizer with weight decay leaves every constant untouched;
  - a second update does not compile again.

  Args:
    rule: the rule.
    trials: a few whole trials (B >= 2), T >= 2 for rules over time.
    per_trial: whether the loss is the mean of the trials'.
    seed: of all that is drawn.

  Raises:
    AssertionError: naming the law.
  """
  check = _Check(rule, trials, seed)
  check.updates_are_a_gradient_of_the_parameters()
  check.is_pure()
  if per_trial:
    check.batch_is_the_mean_of_its_trials()
  check.padding_changes_nothing()
  check.what_nobody_asks_for_changes_nothing()
  check.unasked_steps_teach_nothing()
  check.predictions_read_no_targets()
  check.state_leads_with_trials()
  check.learns_without_touching_constants_or_compiling_again()


def check_learner(
  learner: base.Learner,
  trials: interfaces.Trials,
  *,
  seed: int = 0,
  stream: bool = False,
) -> None:
  """Holds a learner against every law that all learners obey.

  - the same key makes the same state, another key other parameters;
  - every per-trial leaf of the rule's state leads with B;
  - an update keeps the state's tree, shapes and dtypes, counts one step, moves
    a parameter and leaves every constant untouched;
  - metrics are finite scalars, 'loss' among them, or one that ends in '_loss';
  - what it takes over of its own state has the same tree, shapes and dtypes;
  - jit = plain, in `init`, `update` and `predict`;
  - a second update does not compile again;
  - inputs after the last asked step of a trial, and targets where nothing is
    asked, change no update, NaN and labels of no class among them;
  - predictions `[T, B, ...]` up to that step read neither these inputs, nor
    targets, nor the mask.

  Args:
    learner: the learner.
    trials: a few whole trials (B >= 2).
    seed: of all that is drawn.
    stream: whether the learner goes on from batch to batch, so that no step of
      a trial is the last one: its inputs may not be NaN.

  Raises:
    AssertionError: naming the law.
  """
  if trials.index.shape[0] < 2:
    raise ValueError('check_learner needs at least 2 trials.')
  assert learner.partition in ('trials', 'population'), (
    f'partition is {learner.partition!r}: neither trials nor population'
  )
  key, other = jax.random.split(unroll.seed_key(seed))
  init = jax.jit(learner.init)
  start = init(key, trials)
  _check_start(learner, start, init, key, other, trials)

  traces = []

  def counted(state, key, trials):
    traces.append(1)
    return learner.update(state, key, trials)

  update = jax.jit(counted)
  first, metrics = update(start, key, trials)
  second, more = update(first, key, trials)
  for count, before, after in ((1, start, first), (2, first, second)):
    _assert_same_types(before, after)
    assert int(after.step) == count, f'step {after.step} after {count} updates'
    chex.assert_trees_all_equal(before.constants, after.constants)
  assert len(traces) == 1, 'the second update was compiled again'
  shared = start.rule_state.shared
  _assert_same_types(
    shared, jax.eval_shape(learner.take_over, shared), 'taking over'
  )
  moved = any(
    np.any(a != b)
    for a, b in zip(
      jax.tree.leaves(start.params), jax.tree.leaves(second.params), strict=True
    )
  )
  assert moved, 'two updates moved no parameter'
  assert base.objective(metrics), f"metrics lack 'loss': {sorted(metrics)}"
  for name, value in (*metrics.items(), *more.items()):
    assert np.shape(value) == () and np.isfinite(value), (
      f'metric {name!r} is no finite scalar: {value}'
    )
  plain = learner.update(start, key, trials)
  _assert_close(_numbers(plain), _numbers((first, metrics)), 'jit is not plain')
  _check_predictions(learner, first, key, trials)
  if trials.mask.shape[0] > 1 and not stream:
    laws.check_padding(learner, update, first, key, trials)


def _check_start(learner, start, init, key, other, trials) -> None:
  chex.assert_trees_all_equal(_numbers(init(key, trials)), _numbers(start))
  plain = learner.init(key, trials)
  _assert_close(_numbers(plain), _numbers(start), 'init: jit is not plain')
  assert np.shape(start.step) == () and int(start.step) == 0, (
    f'the state starts at step {start.step}'
  )
  for path, leaf in jax.tree.leaves_with_path(start.params):
    assert jnp.issubdtype(leaf.dtype, jnp.floating), (
      f'the parameter {jax.tree_util.keystr(path)} is {leaf.dtype}, not float'
    )
  batch = trials.index.shape[0]
  for path, leaf in jax.tree.leaves_with_path(start.rule_state.per_trial):
    assert leaf.ndim and leaf.shape[0] == batch, (
      f'per-trial state {jax.tree_util.keystr(path)} of shape {leaf.shape} '
      f'does not lead with B = {batch}'
    )
  apart = zip(
    jax.tree.leaves(start.params),
    jax.tree.leaves(init(other, trials).params),
    strict=True,
  )
  assert any(np.any(a != b) for a, b in apart), (
    'another key draws the same parameters'
  )


def _check_predictions(learner, state, key, trials) -> None:
  unlike = dataclasses.replace(
    trials, targets=trials.targets + 1, mask=jnp.zeros_like(trials.mask)
  )
  predict = jax.jit(learner.predict)
  outputs, again = predict(state, key, trials), predict(state, key, unlike)
  chex.assert_equal_shape_prefix([outputs, trials.mask], 2)
  judged = laws.until_last_asked(trials)
  assert np.array_equal(outputs[judged], again[judged]), (
    'predictions depend on the targets'
  )
  plain = learner.predict(state, key, trials)
  _assert_close(plain, outputs, 'predict: jit is not plain')


def _assert_same_types(before, after, what='an update') -> None:
  try:
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
  except AssertionError as error:
    raise AssertionError(
      f"{what} changed the state's tree or types. {error}"
    ) from error


def _numbers(tree):
  """The tree with typed keys as the numbers they are."""

  def plain(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.key_data(leaf)
    return leaf

  return jax.tree.map(plain, tree)


class _Check:
  """The laws, on one rule and one batch."""

  def __init__(self, rule, trials, seed):
    self._rule, self._trials = rule, trials
    self._batch = trials.index.shape[0]
    self._key = unroll.seed_key(seed)
    if self._batch < 2:
      raise ValueError('check_rule needs at least 2 trials.')
    init_key, self._rule_key = jax.random.split(self._key)
    self._params, self._constants = jax.jit(rule.model.init)(init_key, trials)
    self._run = jax.jit(self._begin_and_estimate)

  def _begin_and_estimate(self, params, constants, trials):
    state = self._rule.init(self._rule_key, params, constants, trials)
    state = self._rule.begin(params, constants, state, self._key, trials)
    return self._rule.estimate(params, constants, state, self._key, trials)[0]

  def _estimate(self, trials):
    return self._run(self._params, self._constants, trials)

  def updates_are_a_gradient_of_the_parameters(self):
    updates = self._estimate(self._trials).gradient
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, self._params)
    chex.assert_tree_all_finite(updates)
    largest = max(np.max(np.abs(u)) for u in jax.tree.leaves(updates))
    assert largest > 0, 'all updates are zero on these trials'

  def is_pure(self):
    first = self._estimate(self._trials)
    # Traced anew: numbers drawn outside JAX would differ.
    traced = jax.jit(lambda *args: self._begin_and_estimate(*args))
    again = traced(self._params, self._constants, self._trials)
    chex.assert_trees_all_equal(first, again)

  def batch_is_the_mean_of_its_trials(self):
    single = [
      self._estimate(_take(self._trials, slice(b, b + 1)))
      for b in range(self._batch)
    ]
    mean = jax.tree.map(lambda *x: np.mean(np.stack(x), axis=0), *single)
    whole = self._estimate(self._trials)
    _assert_close(
      (whole.gradient, whole.loss),
      (mean.gradient, mean.loss),
      'a batch is not the mean of its trials',
    )

  def padding_changes_nothing(self):
    if self._trials.mask.shape[0] == 1:  # static trials have no steps to add
      return
    timed = jax.tree.map(np.asarray, unroll.timed(self._trials))
    padded = {
      name: np.concatenate([x, np.zeros_like(x[:2])])
      for name, x in timed.items()
    }
    _assert_close(
      self._estimate(dataclasses.replace(self._trials, **padded)).gradient,
      self._estimate(self._trials).gradient,
      'padding with steps of mask zero changed the updates',
    )

  def what_nobody_asks_for_changes_nothing(self):
    # The first trial ends a step earlier than the others.
    mask = self._trials.mask.at[-1, 0].set(0.0)
    inputs = self._trials.inputs
    if len(mask) > 1:
      mask = mask.at[-2, 0].set(self._trials.mask[-1, 0])
      inputs = inputs.at[-1, 0].add(1.0)
    ended = dataclasses.replace(self._trials, mask=mask)
    padded = dataclasses.replace(testing.without_targets(ended), inputs=inputs)
    plain, other = self._estimate(ended), self._estimate(padded)
    _assert_close(
      (other.gradient, other.loss),
      (plain.gradient, plain.loss),
      'what nobody asks for changed the updates',
    )

  def unasked_steps_teach_nothing(self):
    silent = dataclasses.replace(
      self._trials, mask=jnp.zeros_like(self._trials.mask)
    )
    for leaf in jax.tree.leaves(self._estimate(silent).gradient):
      assert not np.any(leaf), 'trials of mask zero gave a non-zero update'

  def predictions_read_no_targets(self):
    other = dataclasses.replace(
      self._trials,
      targets=self._trials.targets + 1,
      mask=jnp.zeros_like(self._trials.mask),
    )
    predict = jax.jit(self._rule.model.predict)
    args = (self._params, self._constants, self._key)
    before, after = predict(*args, self._trials), predict(*args, other)
    chex.assert_equal_shape_prefix([before, self._trials.mask], 2)
    assert np.array_equal(before, after), 'predictions depend on the targets'

  def state_leads_with_trials(self):
    state = jax.eval_shape(
      self._rule.init,
      self._rule_key,
      self._params,
      self._constants,
      self._trials,
    )
    for path, leaf in jax.tree.leaves_with_path(state.per_trial):
      assert leaf.ndim and leaf.shape[0] == self._batch, (
        f'per-trial state {jax.tree_util.keystr(path)} of shape {leaf.shape} '
        f'does not lead with B = {self._batch}'
      )

  def learns_without_touching_constants_or_compiling_again(self):
    learner = base.descend(self._rule, optax.adamw(0.1, weight_decay=0.1))
    traces = []

    def counted(state, trials):
      traces.append(1)
      return learner.update(state, self._key, trials)

    update = jax.jit(counted)
    first = state = jax.jit(learner.init)(self._key, self._trials)
    for _ in range(2):
      state, _ = update(state, self._trials)
    chex.assert_trees_all_equal(first.constants, state.constants)
    assert int(state.step) == 2, 'the step did not advance'
    assert len(traces) == 1, 'the second update was compiled again'


def _take(trials: interfaces.Trials, where: slice) -> interfaces.Trials:
  timed = jax.tree.map(lambda x: np.asarray(x)[:, where], unroll.timed(trials))
  index = jnp.asarray(np.asarray(trials.index)[where])
  return interfaces.Trials(index=index, **timed)


def _assert_close(got, wanted, message: str) -> None:
  for path, want in jax.tree.leaves_with_path(wanted):
    have = dict(jax.tree.leaves_with_path(got))[path]
    np.testing.assert_allclose(
      have,
      want,
      rtol=_RTOL,
      atol=_ATOL,
      err_msg=f'{message} ({jax.tree_util.keystr(path)})',
    )
