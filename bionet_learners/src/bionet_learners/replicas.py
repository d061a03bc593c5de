# SPDX-License-Identifier: Apache-2.0
"""Restarts: independent copies of a learner, and the best of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners import base

Predict = Callable[[jax.Array, interfaces.Trials], jax.Array]
"""`(key, trials) -> outputs [T, B, O]`."""


class Copies(NamedTuple):
  """What the restarts know; leaves of the first four lead with n.

  Attributes:
    params: of each copy.
    opt_state: of each copy.
    shared: what the rule of each copy shares between trials.
    scores: float `[n]`, of each copy when it was judged last.
    score: `[]`, of the pick at the last validation.
    trained: bool `[]`, whether the pick is of a trained copy.
    untrained: parameters of the best copy before its first update.
    untrained_score: `[]`, its score.
    untrained_mean: `[]`, the mean over copies.
  """

  params: interfaces.ArrayTree
  opt_state: interfaces.ArrayTree
  shared: interfaces.ArrayTree
  scores: jax.Array
  score: jax.Array
  trained: jax.Array
  untrained: interfaces.ArrayTree
  untrained_score: jax.Array
  untrained_mean: jax.Array


def restarts(
  learner: base.Learner,
  count: int,
  validate: Callable[[Predict], jax.Array],
  *,
  validate_every: int,
  active: int | None = None,
  chunk: int = 8,
) -> base.Learner:
  """Copies of a learner from different starts, in one vmap, and their best.

  The copies meet the same trials and noise, and know nothing of each other.
  The first update judges all copies on validation draws, and changes none. From
  then on those that learn are judged after every `validate_every` updates, on
  the same draws. The pick, with which the learner predicts, is the best trained
  copy of all validations (before there is one, the best untrained). With
  `active` only so many learn, those with the best scores when they were judged
  last; the others rest as they are. A later stage may judge on other draws: the
  pick is judged again beside the copies.

  A copy whose update is not finite does not make it: it stands still, and NaN
  reaches no parameter. Each copy is the plain learner, started from a key of
  its own (`copy_keys`), that misses the first update.

  What is reported beside: how good the best copy was before it learned
  anything. Of many random starts one is good by luck.

  Args:
    learner: the learner; its constants are those of the first copy for all.
    count: n.
    validate: from a copy's `predict` to its score `[]`, larger is better, on
      draws that are neither trained nor reported on.
    validate_every: updates between two validations.
    active: how many learn; None: all.
    chunk: copies validated at once.

  Returns:
    A Learner, split over devices as the one it is made of. Its metrics are the
    mean over the active copies, NaN left out, of the learner's own, and
    'loss_best'; 'restarts' (n), 'stood_still' (of the active, now);
    'validation' (the pick's score), 'validation_mean' (over copies),
    'untrained_best' and 'untrained_mean' (before the first update).

  Raises:
    ValueError: for a count out of range.
  """
  active = count if active is None else active
  for name, value in (
    ('count', count),
    ('validate_every', validate_every),
    ('chunk', chunk),
  ):
    if value < 1:
      raise ValueError(f'{name}={value}: must be at least 1.')
  if not 1 <= active <= count:
    raise ValueError(f'active={active}: must be from 1 to count={count}.')

  def copy(params, constants, rule_state, opt_state, step):
    return base.LearnerState(params, constants, rule_state, opt_state, step)

  def judge(params, constants, step, order, how_many, scores):
    """The scores, new ones for the first so many in this order."""

    def of_replica(params):
      state = copy(params, constants, base.RuleState((), ()), (), step)
      score = validate(lambda key, trials: learner.predict(state, key, trials))
      score = jnp.where(jnp.isnan(score), -jnp.inf, score)
      return score.astype(scores.dtype)

    def of_several(i, scores):
      which = jax.lax.dynamic_slice_in_dim(padded, i * chunk, chunk)
      replica = jax.tree.map(lambda x: x[which], params)
      return scores.at[which].set(jax.vmap(of_replica)(replica))

    padded = jnp.concatenate([order, jnp.full(chunk, order[0])])
    # A loop whose length is data: none at all at most updates.
    return jax.lax.fori_loop(0, -(-how_many // chunk), of_several, scores)

  def init(key, trials):
    keys = copy_keys(key, count)
    states = jax.vmap(lambda k: learner.init(k, trials))(keys)
    first = jax.tree.map(lambda x: x[0], (states.params, states.constants))
    none = jnp.full((), -jnp.inf, jnp.float32)
    copies = Copies(
      params=states.params,
      opt_state=states.opt_state,
      shared=states.rule_state.shared,
      scores=jnp.full(count, -jnp.inf, jnp.float32),
      score=none,
      trained=jnp.zeros((), bool),
      untrained=first[0],
      untrained_score=none,
      untrained_mean=none,
    )
    per_trial = _copies_second(states.rule_state.per_trial)
    return base.LearnerState(
      params=first[0],
      constants=first[1],
      rule_state=base.RuleState(copies, per_trial),
      opt_state=(),
      step=jnp.zeros((), jnp.int32),
    )

  def update(state, key, trials):
    copies, per_trial = state.rule_state
    order = jnp.argsort(-copies.scores)
    learn = order[:active] if active < count else jnp.arange(count)
    replica, traces = jax.tree.map(
      lambda x: x[learn],
      (
        (copies.params, copies.opt_state, copies.shared),
        _copies_second(per_trial),
      ),
    )

    def advance(replica, traces):
      params, opt_state, shared = replica
      rule_state = base.RuleState(shared, traces)
      before = copy(params, state.constants, rule_state, opt_state, state.step)
      after, metrics = learner.update(before, key, trials)
      new = (after.params, after.opt_state, after.rule_state.shared)
      finite = _all_finite(new)
      learns = finite & (state.step > 0)
      new = jax.tree.map(lambda a, b: jnp.where(learns, a, b), new, replica)
      return new, after.rule_state.per_trial, metrics, finite

    replica, traces, metrics, finite = jax.vmap(advance)(replica, traces)
    params, opt_state, shared = jax.tree.map(
      lambda whole, part: whole.at[learn].set(part),
      (copies.params, copies.opt_state, copies.shared),
      replica,
    )
    per_trial = jax.tree.map(
      lambda whole, part: whole.at[:, learn].set(part),
      per_trial,
      _copies_second(traces),
    )
    first = state.step == 0
    due = ~first & ((state.step + 1) % validate_every == 0)
    # Last comes the pick, which stays unless one does better on these draws.
    stacked = jax.tree.map(
      lambda x, pick: jnp.concatenate([x, pick[None]]), params, state.params
    )
    judged = judge(
      stacked,
      state.constants,
      state.step,
      jnp.concatenate([jnp.array([count]), order]),
      jnp.where(first, count + 1, jnp.where(due, active + 1, 0)),
      jnp.append(copies.scores, -jnp.inf),
    )
    scores = judged[:count]
    # Those that rest were judged when they stopped; or never since they began.
    current = jnp.full_like(scores, -jnp.inf).at[learn].set(scores[learn])
    rivals = jnp.append(
      jnp.where(first, scores, current),
      jnp.where(copies.trained, judged[count], -jnp.inf),
    )
    best = jnp.argmax(rivals)
    picked = jax.tree.map(
      lambda x, old: jnp.where(first | due, x[best], old),
      stacked,
      state.params,
    )
    copies = Copies(
      params=params,
      opt_state=opt_state,
      shared=shared,
      scores=scores,
      score=jnp.where(first | due, rivals[best], copies.score),
      trained=copies.trained | due,
      untrained=jax.tree.map(
        lambda new, old: jnp.where(first, new, old), picked, copies.untrained
      ),
      untrained_score=jnp.where(first, rivals[best], copies.untrained_score),
      untrained_mean=jnp.where(
        first, _finite_mean(scores), copies.untrained_mean
      ),
    )
    name = base.objective(metrics) or 'loss'
    losses = jnp.where(jnp.isfinite(metrics[name]), metrics[name], jnp.inf)
    report = {
      **jax.tree.map(_finite_mean, metrics),
      f'{name}_best': jnp.min(losses),
      'restarts': jnp.asarray(count, jnp.float32),
      'stood_still': jnp.sum(~finite).astype(jnp.float32),
      'validation': copies.score,
      'validation_mean': _finite_mean(scores),
      'untrained_best': copies.untrained_score,
      'untrained_mean': copies.untrained_mean,
    }
    state = state._replace(
      params=picked,
      rule_state=base.RuleState(copies, per_trial),
      step=state.step + 1,
    )
    return state, report

  def predict(state, key, trials):
    picked = copy(
      state.params, state.constants, base.RuleState((), ()), (), state.step
    )
    return learner.predict(picked, key, trials)

  def take_over(before):
    if not isinstance(before, Copies):
      raise ValueError(
        f'count={count}: must be 1 here, for the stage before has no copies.'
      )
    replica = jax.vmap(learner.take_over, axis_size=count)(before.shared)
    return before._replace(shared=replica)

  return base.Learner(
    init,
    update,
    predict,
    partition=learner.partition,
    take_over=take_over,
  )


def copy_keys(key: jax.Array, count: int) -> jax.Array:
  """The keys `[n]` that the copies start from; the first is the run's own."""
  others = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
  return jnp.concatenate([key[None], others[1:]])


def _copies_second(per_trial):
  """Leaves `[n, B, ...]` as `[B, n, ...]`, or back."""
  return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), per_trial)


def _all_finite(tree) -> jax.Array:
  finite = [
    jnp.all(jnp.isfinite(x))
    for x in jax.tree.leaves(tree)
    if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.stack(finite))


def _finite_mean(values: jax.Array) -> jax.Array:
  """The mean of the finite ones; 0 where there is none."""
  finite = jnp.isfinite(values)
  total = jnp.sum(jnp.where(finite, values, 0))
  return total / jnp.maximum(jnp.sum(finite), 1)
