# SPDX-License-Identifier: Apache-2.0
"""Any optimizer of optax, with its own settings.

Truth: optax's documentation, its signatures and its own functions; sections
written out by hand.
"""

import inspect

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import optax.contrib
import pytest

from experiments.configs import base, cell_fate, copying
from experiments.runs import build, optimizer_settings, optimizers, sections

# The optimizers of optax's documentation, but what needs more than gradients
# and parameters, or is made of another optimizer.
DOCUMENTED = """
  adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad
  fromage lamb lars lion noisy_sgd novograd optimistic_adam_v2
  optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd signum sm3 yogi
""".split()
CONTRIBUTED = """
  acprop ademamix adopt cocob dadapt_adamw dog dowg galore madgrad muon prodigy
  simplified_ademamix
""".split()
# What each one needs, or why it is left out.
REFUSED = {
  'lbfgs': 'the loss as a function',
  'polyak_sgd': 'the value of the loss',
  'optimistic_adam': 'optimistic_adam_v2',
  'dpsgd': 'the gradient of each trial',
  'momo': 'the value of the loss',
  'momo_adam': 'the value of the loss',
  'sophia': 'the loss as a function',
  'schedule_free_sgd': 'judged at other parameters',
  'schedule_free_adamw': 'judged at other parameters',
  'schedule_free': 'made of another',
  'sam': 'made of another',
  'mechanize': 'made of another',
  'scale_by_adam': 'no such optimizer',
  'chain': 'no such optimizer',
}
# Settings with their defaults, as optax documents them.
OWN = {
  'adamw': {
    'b1': 0.9,
    'b2': 0.999,
    'eps': 1e-8,
    'eps_root': 0.0,
    'mu_dtype': None,
    'weight_decay': 1e-4,
    'nesterov': False,
  },
  'sgd': {'momentum': None, 'nesterov': False, 'accumulator_dtype': None},
  'sign_sgd': {},
  'noisy_sgd': {'eta': 0.01, 'gamma': 0.55},
}
PARAMS = {
  'to1': {'w': jnp.array([[1.0, -2.0, 3.0]]), 'b': jnp.array([0.5])},
  'to2': {'w': jnp.array([[4.0, -1.0]])},
}
GRADIENT = {
  'to1': {'w': jnp.array([[3.0, 0.0, -1.0]]), 'b': jnp.array([2.0])},
  'to2': {'w': jnp.array([[-1.0, 1.0]])},
}
KEY = jax.random.key(3)


def section(**changes) -> ml_collections.ConfigDict:
  """The optimizer's section of a config, as a command completes it."""
  config = base.base_config()
  config.optimizer.update(changes)
  optimizer_settings.complete(config, {})
  return config.optimizer


def test_every_optimizer_is_there():
  """Truth: the lists above. What a later optax brings comes on top."""
  assert {*DOCUMENTED, *CONTRIBUTED} <= {*optimizer_settings.names()}
  assert not REFUSED.keys() & {*optimizer_settings.names()}


@pytest.mark.parametrize('name', optimizer_settings.names())
def test_it_steps_by_gradients_and_parameters_alone(name):
  """Truth: the types of the state, which a compiled loop wants to stay.

  With all of its settings written out, its rate scaled by module; the warnings
  of optax are errors here.
  """
  settings = section(name=name, rate_factors={'to2': 0.5}, clip_norm=1.0)
  optimizer, _ = optimizers.make_optimizer(settings, 4, PARAMS, 1, KEY)

  def run(params):
    def step(carry, _):
      params, state = carry
      changes, state = optimizer.update(GRADIENT, state, params)
      return (optax.apply_updates(params, changes), state), None

    carry = params, optimizer.init(params)
    return jax.lax.scan(step, carry, None, length=2)[0]

  params, state = jax.eval_shape(run, PARAMS)
  assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
  leaves = jax.tree.leaves(state)
  assert leaves and all(isinstance(x, jax.ShapeDtypeStruct) for x in leaves)


@pytest.mark.parametrize('name', ['adamw', 'rmsprop', 'lion', 'muon', 'sm3'])
def test_its_settings_are_those_of_optax(name):
  """Truth: optax's own function, called with no setting at all."""
  module = optax if hasattr(optax, name) else optax.contrib
  plain = getattr(module, name)(1e-3)
  made, _ = optimizers.make_optimizer(section(name=name), 4, PARAMS, 1, KEY)
  for of in (plain, made):
    changes, _ = of.update(GRADIENT, of.init(PARAMS), PARAMS)
    leaves = jax.tree.leaves(changes)
    if of is plain:
      wanted = leaves
  for found, want in zip(leaves, wanted, strict=True):
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize('name', OWN)
def test_a_section_has_its_settings_with_their_defaults(name):
  """Truth: optax's documentation; beside them the keys that all have."""
  settings = section(name=name)
  own = {k: settings[k] for k in settings if k not in optimizer_settings.SHARED}
  assert own == OWN[name]
  assert {*optimizer_settings.SHARED} <= {*settings}


@pytest.mark.parametrize('name', optimizer_settings.names())
def test_what_is_left_out_is_no_plain_value(name):
  """Truth: the names of optax's masks and functions; what the run hands in."""
  factory = optimizer_settings.factory(name)
  left_out = {*inspect.signature(factory).parameters} - {
    *optimizer_settings.own_settings(name),
    'learning_rate',
  }
  assert left_out <= {
    *('mask', 'weight_decay_mask', 'key', 'seed', 'base_optimizer'),
    *('weight_dimension_numbers', 'muon_weight_dimension_numbers'),
    'clip_value_fn',
  }


@pytest.mark.parametrize('name', REFUSED)
def test_others_are_refused_by_name(name):
  """Truth: why, in the words of the table; and what there is."""
  with pytest.raises(KeyError) as error:
    optimizer_settings.factory(name)
  said = error.value.args[0]
  assert said.startswith(f'optimizer.name={name!r}: ') and REFUSED[name] in said
  assert 'There are: acprop, adabelief, ' in said


def test_weight_decay_and_momentum_do_what_they_say():
  """Truth: AdamW's first step, -rate (sign(g) + decay w); momentum's second."""
  settings = section(name='adamw', learning_rate=0.5, weight_decay=0.25)
  optimizer, _ = optimizers.make_optimizer(settings, 4, PARAMS, 1, KEY)
  changes, _ = optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS)
  w, g = PARAMS['to1']['w'], GRADIENT['to1']['w']
  wanted = -0.5 * (jnp.sign(g) + 0.25 * w)
  np.testing.assert_allclose(changes['to1']['w'], wanted, atol=1e-5)
  settings = section(name='sgd', learning_rate=0.5, momentum=0.5)
  optimizer, _ = optimizers.make_optimizer(settings, 4, PARAMS, 1, KEY)
  state = optimizer.init(PARAMS)
  for factor in (1, 1.5):
    changes, state = optimizer.update(GRADIENT, state, PARAMS)
    np.testing.assert_allclose(changes['to1']['w'], -0.5 * factor * g)


def test_a_name_brings_its_settings():
  """Truth: by hand; those of the optimizer before go, and its rate stays."""
  config = cell_fate.get_config('gradient_smoke')
  assert config.optimizer.b2 == 0.99
  optimizer_settings.complete(config, {'optimizer.name': 'adam'})
  assert (config.optimizer.b2, config.optimizer.b1) == (0.99, 0.9)
  optimizer_settings.complete(config, {'optimizer.name': 'lion'})
  assert (config.optimizer.name, config.optimizer.b2) == ('lion', 0.99)
  optimizer_settings.complete(config, {'optimizer.name': 'adamw'})
  assert (config.optimizer.b2, config.optimizer.learning_rate) == (0.999, 5e-4)
  optimizer_settings.complete(config, {'optimizer.name': 'sgd'})
  assert 'b2' not in config.optimizer and config.optimizer.momentum is None
  assert config.optimizer.get_type('momentum') is float


def test_an_override_of_a_rate_makes_its_module_known():
  """Truth: a factor of 1, which changes nothing; the others as they are."""
  config = copying.get_config('lru')
  overrides = {
    'optimizer.rate_factors.linear': '.5',
    'optimizer.rate_factors.lru': '0',
    'optimizer.b1': '.8',
  }
  optimizer_settings.complete(config, overrides)
  assert config.optimizer.rate_factors.to_dict() == {'lru': 1.0, 'linear': 1.0}


def test_a_stage_has_the_settings_of_its_optimizer():
  """Truth: sections by hand; the stage after goes on with them."""
  config = copying.get_config('smoke')
  config.stages = {
    'b': {'optimizer': {'name': 'sgd', 'momentum': 0.9}},
    'c': {'optimizer': {'rate_factors': {'gru': 0.0}}},
  }
  first, second, third = sections.stage_configs(config)
  assert first.optimizer.name == 'adam'
  for stage in (second, third):
    assert (stage.optimizer.name, stage.optimizer.momentum) == ('sgd', 0.9)
    assert 'b1' not in stage.optimizer
  assert third.optimizer.rate_factors.to_dict() == {'gru': 0.0}
  config.stages = {'b': {'optimizer': {'name': 'sgd', 'b1': 0.9}}}
  with pytest.raises(KeyError, match=r"stages.b.optimizer has no key 'b1'"):
    sections.stage_configs(config)
  config.stages = {'b': {'task': {'lag': 3}}}
  with pytest.raises(KeyError, match=r"no key 'lag'.*There are: .*time_lag"):
    sections.stage_configs(config)
  config.stages = {'b': {'task': 3}}
  with pytest.raises(TypeError, match=r'stages.b.task=3: must be a mapping'):
    sections.stage_configs(config)


def test_the_noise_of_an_optimizer_follows_from_its_key():
  """Truth: equal keys, equal steps; another key, another step."""
  states = []
  for number in (0, 0, 1):
    key = jax.random.key(number)
    settings = section(name='noisy_sgd')
    made, _ = optimizers.make_optimizer(settings, 4, PARAMS, 1, key)
    changes, _ = made.update(GRADIENT, made.init(PARAMS), PARAMS)
    states.append(np.asarray(changes['to1']['w']).tobytes())
  assert states[0] == states[1] != states[2]


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'mu_dtype': 'bfloat17'}, r"^optimizer.mu_dtype='bfloat17': must be a"),
    ({'mu_dtype': 'int8'}, r"^optimizer.mu_dtype='int8': must be a type"),
    ({'rate_factors': {'to3': 0.1}}, r"rate_factors.to3=0.1: .* 'to[12]'\?"),
    ({'rate_factors': {'to1': -1.0}}, r'^optimizer.rate_factors.to1=-1.0: mu'),
    ({'name': 'rprop', 'schedule': 'linear'}, r"'rprop' has one rate"),
    ({'name': 'sm3', 'warmup': 1}, r'optimizer.warmup=1: .*one rate'),
    ({'name': 'adam', 'b3': 0.1}, r"optimizer.b3=0.1: 'adam' has no .* b1, b2"),
    ({'name': 'noisy_sgd', 'key': 3}, r"optimizer.key=3: 'noisy_sgd' has no"),
  ],
)
def test_what_cannot_be_is_refused(changes, words):
  """Truth: the words, behind the key."""
  settings = section(name=changes.get('name', 'adam'))
  with pytest.raises((KeyError, TypeError, ValueError), match=words):
    optimizers.make_optimizer({**settings, **changes}, 4, PARAMS, 1, KEY)


def test_a_run_hands_in_the_key_of_its_optimizer():
  """Truth: optax warns where it has none, and a warning is an error here."""
  config = copying.get_config('smoke')
  config.optimizer.name = 'noisy_sgd'
  build.build(config)
