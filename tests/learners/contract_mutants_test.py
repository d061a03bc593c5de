# SPDX-License-Identifier: Apache-2.0
"""Rules and learners that break one law each: the contract says which."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from bionet_learners import base, testing
from tests.learners import contracts


def broken(change):
  """A BPTT whose estimate went through `change(estimate, trials)`."""
  rule = contracts.RULES['bptt'][0][0]

  def estimate(params, constants, rule_state, key, trials):
    got, state = rule.estimate(params, constants, rule_state, key, trials)
    return change(got, trials), state

  return rule._replace(estimate=estimate)


MUTANTS = {
  'sum over trials': lambda e, t: e._replace(
    gradient=_scaled(e.gradient, t.index.shape[0])
  ),
  'counts padding': lambda e, t: e._replace(
    gradient=_scaled(e.gradient, 1 / t.mask.shape[0])
  ),
  'learns from nothing': lambda e, t: e._replace(
    gradient=_shifted(e.gradient, 0.1)
  ),
  'is silent': lambda e, t: e._replace(gradient=_scaled(e.gradient, 0.0)),
}


def _scaled(tree, factor):
  return {m: {k: v * factor for k, v in d.items()} for m, d in tree.items()}


def _shifted(tree, amount):
  return {m: {k: v + amount for k, v in d.items()} for m, d in tree.items()}


@pytest.mark.oracle
@pytest.mark.parametrize('mutant', MUTANTS)
def test_the_contract_refuses_mutants(mutant):
  """Truth: each mutant breaks one law by construction."""
  with pytest.raises(AssertionError):
    testing.check_rule(broken(MUTANTS[mutant]), contracts.trials(7))


LAST_MUTANTS = {
  'a last estimate is another one': lambda got, after: (
    got._replace(loss=2 * got.loss),
    after._replace(per_trial=()),
  ),
  'a last estimate leaves': lambda got, after: (got, after),
}


@pytest.mark.parametrize('law', LAST_MUTANTS)
def test_the_contract_refuses_a_last_estimate_that_is_none(law):
  """Truth: each mutant breaks the law by construction."""
  rule = contracts.RULES['bptt'][0][0]
  mutant = rule._replace(
    estimate_last=lambda *args: LAST_MUTANTS[law](*rule.estimate(*args))
  )
  with pytest.raises(AssertionError, match=law):
    testing.check_rule(mutant, contracts.trials(7))


def test_the_contract_refuses_predictions_that_read_targets():
  """Truth: these predictions are the targets."""
  rule = contracts.RULES['bptt'][0][0]
  cheat = rule.model._replace(
    predict=lambda p, c, k, t: jnp.broadcast_to(
      t.targets[..., None] * 1.0, (*t.targets.shape, 3)
    )
  )
  with pytest.raises(AssertionError, match='depend on the targets'):
    testing.check_rule(rule._replace(model=cheat), contracts.trials(7))


# A learner that is cheap to compile: it moves one weight towards the targets.


def sound(**parts):
  """The learner with some of its parts replaced."""

  def init(key, trials):
    params = {'w': jax.random.normal(key, (6, 3))}
    memory = base.RuleState(shared=(), per_trial=jnp.zeros(trials.index.shape))
    constants = {'rate': jnp.float32(0.1)}
    return base.LearnerState(params, constants, memory, (), jnp.int32(0))

  def update(state, key, trials):
    goal = jnp.sum(trials.targets * trials.mask)
    noise = jax.random.normal(jax.random.fold_in(key, state.step))
    change = state.constants['rate'] * (goal - state.params['w'] + noise)
    state = state._replace(
      params={'w': state.params['w'] + change}, step=state.step + 1
    )
    return state, {'loss': jnp.mean(change**2)}

  def predict(state, key, trials):
    del key
    return trials.inputs @ state.params['w']

  return base.Learner(init, update, predict)._replace(**parts)


SOUND = sound()
COUNT = itertools.count()


def starts(change):
  return sound(init=lambda key, trials: change(SOUND.init(key, trials), trials))


def updates(change):
  """Every update's new state and metrics go through `change`."""

  def update(state, key, trials):
    return change(*SOUND.update(state, key, trials), state)

  return sound(update=update)


def predicts(change):
  return sound(
    predict=lambda state, key, trials: change(
      SOUND.predict(state, key, trials), trials
    )
  )


def in_python(x):
  return 0.0 if isinstance(x, jax.core.Tracer) else 1.0


def with_per_trial(state, leaf):
  return state._replace(rule_state=base.RuleState((), leaf))


LEARNER_MUTANTS = {
  'neither trials nor population': sound(partition='batch'),
  'init: jit is not plain': starts(
    lambda s, t: with_per_trial(s, jnp.zeros(3) + next(COUNT))
  ),
  'another key draws the same': sound(
    init=lambda key, trials: SOUND.init(jax.random.key(0), trials)
  ),
  'starts at step 1': starts(lambda s, t: s._replace(step=s.step + 1)),
  'is int32, not float': starts(
    lambda s, t: s._replace(params={**s.params, 'n': jnp.zeros(2, jnp.int32)})
  ),
  'does not lead with B': starts(lambda s, t: with_per_trial(s, jnp.zeros(5))),
  'was compiled again': starts(  # a weak type, which the first update hardens
    lambda s, t: s._replace(opt_state=jnp.asarray(jnp.inf))
  )._replace(
    update=lambda state, key, trials: SOUND.update(
      state._replace(opt_state=state.opt_state * jnp.float32(1)), key, trials
    )
  ),
  "taking over changed the state's tree or types": sound(
    take_over=lambda shared: (shared, shared)
  ),
  "an update changed the state's tree or types": updates(
    lambda new, metrics, old: (new._replace(opt_state=jnp.ones(2)), metrics)
  ),
  'step 0 after 1': updates(
    lambda new, metrics, old: (new._replace(step=old.step), metrics)
  ),
  'rate': updates(
    lambda new, metrics, old: (
      new._replace(constants={'rate': new.constants['rate'] / 2}),
      metrics,
    )
  ),
  'moved no parameter': updates(
    lambda new, metrics, old: (new._replace(params=old.params), metrics)
  ),
  "metrics lack 'loss'": updates(lambda new, metrics, old: (new, {})),
  "metric 'loss' is no finite scalar": updates(
    lambda new, metrics, old: (new, {'loss': jnp.ones(3)})
  ),
  "metric 'late' is no finite scalar": updates(
    lambda new, metrics, old: (
      new,
      {**metrics, 'late': jnp.where(old.step == 1, jnp.nan, 0.0)},
    )
  ),
  'jit is not plain': updates(
    lambda new, metrics, old: (
      new._replace(params={'w': new.params['w'] + in_python(new.step)}),
      metrics,
    )
  ),
  'predictions depend on the targets': predicts(
    lambda outputs, t: outputs + t.targets[..., None]
  ),
  'predictions depend on the target': predicts(
    lambda outputs, t: outputs * t.mask[..., None]
  ),
  'shape': predicts(lambda outputs, t: outputs[0]),
  'predict: jit is not plain': predicts(
    lambda outputs, t: outputs + in_python(outputs)
  ),
}


def test_a_sound_learner_passes():
  """Truth: a learner whose laws can be seen at a glance."""
  testing.check_learner(SOUND, contracts.trials(4))
  with pytest.raises(ValueError, match='at least 2 trials'):
    testing.check_learner(SOUND, contracts.trials(4, batch=1))


@pytest.mark.parametrize('law', LEARNER_MUTANTS)
def test_the_law_that_a_learner_breaks_is_named(law):
  """Truth: the sound learner with one thing broken."""
  with pytest.raises(AssertionError, match=law):
    testing.check_learner(LEARNER_MUTANTS[law], contracts.trials(4))
