# SPDX-License-Identifier: Apache-2.0
"""Mistakes that pyright must see: each marked line is an error, no other is."""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import bionet_core as core
import bionet_learners as bl
import bionet_tasks as tasks

x = jnp.zeros(2)
task = tasks.copying()
cell = core.gru(task.spec)
network = core.asymmetric(task.spec)
learner = bl.descend(bl.bptt(cell, task.loss), optax.sgd(0.1))
model = core.Model(lambda key, trials: ({}, {}), lambda p, c, key, trials: x)


def init(key, inputs):
  return {}, {}


def state_of(constants, keys):
  return x


def step(p, c, s, k, inputs):
  return s, s


def without_keys(p, c, s, inputs):
  return s, s


def without_state(p, c, s, k, inputs) -> jax.Array:
  return s


def by_name(*, params, constants, emission):
  return emission


def begin(params, constants, memory, key, trials):
  return bl.RuleState((), ())


def begins_with_less(params, memory, key, trials):
  return bl.RuleState((), ())


def estimates_an_array(params, constants, memory, key, trials) -> jax.Array:
  return x


def without_metrics(outputs, targets, mask) -> jax.Array:
  return x


# Cells: parameters that are missing, results of another type, names.
core.Cell(init, state_of, without_keys, lambda p, c, e: e)  # refused
core.Cell(init, state_of, without_state, lambda p, c, e: e)  # refused
core.Cell(init, state_of, step, by_name)  # refused
core.Cell(init, state_of, step, lambda p, e: e)  # refused
core.Cell(init, state_of, step)  # refused
core.Cell(init, state_of, step, lambda p, c, e: e, penalty=step)  # refused
cell.step({}, {}, x, x)  # refused
cell.step(params={}, constants={}, state=x, keys=x, inputs=x)  # refused
cell.readout({}, {}, x, x)  # refused
core.cell_from_core(hk.GRU(3), lambda: hk.Linear(2))  # refused
core.gru(task.spec, 64)  # refused
core.gru(task.spec, units=64)  # refused
core.gru(task)  # refused

# Networks.
network.settle({}, {}, x, x, 'all', 3)  # refused
network.settle({}, {}, x, x, messages='all')  # refused
core.Model(lambda key: ({}, {}), model.predict)  # refused

# Rules and learners.
bl.GradientRule(model, begin, begin, estimates_an_array)  # refused
bl.GradientRule(model, begins_with_less, begins_with_less, begin)  # refused
bl.descend(cell, optax.sgd(0.1))  # refused
bl.descend(bl.bptt(cell, task.loss), 0.1)  # refused
bl.bptt(cell, without_metrics)  # refused
bl.bptt(cell, task)  # refused
bl.Learner(learner.init, learner.update, begins_with_less)  # refused
learner.update(x, jax.random.key(0))  # refused
bl.Devices(count=1, index=lambda i: i, mean=begin, gather=begin)  # refused
bl.train(learner, task, 10, 4, 0)  # refused
bl.train(learner, task, num_updates=10, batch_size=4)  # refused
bl.train(learner, cell, num_updates=10, batch_size=4, seed=0)  # refused

# Tasks.
_ = task.losses  # refused
_ = task.spec.loss  # refused
task.sample(key=x, index=x)  # refused
tasks.Evaluation(10, lambda key: key)  # refused
task.loss(x, x)  # refused
