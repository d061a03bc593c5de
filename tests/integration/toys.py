# SPDX-License-Identifier: Apache-2.0
"""Toy rules and cells, very unlike each other, on the central types.

Exact forward sensitivities, an eligibility trace with random feedback, an
evolution step, and a noisy tissue with a population loss.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from bionet_core import interfaces, unroll
from bionet_learners import base

T, B, I, N, O = 8, 3, 2, 4, 2


def toy_rtrl(cell, loss, *, drop_influence=False):
  """J_t = ds_t/dtheta, carried forward: [B, P, ...] for each leaf of s."""
  base.require_kind('toy_rtrl', cell, interfaces.Cell)

  def begin(params, constants, rule_state, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    size = flatten_util.ravel_pytree(params)[0].size
    influence = jax.tree.map(
      lambda x: jnp.zeros((x.shape[0], size, *x.shape[1:])), state
    )
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    return base.RuleState(rule_state.shared, (state, influence, steps))

  def init(key, params, constants, trials):
    return begin(params, constants, base.RuleState((), ()), key, trials)

  def estimate(params, constants, rule_state, key, trials):
    flat, unravel = flatten_util.ravel_pytree(params)
    keys = unroll.trial_keys(key, trials.index)

    def advance(carry, now):
      (state, influence, steps), total = carry
      inputs, targets, mask = now
      noise = unroll.step_keys(keys, steps)

      def transition(flat, state):
        return cell.step(unravel(flat), constants, state, noise, inputs)

      def scored(flat, state):
        emission, _ = transition(flat, state)
        return unroll.score_step(
          cell, loss, unravel(flat), constants, emission, targets, mask
        )

      (value, metrics), (direct, to_state) = jax.value_and_grad(
        scored, (0, 1), has_aux=True
      )(flat, state)
      total += direct + sum(
        jnp.einsum('bp...,b...->p', j, d)
        for j, d in zip(
          jax.tree.leaves(influence), jax.tree.leaves(to_state), strict=True
        )
      )

      def along(axis, tangent):
        return jax.jvp(
          lambda f, s: transition(f, s)[1], (flat, state), (axis, tangent)
        )[1]

      if drop_influence:
        influence = jax.tree.map(jnp.zeros_like, influence)
      influence = jax.vmap(along, (0, 1), 1)(jnp.eye(flat.size), influence)
      _, state = transition(flat, state)
      return ((state, influence, steps + 1), total), (value, metrics)

    (carried, total), scores = jax.lax.scan(
      advance,
      (rule_state.per_trial, jnp.zeros_like(flat)),
      (trials.inputs, trials.targets, trials.mask),
    )
    value, metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), scores)
    return (
      base.Estimate(unravel(total), value, metrics),
      base.RuleState(rule_state.shared, carried),
    )

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)


def leaky_cell(leak=0.8):
  """h_t = leak h + (1 - leak) tanh(W x + R h); a readout without bias."""

  def init(key, inputs):
    keys = jax.random.split(key, 3)
    shapes = {'w': (inputs.shape[-1], N), 'r': (N, N), 'out': (N, O)}
    return {
      name: jax.random.normal(k, shape) / np.sqrt(shape[0])
      for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }, {'leak': jnp.float32(leak)}

  def initial_state(constants, keys):
    del constants
    return jnp.zeros((keys.shape[0], N))

  def step(params, constants, state, keys, inputs):
    del keys
    drive = jnp.tanh(inputs @ params['w'] + state @ params['r'])
    state = constants['leak'] * state + (1 - constants['leak']) * drive
    return state, state

  def readout(params, constants, emission):
    del constants
    return emission @ params['out']

  return interfaces.Cell(init, initial_state, step, readout)


def toy_e_prop(cell, loss, *, feedback='random'):
  """Traces p_ij <- leak p_ij + (1 - leak) phi'_i x_j; signal B error."""

  def begin(params, constants, rule_state, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    batch = trials.index.shape[0]
    traces = {
      name: jnp.zeros((batch, *params[name].shape)) for name in ('w', 'r')
    }
    return base.RuleState(rule_state.shared, (state, traces))

  def init(key, params, constants, trials):
    shared = {'feedback': jax.random.normal(key, params['out'].shape)}
    return begin(params, constants, base.RuleState(shared, ()), key, trials)

  def estimate(params, constants, rule_state, key, trials):
    del key
    weights = rule_state.shared['feedback']
    if feedback == 'symmetric':
      weights = params['out']
    leak = constants['leak']

    def advance(carry, now):
      (state, traces), updates = carry
      inputs, targets, mask = now
      before = state
      emission, state = cell.step(params, constants, state, None, inputs)
      drive = inputs @ params['w'] + before @ params['r']
      slope = (1 - leak) * (1 - jnp.tanh(drive) ** 2)
      pre = {'w': inputs, 'r': before}
      traces = {
        name: leak * trace + jnp.einsum('bi,bj->bij', pre[name], slope)
        for name, trace in traces.items()
      }
      outputs = cell.readout(params, constants, emission)
      # What nobody asks for may be anything, and is shown to no loss.
      weighs = mask[:, None] != 0
      outputs, targets = (jnp.where(weighs, x, 0) for x in (outputs, targets))
      (value, metrics), error = jax.value_and_grad(loss, has_aux=True)(
        outputs, targets, mask
      )
      signal = error @ weights.T
      updates = {
        **{
          name: updates[name] + jnp.einsum('bj,bij->ij', signal, trace)
          for name, trace in traces.items()
        },
        'out': updates['out'] + emission.T @ error,
      }
      return ((state, traces), updates), (value, metrics)

    zeros = jax.tree.map(jnp.zeros_like, params)
    (carried, updates), scores = jax.lax.scan(
      advance,
      (rule_state.per_trial, zeros),
      (trials.inputs, trials.targets, trials.mask),
    )
    value, metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), scores)
    return (
      base.Estimate(updates, value, metrics),
      base.RuleState(rule_state.shared, carried),
    )

  return base.GradientRule(unroll.model_from_cell(cell), init, begin, estimate)


def without_recurrence(cell):
  """The same cell with R held at zero, where the trace is exact."""

  def step(params, constants, state, keys, inputs):
    return cell.step(
      {**params, 'r': params['r'] * 0}, constants, state, keys, inputs
    )

  return cell._replace(step=step)


def toy_evolution(cell, loss, *, population, elites, std, devices=base.ONE):
  """(mu + lambda): keeps the elites, fills up with their mutants."""
  model = unroll.model_from_cell(cell)

  def fitness(params, constants, key, trials):
    state = unroll.initial_state(cell, constants, key, trials.index)
    keys = unroll.trial_keys(key, trials.index)
    steps = jnp.zeros(trials.index.shape, jnp.int32)
    return unroll.unroll(
      cell, loss, params, constants, state, keys, steps, trials
    )[0]

  def init(key, trials):
    params, constants = model.init(key, trials)
    members = jax.vmap(lambda k: model.init(k, trials)[0])(
      jax.random.split(key, population)
    )
    memory = base.RuleState(shared=members, per_trial=())
    return base.LearnerState(params, constants, memory, (), jnp.int32(0))

  def update(state, key, trials):
    members = state.rule_state.shared
    share = population // devices.count
    mine = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, devices.index() * share, share),
      members,
    )
    losses = devices.gather(
      jax.vmap(lambda p: fitness(p, state.constants, key, trials))(mine)
    )
    order = jnp.argsort(losses)
    kept = jax.tree.map(lambda x: x[order[:elites]], members)
    draw = jax.random.fold_in(key, state.step)
    parents = jax.random.randint(draw, (population - elites,), 0, elites)

    def mutate(x, k):
      children = x[parents]
      return jnp.concatenate(
        [x, children + std * jax.random.normal(k, children.shape)]
      )

    leaves, tree = jax.tree.flatten(kept)
    keys = jax.random.split(draw, len(leaves))
    members = tree.unflatten(
      [mutate(x, k) for x, k in zip(leaves, keys, strict=True)]
    )
    return base.LearnerState(
      jax.tree.map(lambda x: x[0], kept),
      state.constants,
      base.RuleState(members, ()),
      (),
      state.step + 1,
    ), {'loss': losses[order[0]]}

  def predict(state, key, trials):
    return model.predict(state.params, state.constants, key, trials)

  return base.Learner(init, update, predict, partition='population')


def toy_tissue(num_cells=5, hidden=4):
  """S <- clip(s + f(neighbours) dt + sigma sqrt(dt) xi); inputs (dt, sigma)."""

  def init(key, inputs):
    del inputs
    keys = jax.random.split(key)
    return {
      'in': jax.random.normal(keys[0], (1, hidden)),
      'out': jax.random.normal(keys[1], (hidden, 1)),
    }, {'neighbours': jnp.asarray([1.0] + [2.0] * (num_cells - 2) + [1.0])}

  def initial_state(constants, keys):
    del constants
    return jax.vmap(
      lambda k: jax.random.uniform(k, (num_cells,), minval=0.4, maxval=0.6)
    )(keys)

  def step(params, constants, state, keys, inputs):
    padded = jnp.pad(state, ((0, 0), (1, 1)))
    mean = (padded[:, :-2] + padded[:, 2:]) / constants['neighbours'][None, :]
    inside = jnp.tanh(2 * (mean[..., None] - 0.5) @ params['in'])
    rate = (inside @ params['out'])[..., 0]
    noise = jax.vmap(lambda k: jax.random.normal(k, (num_cells,)))(keys)
    dt, sigma = inputs[:, :1], inputs[:, 1:]
    state = state + rate * dt + sigma * jnp.sqrt(dt) * noise
    state = jnp.clip(state, 0.0, 1.0)
    return state, state

  def readout(params, constants, emission):
    del params, constants
    return emission

  return interfaces.Cell(init, initial_state, step, readout)


def pattern_utility(outputs, targets, mask):
  """Minus (variance of the mean pattern - mean variance over replicates)."""
  temperature = targets[0]  # a schedule travels in the targets
  fates = jax.nn.sigmoid((outputs - 0.5) / temperature)
  utility = jnp.var(jnp.mean(fates, 0)) - jnp.mean(jnp.var(fates, 0))
  return -utility * jnp.mean(mask), {'utility': utility * jnp.mean(mask)}


def tissue_trials(replicates=8, steps=20, dt=0.05):
  mask = jnp.zeros((steps, replicates)).at[-1].set(1.0)
  one_step = jnp.asarray([dt, 0.1], jnp.float32)[None, None, :]
  return interfaces.Trials(
    inputs=jnp.broadcast_to(one_step, (steps, replicates, 2)),
    targets=jnp.full((steps, replicates), 0.1),
    mask=mask,
    index=jnp.arange(replicates),
  )
