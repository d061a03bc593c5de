# SPDX-License-Identifier: Apache-2.0
"""What users write, as pyright must accept it: no line here is an error."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import bionet_core as core
import bionet_learners as bl
import bionet_tasks as tasks

##############################################################################
# Cells


def init(key, inputs):
  return {'w': jax.random.normal(key, (inputs.shape[-1], 3))}, {}


def step(p, c, s, k, x):
  s = jnp.tanh(x @ p['w'] + s)
  return s, s


def typed_step(
  params: core.ArrayTree,
  constants: core.ArrayTree,
  state: jax.Array,
  noise: jax.Array,
  inputs: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  return inputs @ params['w'], state


def state_of(constants, keys, scale=1.0):
  return scale * jnp.zeros((keys.shape[0], 3))


cell = core.Cell(init, state_of, step, lambda p, c, e: e)
typed = core.Cell(init, state_of, typed_step, readout=lambda p, c, e: e)
compiled = cell._replace(step=jax.jit(step))
costly = cell._replace(penalty=lambda c, s: jnp.sum(s**2, axis=-1))
emission, state = cell.step({}, {}, jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))
of_core = core.cell_from_core(lambda: hk.GRU(3), lambda: hk.Linear(2))
step_fn: core.StepFn = step


class Readout:
  """An object is a function too."""

  def __call__(self, params: Any, constants: Any, emission: jax.Array):
    """Emits what it gets."""
    return emission


called = core.Cell(init, state_of, step, Readout())

##############################################################################
# Networks and models


def settle(p, c, s, keys, *, messages, sweeps):
  return s, jnp.zeros(sweeps)


network = core.RelaxationNetwork(
  init=init,
  initial_state=lambda p, c, x, y: x,
  settle=settle,
  readout=lambda p, c, s: s,
  local_loss=lambda p, c, s, y, gate=None: jnp.mean(s),
)
model = core.Model(
  init=lambda key, trials: init(key, trials.inputs[0]),
  predict=lambda p, c, key, trials: trials.inputs,
)

##############################################################################
# Rules and learners


def begin(params, constants, memory, key, trials):
  return bl.RuleState(shared=(), per_trial=())


def estimate(
  params: core.ArrayTree,
  constants: core.ArrayTree,
  memory: bl.RuleState,
  key: jax.Array,
  trials: core.Trials,
) -> tuple[bl.Estimate, bl.RuleState]:
  return bl.Estimate(params, jnp.zeros(()), {}), memory


rule = bl.GradientRule(
  model=model,
  init=lambda key, p, c, trials: bl.RuleState((), ()),
  begin=begin,
  estimate=estimate,
)
learner = bl.descend(rule, optax.adam(1e-2), every=5)
still = bl.Learner(
  init=lambda key, trials: bl.LearnerState(
    {}, {}, bl.RuleState((), ()), (), jnp.zeros((), jnp.int32)
  ),
  update=lambda state, key, trials: (state, {'loss': jnp.zeros(())}),
  predict=lambda state, key, trials: trials.inputs,
)
devices = bl.Devices(
  count=1,
  index=lambda: 0,
  mean=lambda tree: tree,
  gather=lambda tree: jax.tree.map(jnp.asarray, tree),
)

##############################################################################
# Tasks and losses


def loss(outputs, y, weights):
  return jnp.mean(weights * jnp.sum((outputs - y) ** 2, axis=-1)), {}


def sample(key, numbers, batch=None):
  zeros = jnp.zeros((1, *numbers.shape))
  return core.Trials(
    inputs=zeros[..., None], targets=zeros, mask=zeros + 1, index=numbers
  )


task = tasks.Task(
  spec=tasks.TaskSpec(
    name='mine',
    input_shape=(1,),
    num_outputs=1,
    num_steps=1,
    metric='loss',
    chance={'loss': 1.0},
    ceiling={'loss': 0.0},
  ),
  sample=sample,
  evaluations={
    'held_out': tasks.Evaluation(10, lambda key, index: sample(key, index))
  },
  loss=loss,
  metrics=lambda outputs, trials: {'loss': jnp.mean(outputs)},
)
copying = tasks.copying(num_symbols=5, time_lag=5)
factory: Callable[..., core.Cell] = core.gru
d_rtrl = bl.d_rtrl(core.gru(copying.spec, hidden=64), copying.loss)
trained, rows = bl.train(
  bl.descend(d_rtrl, optax.adam(1e-2)),
  copying,
  num_updates=10,
  batch_size=4,
  seed=0,
)
mine, _ = bl.train(still, task, num_updates=10, batch_size=4, seed=0)
accuracy: float = rows[-1]['accuracy']
step_done: jax.Array = trained.step
trials = copying.sample(jax.random.key(0), jnp.arange(4), 4)
value, metrics = copying.loss(emission, trials.targets[0], trials.mask[0])
