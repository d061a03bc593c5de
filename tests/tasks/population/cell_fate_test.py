# SPDX-License-Identifier: Apache-2.0
"""Cell-fate patterning: its trials by hand, its losses from the utility.

Truth: time steps and schedules written out in NumPy; group by group the
utilities of `information`, which has its own tests; the source's figures.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import information
from bionet_tasks import testing
from bionet_tasks.population import cell_fate

KEY = jax.random.key(0)
SHORT = {'duration': 0.04, 'held_out_duration': 0.04}
UTILITIES = {
  'hard': jax.jit(information.hard_utility),
  'soft': jax.jit(
    information.soft_utility,
    static_argnames=('temperature', 'bandwidth', 'straight_through'),
  ),
  'exact': jax.jit(
    information.exact_soft_utility,
    static_argnames=('temperature', 'straight_through'),
  ),
}


def make(**settings):
  return cell_fate.cell_fate(**{**SHORT, **settings})


def population(num_replicates=12, num_cells=4, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(size=(num_replicates, num_cells)).astype(np.float32)


def judged(task, states, temperature=0.1, mask=1.0):
  """The loss of the task, at a step with this temperature and mask."""
  size = states.shape[0]
  return jax.jit(task.loss)(
    states,
    np.full((size, 1), temperature, np.float32),
    np.full(size, mask, np.float32),
  )


def utility(name, states, **settings):
  if name != 'hard':
    settings = {'temperature': 0.1, **settings}
  return float(UTILITIES[name](states, **settings).utility)


##############################################################################
# The facts


def test_the_levels_of_seven_cells():
  """Truth: the source's H(4/7) and the bias at 3,000 replicates."""
  spec = cell_fate.cell_fate().spec
  assert spec.name == 'cell_fate' and spec.num_outputs == 7
  assert spec.input_shape == (2,) and spec.num_steps == 1000
  assert spec.loss_kind == 'population'
  assert spec.metric == 'utility' and spec.num_data is None
  assert spec.ceiling['utility'] == pytest.approx(0.9852, abs=5e-5)
  assert spec.chance['utility'] == pytest.approx(0.004, abs=5e-4)
  few = make(num_held_out=30).spec
  assert few.chance['utility'] == pytest.approx(0.326, abs=1e-3)


def test_random_fates_read_chance():
  """Truth: the spec's chance, 3,000 random replicates of 7 cells.

  A read's standard deviation is about 5e-4 there.
  """
  task = make()
  states = population(3000, 7)
  trials = task.evaluations['held_out'].sample(KEY, jnp.arange(3000))
  outputs = np.broadcast_to(states, (4, 3000, 7))
  read = jax.jit(task.metrics)(outputs, trials)['utility']
  assert abs(read - task.spec.chance['utility']) < 3e-3
  assert abs(read) > 1e-3, 'chance would not be told from 0'


def test_evaluations_have_their_own_time_step_and_the_first_noise():
  """Truth: the same time at dt, dt / 2 and dt / 4, whatever training has."""
  settings = {
    'dt': 0.02,
    'duration': 0.08,
    'sigma': 0.3,
    'final_sigma': 0.1,
    'temperature': 0.2,
    'final_temperature': 0.05,
    'anneal_updates': 3,
    'refinements': 2,
    'num_held_out': 40,
    'held_out_dt': 0.01,
    'held_out_duration': 0.05,
  }
  task = make(**settings)
  assert list(task.evaluations) == ['held_out', 'half_dt', 'quarter_dt']
  for name, steps in (('held_out', 5), ('half_dt', 10), ('quarter_dt', 20)):
    evaluation = task.evaluations[name]
    assert evaluation.num_trials == 40
    trials = jax.jit(evaluation.sample)(KEY, np.arange(30, 40))
    assert trials.inputs.shape == (steps, 10, 2)
    trials = jax.device_get(trials)
    np.testing.assert_allclose(trials.inputs[..., 0], 0.05 / steps, rtol=1e-6)
    np.testing.assert_allclose(trials.inputs[..., 1], 0.3, rtol=1e-6)
    np.testing.assert_allclose(trials.targets, 0.2, rtol=1e-6)
    np.testing.assert_array_equal(trials.mask[:-1], 0)
    np.testing.assert_array_equal(trials.mask[-1], 1)
  default = cell_fate.cell_fate()
  trials = jax.jit(default.evaluations['quarter_dt'].sample)(KEY, np.arange(2))
  assert trials.inputs.shape == (4000, 2, 2)
  np.testing.assert_allclose(trials.inputs[..., 0], 0.0025, rtol=1e-6)


@pytest.mark.parametrize('dt, duration', [(0.01, 0.04), (0.05, 0.3), (2, 2)])
def test_training_trials_last_as_long_as_asked(dt, duration):
  """Truth: duration / dt steps, asked at the last."""
  task = make(dt=dt, duration=duration, sigma=0.25)
  trials = jax.device_get(jax.jit(task.sample)(KEY, np.arange(6)))
  steps = round(duration / dt)
  assert task.spec.num_steps == steps
  assert trials.inputs.shape == (steps, 6, 2)
  np.testing.assert_allclose(trials.inputs[..., 0], dt, rtol=1e-6)
  np.testing.assert_allclose(trials.inputs[..., 1], 0.25, rtol=1e-6)
  np.testing.assert_allclose(trials.targets, 0.1, rtol=1e-6)
  np.testing.assert_array_equal(np.argmax(trials.mask, axis=0), steps - 1)
  np.testing.assert_array_equal(trials.mask.sum(axis=0), 1)


##############################################################################
# Schedules


def ranged(task, first, num_updates, batch_size):
  """Sampled at once, with leaves `[updates, B, ...]`."""
  index = first * batch_size + np.arange(num_updates * batch_size)
  trials = jax.jit(task.sample, static_argnums=2)(KEY, index, batch_size)

  def cut(x):
    return np.asarray(x).swapaxes(0, 1).reshape(num_updates, batch_size, -1)

  trials = jax.device_get(trials)
  dts, sigmas = cut(trials.inputs[..., 0]), cut(trials.inputs[..., 1])
  return dts, sigmas, cut(trials.targets[..., 0]), trials


def by_hand(start, end, update, updates):
  end = start if end is None else end
  return start * (end / start) ** min(update / updates, 1)


@pytest.mark.parametrize(
  'final_sigma, final_temperature', [(0.02, 0.9), (0.02, None), (None, 0.01)]
)
def test_noise_and_temperature_go_geometrically(final_sigma, final_temperature):
  """Truth: start (end / start)^(update / updates), update by update.

  A range of updates sampled at once = its batches. Mutant: one batch of all.
  """
  task = make(
    sigma=0.2,
    final_sigma=final_sigma,
    temperature=0.1,
    final_temperature=final_temperature,
    anneal_updates=4,
  )
  batch_size, first, num_updates = 5, 2, 6
  _, sigmas, temperatures, whole = ranged(task, first, num_updates, batch_size)
  sample = jax.jit(task.sample, static_argnums=2)
  for u in range(num_updates):
    sigma = by_hand(0.2, final_sigma, first + u, 4)
    temperature = by_hand(0.1, final_temperature, first + u, 4)
    np.testing.assert_allclose(sigmas[u], sigma, rtol=1e-5)
    np.testing.assert_allclose(temperatures[u], temperature, rtol=1e-5)
    rows = u * batch_size + np.arange(batch_size)
    for alone in (
      sample(KEY, whole.index[rows]),
      sample(KEY, whole.index[rows], batch_size),
    ):
      np.testing.assert_allclose(alone.inputs, whole.inputs[:, rows], rtol=1e-6)
      np.testing.assert_allclose(
        alone.targets, whole.targets[:, rows], rtol=1e-6
      )
  mutant = sample(KEY, whole.index)
  assert not (
    np.allclose(mutant.inputs, whole.inputs, rtol=1e-2)
    and np.allclose(mutant.targets, whole.targets, rtol=1e-2)
  )


def test_refinements_share_the_batch_and_the_time():
  """Truth: a loop; each share takes dt / 2^k for the same time, then rests."""
  task = make(dt=0.02, duration=0.06, refinements=3)
  batch_size, num_updates = 6, 2
  assert task.spec.num_steps == 12
  dts, _, _, whole = ranged(task, 3, num_updates, batch_size)
  assert whole.inputs.shape == (12, 12, 2)
  for u in range(num_updates):
    for b in range(batch_size):
      finer = 2 ** (b // 2)
      wanted = [0.02 / finer] * (3 * finer) + [0.0] * (12 - 3 * finer)
      np.testing.assert_allclose(dts[u, b], wanted, rtol=1e-6)
  np.testing.assert_allclose(dts.sum(axis=2), 0.06, rtol=1e-5)
  np.testing.assert_array_equal(np.argmax(whole.mask, axis=0), 11)


@pytest.mark.oracle
def test_schedules_keep_the_contract_of_a_task():
  """Truth: the laws of bionet_tasks.testing, told the size of the batch.

  Noise (an input) and temperature (a target) fall together, by design.
  """
  task = make(
    final_sigma=0.05,
    final_temperature=0.3,
    anneal_updates=5,
    refinements=2,
    held_out_dt=0.005,  # the law wants held_out as long as training
  )
  sample = functools.partial(task.sample, batch_size=8)
  testing.check_task(task._replace(sample=sample), batch_size=8, memory=False)


##############################################################################
# Losses and metrics


@pytest.mark.parametrize('name', UTILITIES)
def test_the_loss_is_minus_the_utility_weighted_by_the_mask(name):
  """Truth: `information`. Mutant: the sign."""
  task, states = make(num_cells=4, loss=name), population()
  wanted = utility(name, states)
  loss, metrics = judged(task, states)
  np.testing.assert_allclose(loss, -wanted, rtol=1e-5)
  # What is graded has another name than what an evaluation calls utility.
  of = '' if name == 'hard' else 'soft_'
  names = (f'{of}utility', f'{of}s_pat', f'{of}s_rep')
  assert abs(wanted) > 1e-3 and set(metrics) == {*names}
  found, s_pat, s_rep = (metrics[name] for name in names)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  np.testing.assert_allclose(found, s_pat - s_rep, atol=1e-6)
  half, halved = judged(task, states, mask=0.5)
  np.testing.assert_allclose(half, loss / 2, rtol=1e-5)
  np.testing.assert_allclose(halved[names[1]], s_pat / 2, rtol=1e-5)
  nothing, metrics = judged(task, states, mask=0.0)
  np.testing.assert_array_equal([nothing, *metrics.values()], 0)


@pytest.mark.parametrize('name', UTILITIES)
def test_better_patterns_have_less_loss(name):
  """Truth: one balanced pattern reaches the ceiling; random ones chance."""
  task = make(num_cells=4, loss=name)
  one = np.tile(np.float32([0, 1, 1, 0]), (12, 1))
  best, _ = judged(task, one, temperature=0.01)
  np.testing.assert_allclose(best, -task.spec.ceiling['utility'], atol=1e-5)
  assert best < judged(task, population(), temperature=0.01)[0] - 0.1


@pytest.mark.parametrize('name', UTILITIES)
def test_groups_are_judged_one_by_one(name):
  """Truth: the mean over groups in a loop. Mutant: all replicates at once."""
  task, states = make(num_cells=4, num_groups=3, loss=name), population()
  groups = [states[0:4], states[4:8], states[8:12]]
  wanted = np.mean([utility(name, group) for group in groups])
  loss, metrics = judged(task, states)
  np.testing.assert_allclose(loss, -wanted, rtol=1e-5)
  found = metrics['utility' if name == 'hard' else 'soft_utility']
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  assert abs(utility(name, states) - wanted) > 1e-2


def test_the_worst_refinement_is_the_loss():
  """Truth: the least mean over its groups. Mutant: the mean over refinements.

  The gradient is that of the worst alone.
  """
  task = make(num_cells=4, num_groups=2, refinements=2)
  states = population(16)
  descend = jax.jit(jax.value_and_grad(lambda x: judged(task, x), has_aux=True))
  settled = np.tile(states[:1], (8, 1))
  for shares, worst in (
    ((settled, states[8:]), slice(8, 16)),
    ((states[:8], settled), slice(0, 8)),
  ):
    outputs = np.concatenate(shares)
    chosen = outputs[worst]
    found = [utility('exact', chosen[:4]), utility('exact', chosen[4:])]
    (loss, metrics), slope = descend(outputs)
    np.testing.assert_allclose(loss, -np.mean(found), rtol=1e-5)
    parts = metrics['soft_s_pat'] - metrics['soft_s_rep']
    np.testing.assert_allclose(-loss, parts, atol=1e-6)
    moved = np.abs(slope).sum(axis=1) > 0
    wanted = np.zeros(16, bool)
    wanted[worst] = True
    np.testing.assert_array_equal(moved, wanted)
    other = utility('exact', outputs[8:]) + utility('exact', outputs[:8])
    assert abs(other / 2 - np.mean(found)) > 1e-2


def test_settings_reach_the_utilities():
  """Truth: `information` with the same settings; the temperature a target."""
  states = population()
  for settings in (
    {'bandwidth': 0.7},
    {'bandwidth': 0.7, 'straight_through': True},
  ):
    soft = make(num_cells=4, loss='soft', **settings)
    exact = make(num_cells=4, loss='exact', **settings)
    for temperature in (0.1, 0.4):
      own = {'temperature': temperature, **settings}
      loss, _ = judged(soft, states, temperature)
      wanted = utility('soft', states, **own)
      np.testing.assert_allclose(loss, -wanted, rtol=1e-5)
      own.pop('bandwidth')
      loss, _ = judged(exact, states, temperature)
      wanted = utility('exact', states, **own)
      np.testing.assert_allclose(loss, -wanted, rtol=1e-5)
  default, _ = judged(make(num_cells=4, loss='soft'), states)
  assert abs(default - judged(soft, states)[0]) > 1e-2


def test_gradients_pass_through_the_losses_made_for_them():
  """Truth: the hard utility is a step function, the others are not."""
  states, size = population(), {}
  for name in UTILITIES:
    task = make(num_cells=4, loss=name)
    slope = jax.grad(lambda x, task=task: judged(task, x)[0])
    size[name] = np.abs(jax.jit(slope)(states)).max()
  assert size['hard'] == 0
  assert size['soft'] > 1e-3 and size['exact'] > 1e-3


KEYS = {
  'utility',
  's_pat',
  's_rep',
  'soft_utility',
  'soft_s_pat',
  'soft_s_rep',
  'mean_fate',
  'distinct_patterns',
}


@pytest.mark.parametrize('num_cells, soft', [(4, 'exact'), (13, 'soft')])
def test_metrics_are_those_of_the_last_step(num_cells, soft):
  """Truth: `information` and NumPy; no output before the last is read."""
  task = make(num_cells=num_cells, loss='soft', temperature=0.3)
  states = population(9, num_cells)
  states[1] = states[0]
  trials = task.evaluations['held_out'].sample(KEY, jnp.arange(9))
  outputs = np.full((4, 9, num_cells), np.nan, np.float32)
  outputs[-1] = states
  found = jax.jit(task.metrics)(outputs, trials)
  assert set(found) == KEYS
  fates = np.asarray(states) >= 0.5
  wanted = {
    **information.hard_utility(states)._asdict(),
    **{
      f'soft_{name}': value
      for name, value in UTILITIES[soft](states, temperature=0.3)
      ._asdict()
      .items()
      if name != 'utility'
    },
    'soft_utility': utility(soft, states, temperature=0.3),
    'mean_fate': fates.mean(),
    'distinct_patterns': len(np.unique(fates, axis=0)),
  }
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
  assert wanted['distinct_patterns'] <= 8


##############################################################################
# Errors


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'num_cells': 0}, r'^num_cells=0'),
    ({'num_groups': 0}, r'^num_groups=0'),
    ({'refinements': 0}, r'^refinements=0'),
    ({'num_held_out': 0}, r'^num_held_out=0'),
    ({'num_held_out': 1}, r'^num_held_out=1'),
    ({'temperature': 0.0}, r'^temperature=0\.0'),
    ({'temperature': math.nan}, r'^temperature=nan'),
    ({'bandwidth': -1.0}, r'^bandwidth=-1\.0'),
    ({'sigma': -0.1}, r'^sigma=-0\.1'),
    ({'sigma': math.nan}, r'^sigma=nan'),
    ({'final_sigma': 0.0, 'anneal_updates': 5}, r'^final_sigma=0\.0'),
    (
      {'sigma': 0.0, 'final_sigma': 0.1, 'anneal_updates': 5},
      r'^sigma=0\.0',
    ),
    (
      {'final_temperature': -0.1, 'anneal_updates': 5},
      r'^final_temperature=-0\.1',
    ),
    ({'anneal_updates': 5}, r'^anneal_updates=5'),
    ({'anneal_updates': -1}, r'^anneal_updates=-1'),
    ({'final_sigma': 0.05}, r'^anneal_updates=0'),
    ({'loss': 'hinge'}, r"^loss='hinge': must be one of hard, soft, exact"),
    ({'num_cells': 13}, '^N=13: .* at most 12'),
    ({'dt': 0.0}, r'^dt=0\.0'),
    ({'duration': -1.0}, r'^duration=-1\.0'),
    ({'dt': math.nan}, r'^dt=nan'),
    ({'duration': math.inf}, r'^duration=inf'),
    ({'duration': 0.045}, r'^duration=0\.045: .* multiple of dt'),
    ({'dt': 0.05}, r'^duration=0\.04: .* multiple of dt=0\.05'),
    ({'held_out_dt': 0.03}, r'^held_out_duration=0\.04'),
    ({'held_out_dt': 0.0}, r'^held_out_dt=0\.0'),
  ],
  ids=str,
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges; the setting is named."""
  with pytest.raises(ValueError, match=message):
    make(**settings)


def test_long_rows_and_no_noise_are_tasks():
  """Truth: 12 cells are the most of the exact utility, and of it alone."""
  assert make(num_cells=12).spec.num_outputs == 12
  assert make(num_cells=13, loss='soft').spec.num_outputs == 13
  for num_cells in (1, 30):
    task = make(num_cells=num_cells, loss='hard')
    loss, _ = judged(task, population(5, num_cells))
    assert np.isfinite(loss)
  quiet = jax.jit(make(sigma=0.0).sample)(KEY, np.arange(3))
  np.testing.assert_array_equal(quiet.inputs[..., 1], 0)


@pytest.mark.parametrize(
  'settings, num_replicates, message',
  [
    ({'num_groups': 5}, 12, r'^batch_size=12: .*num_groups'),
    ({'refinements': 5}, 12, r'^batch_size=12: .*refinements'),
    ({'num_groups': 4, 'refinements': 2}, 12, r'= 8'),
    ({'num_groups': 12}, 12, 'a single replicate'),
  ],
)
def test_batches_that_groups_cannot_share_are_refused(
  settings, num_replicates, message
):
  """Truth: equal groups of 2 replicates or more."""
  task = make(num_cells=4, **settings)
  with pytest.raises(ValueError, match=message):
    judged(task, population(num_replicates))


@pytest.mark.parametrize('name', UTILITIES)
def test_a_replicate_of_mask_0_does_not_count(name):
  """Truth: the loss of the others; with groups, of the others in its group.

  The masks of those that are left keep their mean, and so does the loss.
  """
  task, states = make(num_cells=4, num_groups=2, loss=name), population()
  mask = np.where(np.arange(12) == 7, 0, 12 / 11).astype(np.float32)
  temperatures = np.full((12, 1), 0.1, np.float32)
  loss, _ = jax.jit(task.loss)(states, temperatures, mask)
  alone = make(num_cells=4, loss=name)
  parts = [states[:6], np.delete(states[6:], 1, axis=0)]
  wanted = np.mean([judged(alone, part)[0] for part in parts])
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)
