# SPDX-License-Identifier: Apache-2.0
"""Every rule and learner against every law of `bionet_learners.testing`."""

import importlib.util
import itertools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bionet_learners
from bionet_core import interfaces, plugins
from bionet_core.cells import cores as cells
from bionet_core.relaxation import asymmetric
from bionet_learners import base, testing
from bionet_learners.influence import rtrl, snap, uoro
from bionet_learners.local import local_plasticity
from bionet_learners.populations import evolution, evosax_strategy, open_es
from bionet_learners.reverse import bptt, truncated_bptt
from bionet_learners.sampling import score_function
from bionet_learners.traces import d_rtrl, e_prop, pp_prop, rflo, three_factor


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


def noisy_cell():
  """H <- tanh(x w) + h / 2 + xi."""

  def init(key, inputs):
    return {'w': jax.random.normal(key, (inputs.shape[-1], 3))}, {}

  def mean(params, state, inputs):
    return jnp.tanh(inputs @ params['w']) + state / 2

  def noise(keys):
    return jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)

  def step(params, constants, state, keys, inputs):
    state = mean(params, state, inputs) + noise(keys)
    return state, state

  def log_density(params, constants, state, keys, inputs):
    now = mean(params, state, inputs)
    drawn = jax.lax.stop_gradient(now + noise(keys))
    return -jnp.sum((drawn - now) ** 2, axis=-1) / 2

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 3)),
    step,
    lambda params, constants, emission: emission,
    log_density,
  )


def network():
  return asymmetric.asymmetric(Sizes(), hidden=6)


def leaky_cell():
  """H <- .7 h + tanh(x w + h u + b), and a linear readout."""

  def init(key, inputs):
    keys = jax.random.split(key, 3)
    shapes = {'w': (inputs.shape[-1], 3), 'u': (3, 3), 'o': (3, 3)}
    params = {
      name: jax.random.normal(k, shape) / 2
      for (name, shape), k in zip(shapes.items(), keys, strict=True)
    }
    return {'all': {**params, 'b': jnp.zeros((1, 3))}}, {}

  def step(params, constants, state, keys, inputs):
    p = params['all']
    drive = inputs @ p['w'] + state @ p['u'] + p['b']
    state = 0.7 * state + jnp.tanh(drive)
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 3)),
    step,
    lambda params, constants, emission: emission @ params['all']['o'],
  )


RULES = {
  'bptt': [
    (bptt.bptt(cells.gru(Sizes(), hidden=5), cross_entropy), trials(7)),
    (
      bptt.bptt(cells.lstm(Sizes(), hidden=5), cross_entropy, remat=True),
      trials(7),
    ),
    (bptt.bptt(cells.vanilla_rnn(Sizes(), hidden=5), cross_entropy), trials(1)),
  ],
  'd_rtrl': [
    (d_rtrl.d_rtrl(leaky_cell(), cross_entropy, window=2), trials(4)),
    (
      d_rtrl.d_rtrl(leaky_cell(), cross_entropy, execution='reverse'),
      trials(4),
    ),
  ],
  'e_prop': [
    (
      e_prop.e_prop(
        leaky_cell(), cross_entropy, window=2, feedback='adaptive', kappa=0.5
      ),
      trials(4),
    )
  ],
  'local_plasticity': [
    (local_plasticity.local_plasticity(network(), clamped=3, free=3), trials(1))
  ],
  'rtrl': [
    (rtrl.rtrl(cells.vanilla_rnn(Sizes(), hidden=4), cross_entropy), trials(7))
  ],
  'snap': [
    (snap.snap(cells.vanilla_rnn(Sizes(), hidden=4), cross_entropy), trials(7)),
    (
      snap.snap(cells.gru(Sizes(), hidden=3), cross_entropy, order=2),
      trials(4),
    ),
  ],
  'uoro': [
    (uoro.uoro(cells.vanilla_rnn(Sizes(), hidden=4), cross_entropy), trials(7))
  ],
  'score_function': [
    (
      score_function.score_function(noisy_cell(), cross_entropy, traces=True),
      trials(7),
    )
  ],
  'pp_prop': [(pp_prop.pp_prop(leaky_cell(), cross_entropy), trials(4))],
  'rflo': [
    (rflo.rflo(leaky_cell(), cross_entropy, tau=2.0, window=2), trials(4))
  ],
  'three_factor': [
    (
      three_factor.three_factor(leaky_cell(), cross_entropy, window=2),
      trials(4),
    )
  ],
  'truncated_bptt': [
    (
      truncated_bptt.truncated_bptt(leaky_cell(), cross_entropy, window=2),
      trials(4),
    )
  ],
}
"""`{name: [(rule, trials)]}`: the whole table of rules."""

COMPARING = ('score_function',)
"""Rules that compare trials, so that a batch is not the mean of its trials."""


def plain_cell():
  """H <- tanh(x w + h + noise), read out as it is; cheap without jit."""

  def init(key, inputs):
    return {'w': jax.random.normal(key, (inputs.shape[-1], 3))}, {}

  def step(params, constants, state, keys, inputs):
    noise = (jax.random.key_data(keys)[:, :1] % 1000) / 1000
    state = jnp.tanh(inputs @ params['w'] + state + noise)
    return state, state

  return interfaces.Cell(
    init,
    lambda constants, keys: jnp.zeros((*keys.shape, 3)),
    step,
    lambda params, constants, emission: emission,
  )


def evolved(**settings):
  return evolution.evolution(
    plain_cell(), cross_entropy, population_size=6, elites=2, **settings
  )


def stepped(**settings):
  return open_es.open_es(
    plain_cell(),
    cross_entropy,
    optimizer=optax.adam(0.1),
    population_size=6,
    **settings,
  )


def asked(**settings):
  return evosax_strategy.evosax_strategy(
    plain_cell(), cross_entropy, population_size=6, **settings
  )


LEARNERS = {
  'evolution': [
    (evolved(), trials(4)),
    (evolved(common_noise=False, best_ever=True, std_spread=0.5), trials(1)),
  ],
  # Where the extra 'evolution' is missing, evosax_strategy_test.py says so.
  'evosax': [
    (asked(strategy='SimpleGA'), trials(4)),
    (asked(predict_mean=True, common_noise=False), trials(1)),
  ]
  if importlib.util.find_spec('evosax')
  else [],
  'open_es': [
    (stepped(), trials(4)),
    (stepped(common_noise=False, rank_losses=False), trials(1)),
  ],
}
"""`{name: [(learner, trials)]}`: the whole table of learners."""


def _cases(table):
  """Each name once; its further cases are slow."""
  return [
    pytest.param(name, i, marks=[pytest.mark.slow] if i else [])
    for name, cases in table.items()
    for i in range(len(cases))
  ]


@pytest.mark.oracle
@pytest.mark.parametrize('name, case', _cases(RULES))
def test_rule_keeps_the_contract(name, case):
  """Truth: the laws listed in `check_rule`."""
  testing.check_rule(*RULES[name][case], per_trial=name not in COMPARING)


@pytest.mark.oracle
@pytest.mark.parametrize('name, case', _cases(LEARNERS))
def test_learner_keeps_the_contract(name, case):
  """Truth: the laws listed in `check_learner`."""
  testing.check_learner(*LEARNERS[name][case])


def test_a_rule_that_descends_keeps_the_contract_of_learners():
  """Truth: the laws listed in `check_learner`; a key in the optimizer too."""
  rule = bptt.bptt(plain_cell(), cross_entropy)
  optimizer = optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1))
  testing.check_learner(base.descend(rule, optimizer), trials(1))


def test_the_tables_are_full():
  """Truth: the package's own table of names, each loadable."""
  assert not set(RULES) & set(LEARNERS)
  assert {*RULES, *LEARNERS} == set(bionet_learners.LEARNERS)
  for name in (*RULES, *LEARNERS):
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
    (rtrl.rtrl, network()),
    (snap.snap, network()),
    (uoro.uoro, network()),
    (score_function.score_function, network()),
    (evolution.evolution, network()),
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


def test_factories_return_what_their_table_says():
  """Truth: the types; a run makes a Learner of a rule, and needs not else."""
  for cases in RULES.values():
    for rule, _ in cases:
      assert isinstance(rule, base.GradientRule)
  for cases in LEARNERS.values():
    for learner, _ in cases:
      assert isinstance(learner, base.Learner)


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
  testing.check_learner(SOUND, trials(4))
  with pytest.raises(ValueError, match='at least 2 trials'):
    testing.check_learner(SOUND, trials(4, batch=1))


@pytest.mark.parametrize('law', LEARNER_MUTANTS)
def test_the_law_that_a_learner_breaks_is_named(law):
  """Truth: the sound learner with one thing broken."""
  with pytest.raises(AssertionError, match=law):
    testing.check_learner(LEARNER_MUTANTS[law], trials(4))
