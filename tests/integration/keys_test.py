# SPDX-License-Identifier: Apache-2.0
"""A run is a function of its seed, whatever JAX is told of keys.

Truth: the trials and the run under JAX's own settings.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bionet_core as core
import bionet_learners as bl
import bionet_tasks as tasks
from bionet_learners.training import notebook
from bionet_tasks import base


@pytest.mark.parametrize('impl', ['rbg', 'unsafe_rbg'])
def test_a_run_draws_its_trials_under_any_generator(impl):
  """Truth: the same run where JAX is told of no other generator.

  Three trials by themselves are the same three among eight.
  """

  def drawn():
    task = tasks.prototypes(num_prototypes=4, dim=6, seed=2)
    key = notebook.run_keys(3).data
    trials = task.sample(key, jnp.arange(8), 8)
    few = tasks.copying(num_symbols=3, time_lag=2).sample
    return [
      trials.inputs,
      few(key, jnp.arange(8)).inputs[:, 5:],
      few(key, 5 + jnp.arange(3)).inputs,
    ]

  wanted = drawn()
  np.testing.assert_array_equal(wanted[1], wanted[2])
  with jax.default_prng_impl(impl):
    for got, want in zip(drawn(), wanted, strict=True):
      np.testing.assert_array_equal(got, want)


def test_a_run_ends_where_it_ends_under_any_generator():
  """Truth: the rows of the same run; its parameters are drawn."""
  task = tasks.copying(num_symbols=3, time_lag=2, num_held_out=8)
  rule = bl.bptt(core.vanilla_rnn(task.spec, hidden=4), task.loss)
  learner = bl.descend(rule, optax.sgd(0.1))

  def rows():
    return bl.train(learner, task, num_updates=2, batch_size=3, seed=5)[1]

  wanted = rows()
  with jax.default_prng_impl('rbg'):
    assert rows() == wanted


def test_a_task_refuses_keys_of_another_generator():
  """Truth: the sentence that says what to write instead."""
  drawn = base.drawn_anew(lambda key: (jnp.ones(2), jnp.ones(2), jnp.ones(2)))
  with (
    jax.default_prng_impl('rbg'),
    pytest.raises(TypeError, match=r"use jax\.random\.key\(seed, impl='three"),
  ):
    drawn(jax.random.key(0), jnp.arange(3))
