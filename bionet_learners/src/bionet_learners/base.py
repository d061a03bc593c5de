# SPDX-License-Identifier: Apache-2.0
"""What a learning rule is, and how its estimates become learning."""

from collections.abc import Collection
from typing import Literal, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import optax

from bionet_core import interfaces, unroll
from bionet_learners import padding, windows


class Estimate(NamedTuple):
  """What a rule says of some trials.

  Attributes:
    gradient: a tree like the parameters; an optimizer steps against it.
    loss: `[]`, what the rule descends.
    metrics: `{name: []}`.
  """

  gradient: interfaces.ArrayTree
  loss: jax.Array
  metrics: dict[str, jax.Array]


class RuleState(NamedTuple):
  """What a rule remembers.

  Attributes:
    shared: one for all trials (feedback weights, running means).
    per_trial: every leaf leads with B (states, traces, step counters).
  """

  shared: interfaces.ArrayTree
  per_trial: interfaces.ArrayTree


class RuleInitFn(Protocol):
  """Makes what a rule remembers, once per run."""

  def __call__(
    self,
    key: jax.Array,
    params: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    trials: interfaces.Trials,
    /,
  ) -> RuleState:
    """Returns the rule's state; draws what is shared (feedback weights).

    Args:
      key: one typed key.
      params: the model's parameters.
      constants: the model's constants.
      trials: a batch; only shapes and dtypes count.
    """
    ...


class BeginFn(Protocol):
  """Restarts a rule for new trials."""

  def __call__(
    self,
    params: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    rule_state: RuleState,
    key: jax.Array,
    trials: interfaces.Trials,
    /,
  ) -> RuleState:
    """Returns fresh states and traces beside what is shared.

    Args:
      params: the model's parameters.
      constants: the model's constants.
      rule_state: the state after the trials before; what it has per trial
        counts for nothing, and a learner may have dropped it.
      key: the run's noise key; a trial's keys follow from it and the index.
      trials: the new trials.
    """
    ...


class EstimateFn(Protocol):
  """Estimates the gradient on a window of trials."""

  def __call__(
    self,
    params: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    rule_state: RuleState,
    key: jax.Array,
    trials: interfaces.Trials,
    /,
  ) -> tuple[Estimate, RuleState]:
    """Returns the estimate, and the state at the window's end.

    Finite inputs after a trial's last asked step of the window change nothing
    of the estimate; the state takes them in as they are, for a later window may
    ask. A NaN among them may make the gradient NaN: who holds whole trials sets
    such inputs to 0 (`Learner.update` does).

    Args:
      params: the model's parameters.
      constants: the model's constants.
      rule_state: the state at the window's start.
      key: the run's noise key, as given to `begin`.
      trials: whole trials, or a window of their steps.
    """
    ...


class LearningSignalFn(Protocol):
  """The learning signal that a rule sends to units at one step."""

  def __call__(
    self,
    params: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    rule_state: RuleState,
    emission: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    /,
  ) -> jax.Array:
    """Returns the signal `[B, N]`, of the mean over trials.

    Args:
      params: the model's parameters.
      constants: the model's constants.
      rule_state: the rule's state; what is shared counts alone.
      emission: `[B, N]`.
      targets: `[B, ...]`.
      mask: float `[B]`.
    """
    ...


class Claim(NamedTuple):
  """What a rule claims of its gradient; `testing.check_credit` holds it to it.

  Attributes:
    step: it is that of `bptt` where trials have one step.
    whole: it is that of `bptt` over the steps that it is given at once.
    windows: the gradients of windows of steps sum to that of all steps; of
      rules that cut, for parameters without credit that stays in a window.
    cut: it is that of `bptt` on the cut cell.
    on_average: all this holds on average over what the rule draws.
  """

  step: bool = False
  whole: bool = False
  windows: bool = False
  cut: bool = False
  on_average: bool = False


class GradientRule(NamedTuple):
  """A rule that points a direction for each parameter.

  Attributes:
    model: makes the parameters and answers.
    init: `(key, params, constants, trials) -> RuleState`; draws what is shared
      (feedback weights) once per run.
    begin: `(params, constants, rule_state, key, trials) -> RuleState`; restarts
      states and traces for new trials, keeps what is shared.
    estimate: `(params, constants, rule_state, key, trials)
      -> (Estimate, RuleState)`; continues where the state left off, so that
      trials may come in windows of steps.
    learning_signal: the learning signal of a step, for rules that send units a
      signal of their own, else None: `(params, constants, rule_state,
      emission [B, N], targets, mask [B]) -> [B, N]`.
    claim: what it claims of its gradient; by default nothing.
    objective: what a metric of the loss that it descends is called: 'loss',
      where that is the task's, else a name that ends in '_loss'.
    estimate_last: `estimate` of steps after which `begin` follows; of the state
      it returns what is shared, and `()` per trial, so that no traces need be
      made for later steps. None: the rule has no quicker way than `estimate`.
  """

  model: interfaces.Model
  init: RuleInitFn
  begin: BeginFn
  estimate: EstimateFn
  learning_signal: LearningSignalFn | None = None
  claim: Claim = Claim()
  objective: str = 'loss'
  estimate_last: EstimateFn | None = None


def _of_no_trial(rule_state: RuleState) -> RuleState:
  """What is shared alone."""
  return rule_state._replace(per_trial=())


class LearnerState(NamedTuple):
  """All that a learner carries from update to update.

  Attributes:
    params: what learns.
    constants: what does not: read-only, never shown to an optimizer.
    rule_state: the rule's memory.
    opt_state: the optimizer's.
    step: int `[]`, updates done.
  """

  params: interfaces.ArrayTree
  constants: interfaces.ArrayTree
  rule_state: RuleState
  opt_state: interfaces.ArrayTree
  step: jax.Array


class LearnerInitFn(Protocol):
  """Makes a learner's state before the first update."""

  def __call__(
    self, key: jax.Array, trials: interfaces.Trials, /
  ) -> LearnerState:
    """Returns the state.

    Args:
      key: one typed key.
      trials: a batch; only shapes and dtypes count.
    """
    ...


class UpdateFn(Protocol):
  """Learns from one batch."""

  def __call__(
    self, state: LearnerState, key: jax.Array, trials: interfaces.Trials, /
  ) -> tuple[LearnerState, dict[str, jax.Array]]:
    """Returns `(state, metrics {name: []})`.

    Inputs after a trial's last asked step change nothing, NaN among them
    neither; nor do targets where nothing is asked.

    Args:
      state: the state after the update before.
      key: the run's noise key, the same at every update: what is drawn differs
        by the trials' index.
      trials: the batch.
    """
    ...


class LearnerPredictFn(Protocol):
  """Answers trials with what was learned."""

  def __call__(
    self, state: LearnerState, key: jax.Array, trials: interfaces.Trials, /
  ) -> jax.Array:
    """Returns the outputs `[T, B, O]`.

    Reads no targets, and of the mask only which step of a trial is the last one
    that is asked: inputs after it count as 0. A trial that is asked nowhere is
    shown whole.

    Args:
      state: the learner's state.
      key: one typed key, from which the trials' keys follow.
      trials: whole trials.
    """
    ...


class TakeOverFn(Protocol):
  """What a learner takes over of the stage before."""

  def __call__(self, shared: interfaces.ArrayTree, /) -> interfaces.ArrayTree:
    """Returns this learner's shared state from the earlier learner's."""
    ...


def _take_over_all(shared: interfaces.ArrayTree, /) -> interfaces.ArrayTree:
  return shared


class Learner(NamedTuple):
  """A rule with everything it needs to learn.

  Attributes:
    init: `(key, trials) -> LearnerState`.
    update: `(state, key, trials) -> (state, metrics {name: []})`; `key` is the
      run's, the same at every update: draws differ by the trials' index.
    predict: `(state, key, trials) -> outputs [T, B, O]`; reads no targets.
      Both take inputs after the last asked step of a trial for 0, whatever pads
      it there; not where a learner goes on from batch to batch (`carry`).
    partition: what is split over devices.
    take_over: `shared -> shared`, from what the rule of an earlier stage of a
      run shared to what this learner goes on with: all of it, as it is, unless
      a learner says otherwise.
  """

  init: LearnerInitFn
  update: UpdateFn
  predict: LearnerPredictFn
  partition: Literal['trials', 'population'] = 'trials'
  take_over: TakeOverFn = _take_over_all


class DeviceIndexFn(Protocol):
  """Numbers the devices."""

  def __call__(self) -> chex.Numeric:
    """Returns the number int `[]` of the device that calls."""
    ...


class CollectiveFn(Protocol):
  """Combines the trees of all devices."""

  def __call__(self, tree: interfaces.ArrayTree, /) -> interfaces.ArrayTree:
    """Returns the same combined tree on every device."""
    ...


class Devices(NamedTuple):
  """The collectives a learner may use, handed in by whoever owns the devices.

  Attributes:
    count: D.
    index: `() -> int []`, this device's number.
    mean: averages a tree over devices; leaves that are not inexact (counters)
      pass through.
    gather: concatenates a tree's leading axes over devices.
  """

  count: int
  index: DeviceIndexFn
  mean: CollectiveFn
  gather: CollectiveFn


ONE = Devices(
  count=1, index=lambda: 0, mean=lambda tree: tree, gather=lambda tree: tree
)
"""One device: nothing to exchange."""


def require_kind(rule: str, dynamics: object, kind: type) -> None:
  """Raises TypeError unless a rule was given the kind of dynamics it takes."""
  if not isinstance(dynamics, kind):
    raise TypeError(
      f'{rule} takes a {kind.__name__}, and got a {type(dynamics).__name__}: '
      'choose another learner, or other dynamics.'
    )


def objective(metrics: Collection[str]) -> str | None:
  """Which of a learner's metrics is the loss that it descends; None: none."""
  losses = [name for name in metrics if name.endswith('_loss')]
  return 'loss' if 'loss' in metrics else next(iter(losses), None)


def descend(
  rule: GradientRule,
  optimizer: optax.GradientTransformation,
  *,
  every: int | None = None,
  carry: bool = False,
  devices: Devices = ONE,
) -> Learner:
  """Steps against a rule's estimates with an optax optimizer.

  Owns the schedule, so that any rule runs offline, online and on streams with
  no code of its own.

  Args:
    rule: the rule.
    optimizer: sees the parameters alone, never the constants.
    every: change the weights at each border of that many steps, and at the end
      of the trials (the last window may be shorter); None: at the end only.
    carry: keep the rule's states and traces from batch to batch, for streams
      without end; otherwise each batch begins anew. The trials of a stream have
      no last asked step, so their inputs are taken as they are; otherwise what
      comes in after that step is set to 0.
    devices: the collectives; updates, loss, metrics and what the rule shares
      are averaged over devices.

  Returns:
    A Learner whose metrics are the loss, called `rule.objective`, and the
    rule's own, summed over windows, and, meaned over windows, 'gradient_norm'
    (of the estimate) and 'update_norm' (of the optimizer's step).

  Raises:
    ValueError: if `every` is not positive.
  """
  if every is not None and every < 1:
    raise ValueError(
      f'every={every}: must be at least 1 step, or None: the weights change at '
      'the end of the trials.'
    )

  def init(key, trials):
    unroll.check_key(key)
    model_key, rule_key = jax.random.split(key)
    params, constants = rule.model.init(model_key, trials)
    rule_state = rule.init(rule_key, params, constants, trials)
    if not carry:
      rule_state = _of_no_trial(rule_state)
    return LearnerState(
      params=params,
      constants=constants,
      rule_state=rule_state,
      opt_state=optimizer.init(params),
      step=jnp.zeros((), jnp.int32),
    )

  def update(state, key, trials):
    unroll.check_key(key)
    if not carry:
      trials = padding.without_padding(trials)
    begun = rule.begin(
      state.params, state.constants, state.rule_state, key, trials
    )
    if carry:  # the first batch alone begins: `init` had another key
      begun = jax.tree.map(
        lambda new, old: jnp.where(state.step == 0, new, old),
        begun,
        state.rule_state,
      )
    state = state._replace(rule_state=begun)
    estimate_of, num_steps = rule.estimate, trials.mask.shape[0]
    # Of one window after which the trials begin anew.
    if not carry and (every or num_steps) >= num_steps:
      estimate_of = rule.estimate_last or rule.estimate

    def learn(state, window):
      estimate, rule_state = estimate_of(
        state.params, state.constants, state.rule_state, key, window
      )
      chex.assert_trees_all_equal_shapes_and_dtypes(
        estimate.gradient, state.params
      )
      estimate, shared = devices.mean((estimate, rule_state.shared))
      updates, opt_state = optimizer.update(
        estimate.gradient, state.opt_state, state.params
      )
      learned = state._replace(
        params=optax.apply_updates(state.params, updates),
        rule_state=rule_state._replace(shared=shared),
        opt_state=opt_state,
      )
      summed = {rule.objective: estimate.loss, **estimate.metrics}
      norms = {
        'gradient_norm': optax.tree.norm(estimate.gradient),
        'update_norm': optax.tree.norm(updates),
      }
      return learned, (summed, norms)

    state, (summed, norms) = windows.scan_windows(learn, state, trials, every)
    if not carry:
      state = state._replace(rule_state=_of_no_trial(state.rule_state))
    metrics = {
      **jax.tree.map(lambda x: jnp.sum(x, axis=0), summed),
      **jax.tree.map(jnp.mean, norms),
    }
    return state._replace(step=state.step + 1), metrics

  def predict(state, key, trials):
    if not carry:
      trials = padding.without_padding(trials, keep_unasked=True)
    return rule.model.predict(state.params, state.constants, key, trials)

  return Learner(init, update, predict)
