# SPDX-License-Identifier: Apache-2.0
"""`train`: the loop for a notebook.

Truth: the updates of the learner written out in a Python loop.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bionet_core as core
import bionet_learners as bl
from bionet_learners.training import notebook


class Sizes(NamedTuple):
  """One input, and an output for each of two classes."""

  input_shape: tuple[int, ...] = (1,)
  num_outputs: int = 2


class Evaluation(NamedTuple):
  """Held-out trials."""

  num_trials: int
  sample: core.SampleFn


class Task(NamedTuple):
  """What `train` reads of a task."""

  sample: core.SampleFn
  evaluations: dict
  metrics: object


STEPS = 3


def sample(key, index, batch_size=None):
  """Copying a bit: it is shown at the first step, and judged at the last."""
  del batch_size
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
  bits = jax.vmap(lambda k: jax.random.bernoulli(k).astype(int))(keys)
  first = (jnp.arange(STEPS) == 0)[:, None]
  last = (jnp.arange(STEPS) == STEPS - 1)[:, None]
  return core.Trials(
    inputs=jnp.where(first, 2.0 * bits - 1.0, 0.0)[..., None],
    targets=jnp.where(last, bits, 0),
    mask=jnp.where(last, 1.0, 0.0) * jnp.ones((STEPS, *index.shape)),
    index=index,
  )


def loss(outputs, targets, mask):
  hit = jax.nn.one_hot(targets, 2) > 0
  log_p = jnp.sum(jnp.where(hit, jax.nn.log_softmax(outputs), 0), axis=-1)
  right = jnp.argmax(outputs, axis=-1) == targets
  return -jnp.mean(mask * log_p), {'accuracy': jnp.mean(mask * right)}


def metrics(outputs, trials):
  total, others = loss(outputs[-1], trials.targets[-1], trials.mask[-1])
  return {'loss': total, **others}


def make_task(metrics=metrics):
  return Task(sample, {'held_out': Evaluation(40, sample)}, metrics)


def make_learner(rate=0.03):
  cell = core.gru(Sizes(), hidden=4)
  return bl.descend(bl.bptt(cell, loss), optax.adam(rate))


def run(num_updates=40, seed=0, **settings):
  return bl.train(
    make_learner(),
    make_task(),
    num_updates=num_updates,
    batch_size=4,
    seed=seed,
    **settings,
  )


def test_training_learns_to_copy_and_is_the_loop_written_out(capsys):
  """Truth: the learner's updates in a Python loop; a bit is 1 in 2 by chance.

  The held-out trials are scored at the end, and a bar is shown.
  """
  state, rows = run()
  assert [row['step'] for row in rows] == [*range(2, 41, 2), 40]
  assert [row['split'] for row in rows] == ['train'] * 20 + ['eval']
  assert rows[-1]['accuracy'] == 1
  assert rows[0]['loss'] > 0.4 > 0.1 > rows[-1]['loss']
  assert '40/40' in capsys.readouterr().err

  learner, keys = make_learner(), notebook.run_keys(0)
  update = jax.jit(learner.update)
  draw = jax.jit(sample)
  looped = jax.jit(learner.init)(keys.init, draw(keys.data, np.arange(4)))
  losses = []
  for number in range(40):
    batch = draw(keys.data, number * 4 + np.arange(4))
    looped, found = update(looped, keys.noise, batch)
    losses.append(float(found['loss']))
  means = np.mean(np.reshape(losses, (20, 2)), axis=1)
  recorded = [row['loss'] for row in rows if row['split'] == 'train']
  np.testing.assert_allclose(recorded, means, rtol=1e-3)
  assert int(state.step) == 40
  for a, b in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(looped.params), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
  trials = draw(keys.held_out, np.arange(40))
  assert 0.3 < np.mean(trials.targets[-1]) < 0.7
  outputs = jax.jit(learner.predict)(looped, keys.held_out_noise, trials)
  np.testing.assert_allclose(
    rows[-1]['loss'], jax.jit(metrics)(outputs, trials)['loss'], rtol=1e-2
  )


def test_a_seed_gives_its_rows_and_another_seed_others():
  """Truth: equality of all rows, to the bit."""
  first, again, other = (run(num_updates=4, seed=seed)[1] for seed in (1, 1, 2))
  assert first == again
  assert first[-1]['loss'] != other[-1]['loss']


def test_a_range_is_compiled_once():
  """Truth: how often the learner's update is traced, for 20 ranges."""
  traced = []
  learner = make_learner()

  def update(state, key, trials):
    traced.append(trials.index.shape)
    return learner.update(state, key, trials)

  # A scan traces its body more than once per compilation.
  def count(num_updates):
    traced.clear()
    bl.train(
      learner._replace(update=update),
      make_task(),
      num_updates=num_updates,
      batch_size=2,
      seed=0,
    )
    return len(traced)

  assert count(40) == count(2)


@pytest.mark.parametrize(
  'num_updates, longest, size',
  [
    (1000, 10**6, 50),
    (1, 10**6, 1),
    (30, 10**6, 2),
    (1999, 10**6, 100),  # a prime: the last range has 99
    (1030, 10**6, 52),  # 1030 = 2 x 5 x 103
    (1000, 8, 8),
    (1000, 7, 5),
  ],
)
def test_the_length_of_ranges(num_updates, longest, size):
  """Truth: divisors by hand, from the largest allowed down to its half."""
  assert notebook._range_size(num_updates, longest) == size


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'num_updates': 0}, r'^num_updates=0: '),
    ({'batch_size': 0}, r'^batch_size=0: '),
    ({'seed': -1}, r'^seed=-1: '),
    ({'seed': 2**32}, r'^seed=4294967296: '),
  ],
)
def test_settings_out_of_range_are_refused(settings, message):
  """Truth: the documented ranges; the setting is named."""
  sizes = {'num_updates': 2, 'batch_size': 2, 'seed': 0, **settings}
  with pytest.raises(ValueError, match=message):
    bl.train(make_learner(), make_task(), **sizes)


def test_a_score_that_is_no_number_ends_training():
  """Truth: the loop of the binaries: a NaN is named and never recorded."""

  def broken(outputs, trials):
    return {'loss': jnp.sum(outputs) * jnp.nan}

  with pytest.raises(FloatingPointError, match='evaluation after update 2'):
    bl.train(
      make_learner(), make_task(broken), num_updates=2, batch_size=2, seed=0
    )
