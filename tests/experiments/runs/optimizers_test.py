# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a run: its rate, schedule, accumulation and clipping.

Truth: optimizers against their formulas in NumPy.
"""

import math

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from experiments.configs import copying as configs_copying
from experiments.runs import build, optimizers, updates
from tests.experiments.runs import small_runs

_PARAMS = {
  'to1': {'w': jnp.array([1.0, -2.0, 3.0]), 'b': jnp.array([0.5])},
  'to2': {'w': jnp.array([[4.0, -1.0]])},
}
_GRADIENT = {
  'to1': {'w': jnp.array([3.0, 0.0, -1.0]), 'b': jnp.array([2.0])},
  'to2': {'w': jnp.array([[-1.0, 1.0]])},
}
_NORM = 4.0  # sqrt(9 + 0 + 1 + 4 + 1 + 1)
_STEPS = 4


def _settings(**changes) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    {
      'name': 'sgd',
      'learning_rate': 0.5,
      'schedule': 'constant',
      'warmup': 0,
      'accumulate': 1,
      'clip_norm': 0.0,
      **changes,
    }
  )


def _descend(settings, num_updates=1):
  """The updates of a constant gradient, one after the other."""
  optimizer, _ = optimizers.make_optimizer(settings, _STEPS, _PARAMS)
  state, params, taken = optimizer.init(_PARAMS), _PARAMS, []
  for _ in range(num_updates):
    step, state = optimizer.update(_GRADIENT, state, params)
    params = jax.tree.map(jnp.add, params, step)
    taken.append(step)
  return taken, params


def _close(tree, scales):
  """Asserts that a tree is `-scale` times the gradient, module by module."""
  for module, scale in scales.items():
    for name, gradient in _GRADIENT[module].items():
      np.testing.assert_allclose(
        tree[module][name], -scale * gradient, rtol=1e-6, atol=1e-7
      )


def test_cosine_ends_at_zero():
  """Truth: rate (1 + cos(pi k / n)) / 2 at update k; 0 at k = n and after."""
  taken, _ = _descend(_settings(schedule='cosine'), _STEPS + 2)
  for k, step in enumerate(taken):
    rate = 0.25 * (1 + math.cos(math.pi * min(k, _STEPS) / _STEPS))
    _close(step, {'to1': rate, 'to2': rate})
  assert all(not np.any(x) for x in jax.tree.leaves(taken[_STEPS]))


@pytest.mark.parametrize(
  ('schedule', 'warmup', 'factors'),
  [
    ('linear', 0, [1, 3 / 4, 1 / 2, 1 / 4, 0, 0]),
    ('linear', 2, [0, 1 / 2, 1, 1 / 2, 0, 0]),
    ('constant', 3, [0, 1 / 3, 2 / 3, 1, 1, 1]),
    # (1 + cos(pi k / 3)) / 2 once it is warm.
    ('cosine', 1, [0, 1, 3 / 4, 1 / 4, 0, 0]),
  ],
)
def test_a_schedule_after_a_warm_up(schedule, warmup, factors):
  """Truth: the factors on the rate in a run of 4, and after it, by hand."""
  settings = _settings(schedule=schedule, warmup=warmup)
  taken, _ = _descend(settings, len(factors))
  _, rate = optimizers.make_optimizer(settings, _STEPS, _PARAMS)
  for k, factor in enumerate(factors):
    _close(taken[k], {'to1': 0.5 * factor, 'to2': 0.5 * factor})
    np.testing.assert_allclose(rate(k), 0.5 * factor, rtol=1e-6, atol=1e-7)


def test_a_warm_up_has_to_end_before_the_run():
  """Truth: 4 updates; a warm-up of 3 leaves one at the full rate."""
  optimizers.make_optimizer(_settings(warmup=3), _STEPS, _PARAMS)
  with pytest.raises(ValueError, match=r'warmup=4: .* the 4 updates'):
    optimizers.make_optimizer(_settings(warmup=4), _STEPS, _PARAMS)


def test_accumulated_gradients_make_one_step():
  """Truth: zero, zero, and the mean gradient of three calls; then again.

  The rate reported for a call is the one that its step is taken with.
  """
  settings = _settings(accumulate=3, schedule='linear')
  optimizer, rate = optimizers.make_optimizer(settings, 6, _PARAMS)
  state = optimizer.init(_PARAMS)
  for call, share in enumerate([0, 3, 6, 0, 0, 3]):  # means: 3 and 1
    gradient = jax.tree.map(lambda x, share=share: share * x, _GRADIENT)
    step, state = optimizer.update(gradient, state, _PARAMS)
    expected = {2: 3 * 0.5, 5: 1 * 0.25}.get(call, 0.0)  # linear: 1, then 1/2
    _close(step, {'to1': expected, 'to2': expected})
    np.testing.assert_allclose(rate(call), 0.5 if call < 3 else 0.25)


def test_accumulating_is_a_larger_batch():
  """Truth: half as many updates of twice the batch, by momentum SGD.

  The trials are the same, and everything that counts steps of the optimizer
  (momentum, the schedule, its warm-up, clipping) counts them alike.
  """
  states = []
  for batch_size, num_updates, accumulate, warmup in (
    (4, 8, 2, 2),
    (8, 4, 1, 1),
  ):
    config = configs_copying.get_config('smoke')
    config.batch_size, config.num_updates = batch_size, num_updates
    with config.unlocked():
      config.optimizer.update(
        name='sgd',
        learning_rate=0.5,
        momentum=0.9,
        clip_norm=0.1,
        schedule='cosine',
        warmup=warmup,
        accumulate=accumulate,
      )
    run = build.build(config)
    states.append(updates.trained(run))
  parts, whole = (state.params for state in states)
  chex.assert_trees_all_close(parts, whole, rtol=1e-5, atol=1e-6)
  start = updates.init(run).params
  far = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), whole, start)
  assert min(jax.tree.leaves(far)) > 1e-3


@pytest.mark.parametrize(
  'schedule',
  [
    pytest.param('constant', marks=pytest.mark.slow),
    'cosine',
    pytest.param('linear', marks=pytest.mark.slow),
  ],
)
def test_the_rate_that_is_reported_is_the_one_applied(schedule):
  """Truth: of plain SGD, the step's norm over the gradient's."""
  config = configs_copying.get_config('smoke')
  config.optimizer.name, config.optimizer.schedule = 'sgd', schedule
  config.optimizer.clip_norm, config.optimizer.warmup = 0.0, 2
  run = build.build(config)
  state = updates.place(run, updates.init(run))
  _, [part] = updates.make_advance_between(run)(state, 0, run.num_updates)
  values = {name: np.asarray(x) for name, x in part.values.items()}
  applied = values['update_norm'] / values['gradient_norm']
  np.testing.assert_allclose(values['learning_rate'], applied, rtol=1e-5)
  assert applied[0] == 0 and applied[2] == pytest.approx(1e-2)


def test_a_warm_up_lasts_its_updates_with_updates_at_borders():
  """Truth: the comment in base.py: warm-up is counted in updates.

  Each has 3 windows, so the optimizer is called 3 times an update.
  """
  config = configs_copying.get_config('smoke')
  config.num_updates, config.learner.every = 4, 3
  config.optimizer.warmup = 2
  rate = build.build(config).first.learning_rate
  reported = [float(rate(update)) for update in range(4)]
  np.testing.assert_allclose(reported, [0, 5e-3, 1e-2, 1e-2], rtol=1e-6)


def test_cosine_lasts_as_long_as_the_run_with_updates_at_borders():
  """Truth: 3 updates of 8 steps in windows of 3: the optimizer steps 9 times.

  The last window still moves the weights, by rate (1 + cos(8 pi / 9)) / 2 of
  the first rate; a schedule over 3 steps would have ended in update 1.
  """
  config = configs_copying.get_config('smoke')
  config.num_updates, config.learner.every = 3, 3
  config.optimizer.name, config.optimizer.schedule = 'sgd', 'cosine'
  run = build.build(config)
  assert run.first.task.spec.num_steps == 8
  advance, state = updates.make_advance(run.first), updates.init(run)
  for step in range(3):
    before = jax.tree.map(np.array, state.params)
    state, _ = advance(state, jnp.int32(step), 1)
    assert small_runs.bits(state.params) != small_runs.bits(before)
  state, _ = advance(state, jnp.int32(3), 1)  # one more than the run has
  after, _ = advance(jax.tree.map(jnp.array, state), jnp.int32(4), 1)
  assert small_runs.bits(after.params) == small_runs.bits(state.params)


def test_each_module_has_its_rate():
  """Truth: plain descent, rate by rate."""
  [step], _ = _descend(_settings(rate_factors={'to2': 0.25}))
  _close(step, {'to1': 0.5, 'to2': 0.125})


def test_a_modules_rate_follows_the_schedule():
  """Truth: the cosine of each module's own peak, at update 1 of 4."""
  settings = _settings(schedule='cosine', rate_factors={'to2': 0.25})
  step = _descend(settings, 2)[0][1]
  share = (1 + math.cos(math.pi / 4)) / 2
  _close(step, {'to1': 0.5 * share, 'to2': 0.125 * share})


@pytest.mark.parametrize('name', ['adam', 'adamw', 'sgd'])
def test_rate_zero_freezes_bitwise(name):
  """Truth: the parameters before. Weight decay must not reach them either."""
  settings = _settings(name=name, rate_factors={'to1': 0.0})
  _, params = _descend(settings, 3)
  assert small_runs.bits(params['to1']) == small_runs.bits(_PARAMS['to1'])
  assert small_runs.bits(params['to2']) != small_runs.bits(_PARAMS['to2'])
  _, params = _descend(_settings(name=name, learning_rate=0.0), 3)
  assert small_runs.bits(params) == small_runs.bits(_PARAMS)


@pytest.mark.parametrize(
  ('clip_norm', 'share'), [(1.0, 1 / _NORM), (3.0, 3 / _NORM), (5.0, 1.0)]
)
def test_clip_bounds_the_norm_of_the_whole_tree(clip_norm, share):
  """Truth: the gradient's norm, 4 by hand, over all modules together."""
  settings = _settings(clip_norm=clip_norm, rate_factors={'to2': 0.5})
  [step], _ = _descend(settings)
  _close(step, {'to1': 0.5 * share, 'to2': 0.25 * share})


def test_adam_is_adam():
  """Truth: D. P. Kingma and J. Ba (2015), algorithm 1, in NumPy."""
  taken, _ = _descend(_settings(name='adam', b1=0.8, b2=0.9), 3)
  g = np.asarray(_GRADIENT['to1']['w'])
  m = v = np.zeros_like(g)
  for k, step in enumerate(taken, start=1):
    m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
    expected = (m / (1 - 0.8**k)) / (np.sqrt(v / (1 - 0.9**k)) + 1e-8)
    np.testing.assert_allclose(
      step['to1']['w'], -0.5 * expected, rtol=1e-5, atol=1e-7
    )


def test_an_unknown_module_is_refused():
  """Truth: the words a user reads."""
  with pytest.raises(KeyError, match=r"'to3'.*Did you mean 'to[12]'\?"):
    _descend(_settings(rate_factors={'to3': 0.1}))


def test_settings_of_optax_pass_and_others_do_not():
  """Truth: momentum belongs to optax.sgd, and to no adam."""
  taken, _ = _descend(_settings(momentum=0.5), 2)
  _close(taken[1], {'to1': 0.75, 'to2': 0.75})  # 0.5 (1 + 0.5)
  with pytest.raises(
    TypeError, match=r"momentum=0.5: 'adam' has no such setting"
  ):
    _descend(_settings(name='adam', momentum=0.5))


def test_constants_never_meet_the_optimizer():
  """Truth: bitwise the constants drawn; decay would shrink them at once."""
  config = small_runs.config('prototypes', 'asymmetric', 'local_plasticity')
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 0.1
  config.optimizer.weight_decay = 0.5
  run = build.build(config)
  state = updates.init(run)
  constants, params = (
    small_runs.bits(state.constants),
    small_runs.bits(state.params),
  )
  assert any(np.any(x) for x in jax.tree.leaves(state.constants))
  # Adam's two moments of the parameters, its counter and the schedule's.
  sizes = [optax.tree.size(state.opt_state), optax.tree.size(state.params)]
  assert sizes[0] == 2 * sizes[1] + 2
  state, _ = updates.make_advance(run.first)(state, jnp.int32(0), 4)
  assert small_runs.bits(state.constants) == constants
  assert all(
    a != b for a, b in zip(small_runs.bits(state.params), params, strict=True)
  )
