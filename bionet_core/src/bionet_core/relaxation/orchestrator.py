# SPDX-License-Identifier: Apache-2.0
"""Sweeps over the rows of a layer map, and the network they make."""

import dataclasses
import math
from typing import cast

import chex
import jax
import jax.numpy as jnp

from bionet_core import interfaces, platforms, unroll
from bionet_core.relaxation import layer_map as layer_maps
from bionet_core.relaxation import layers, rules
from bionet_core.relaxation import state as states

SCHEDULES = ('sequential', 'parallel')


@dataclasses.dataclass(frozen=True)
class SequentialOrchestrator:
  """Updates rows in ascending order, the output row excepted.

    h_i = sum_j message_ij(s_j) over the senders that the filter lets through
    s_i <- activation_i(h_i)

  With the schedule 'sequential' a row sees what the rows before it have just
  become; inside a row the update is synchronous. With 'parallel' all rows see
  the states before the sweep. No layer is stochastic, so no key is consumed.

  Attributes:
    layer_map: the topology and its layers.
    schedule: 'sequential' or 'parallel'.
    stop_at_fixed_point: end a phase when a sweep changed nothing. The states
      are bitwise those of all sweeps: a deterministic network stays where it
      is. Saves up to half the time on a CPU; on an accelerator the test of the
      loop may cost more than it saves.
  """

  layer_map: layer_maps.LayerMap
  schedule: str = 'sequential'
  stop_at_fixed_point: bool = False

  def __post_init__(self):
    if self.schedule not in SCHEDULES:
      raise ValueError(
        f'schedule={self.schedule!r}: must be one of {", ".join(SCHEDULES)}.'
      )

  ##############################################################################
  # Parameters and states

  def init(
    self, key: jax.Array, inputs: jax.Array
  ) -> tuple[interfaces.ArrayTree, interfaces.ArrayTree]:
    """Draws `(params, constants)`, trees `{edge: {name: array}}`.

    Args:
      key: a PRNG key; each edge's draw depends on the key and the edge alone.
      inputs: float `[B, *I]`, for the shape.
    """
    chex.assert_type(inputs, float)
    params, constants = {}, {}
    for edge in self.layer_map:
      receiver, sender = edge
      edge_key = jax.random.fold_in(jax.random.fold_in(key, receiver), sender)
      name = layer_maps.edge_name(edge)
      drawn, fixed = self.layer_map[edge].init(
        edge_key, self._shape(sender, inputs)
      )
      if drawn:
        params[name] = drawn
      if fixed:
        constants[name] = fixed
    return params, constants

  def initial_state(
    self,
    params: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    inputs: jax.Array,
    targets: jax.Array | None,
  ) -> states.SequentialState:
    """Zeros with the input, and the label if there are targets, written in.

    Args:
      params: unused: nothing learned starts a state.
      constants: unused.
      inputs: float `[B, *I]`.
      targets: int classes `[B]`, labels float `[B, O]`, or None.
    """
    del params, constants
    shapes = [inputs.shape[1:]]
    shapes += [self.layer_map.shape(row) for row in self.layer_map.rows]
    labels = None if targets is None else self._labels(targets)
    return states.SequentialState.init(shapes, inputs, labels)

  ##############################################################################
  # Dynamics

  def settle(
    self,
    params: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    state: states.SequentialState,
    keys: jax.Array | None = None,
    *,
    messages: str,
    sweeps: int,
  ) -> tuple[states.SequentialState, jax.Array]:
    """Runs one phase: that many sweeps under one filter of messages.

    Messages of rows that stand still in a phase (the input, and the label
    while it is clamped) are computed once.

    Args:
      params: tree `{edge: {name: array}}`.
      constants: tree `{edge: {name: array}}`.
      state: where to start.
      keys: unused: nothing here is random.
      messages: one of `layer_map.MESSAGES`.
      sweeps: how many, 0 or more.

    Returns:
      The state, and `changed` float `[sweeps]`: the fraction of hidden units
      that each sweep changed.

    Raises:
      ValueError: for an unknown filter or a negative number of sweeps.
    """
    del keys
    if sweeps < 0:
      raise ValueError(f'sweeps={sweeps}: must be 0 or more.')
    still = (0, self.layer_map.last)
    hidden = self.layer_map.rows[:-1]
    weights = self._weights(params, constants)
    standing, moving = {}, {}
    for row in hidden:
      senders = self.layer_map.senders(row, messages)
      moving[row] = [j for j in senders if j not in still]
      standing[row] = jnp.zeros_like(state[row])
      for sender in senders:
        if sender in still:
          standing[row] += self._message((row, sender), weights, state)

    def sweep(state):
      before, num_changed = state, jnp.zeros(())
      for row in hidden:
        source = state if self.schedule == 'sequential' else before
        field = standing[row]
        for sender in moving[row]:
          field += self._message((row, sender), weights, source)
        after = self.layer_map.row_layer(row).activation(field)
        after = after.astype(before[row].dtype)
        num_changed += jnp.sum(after != before[row], dtype=field.dtype)
        state = state.at_row(row, after)
      return state, num_changed / num_units

    num_units = sum(state[row].size for row in hidden)
    if not hidden or sweeps == 0:
      return state, jnp.zeros(sweeps)
    # At a fixed point further sweeps change nothing: an accelerator makes them,
    # which takes less time than to ask after each.
    if not self.stop_at_fixed_point or platforms.accelerated():
      return platforms.scan(lambda s, _: sweep(s), state, None, length=sweeps)

    def restless(loop):
      done, _, changed = loop
      last = changed[jnp.maximum(done - 1, 0)]
      return (done < sweeps) & ((done == 0) | (last > 0))

    def once(loop):
      done, state, changed = loop
      state, fraction = sweep(state)
      return done + 1, state, changed.at[done].set(fraction)

    start = (jnp.int32(0), state, jnp.zeros(sweeps))
    _, state, changed = jax.lax.while_loop(restless, once, start)
    return state, changed

  def step(self, params, constants, state) -> states.SequentialState:
    """One sweep with all messages."""
    return self.settle(params, constants, state, messages='all', sweeps=1)[0]

  def step_inference(self, params, constants, state) -> states.SequentialState:
    """One sweep without the messages of the output row."""
    return self.settle(params, constants, state, messages='free', sweeps=1)[0]

  def readout(self, params, constants, state) -> jax.Array:
    """The output row's scores, float `[B, O]`; the row itself is not read."""
    last = self.layer_map.last
    weights = self._weights(params, constants)
    field = jnp.zeros_like(state[last])
    for sender in self.layer_map.senders(last, 'free'):
      field += self._message((last, sender), weights, state)
    return self.layer_map.row_layer(last).activation(field)

  def predict(self, params, constants, state) -> states.SequentialState:
    """Recomputes the output row only: overwrites a clamped label."""
    scores = self.readout(params, constants, state)
    return state.at_row(-1, scores)

  ##############################################################################
  # Plasticity

  def local_loss(
    self,
    params: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    state: states.SequentialState,
    targets: jax.Array,
    gate: jax.Array | None = None,
  ) -> jax.Array:
    """The sum over learned edges of their local losses, mean over trials.

    With all states held fixed, and h_i the field of row i without the label's
    feedback, each edge (i, j) sees that field with its own message live:

      live = sg(h_i) + (message_ij - sg(message_ij)) / sqrt(n_j)
      loss = mean_b gate_b sum_ij losses_ij(live, y_i)

    y_i is the state s_i itself, and the label for the output row. For
    perceptron layers `-grad` is, per edge,
    `x^T [y 1{y h <= threshold}] / (B sqrt(n_j))`: 1 / sqrt(B) times the rule of
    arXiv 2509.05041, because a batch here is the mean of its trials (so that D
    devices equal one). There is one loss per edge and not per row since margins
    belong to edges.

    Args:
      params: tree `{edge: {name: array}}`.
      constants: tree `{edge: {name: array}}`.
      state: a settled state.
      targets: int classes `[B]` or labels float `[B, O]`; of a trial of weight
        0 they are not read.
      gate: float `[B, 1]`, a weight of each trial's update; 1 by default.

    Returns:
      float `[]`.
    """
    if gate is not None:
      chex.assert_shape(gate, (targets.shape[0], 1))
      targets = unroll.where_asked(gate[:, 0], targets)
    labels = self._labels(targets)
    state = jax.lax.stop_gradient(state)
    weights = self._weights(params, constants)
    per_trial = jnp.zeros(labels.shape[0], labels.dtype)
    for row in self.layer_map.rows:
      target = labels if row == self.layer_map.last else state[row]
      messages = {
        sender: self._message((row, sender), weights, state)
        for sender in self.layer_map.senders(row)
      }
      field = jax.lax.stop_gradient(
        sum(messages[j] for j in self.layer_map.senders(row, 'free'))
      )
      for sender, message in messages.items():
        name = layer_maps.edge_name((row, sender))
        if name not in params:
          continue
        layer = cast(layers.LearnedLayer, self.layer_map[row, sender])
        slope = message - jax.lax.stop_gradient(message)
        fan_in = layer.fan_in(state[sender].shape[1:])
        live = field + slope / math.sqrt(fan_in)
        per_trial += layer.losses(constants[name], live, target)
    if gate is not None:
      per_trial *= gate[:, 0]
    return jnp.mean(per_trial)

  def backward(
    self, params, constants, state, targets, gate=None
  ) -> interfaces.ArrayTree:
    """The pseudo-gradient: `grad` of `local_loss` in the parameters."""
    return jax.grad(self.local_loss)(params, constants, state, targets, gate)

  def network(self) -> interfaces.RelaxationNetwork:
    """The record that learners take."""
    return interfaces.RelaxationNetwork(
      init=self.init,
      initial_state=self.initial_state,
      settle=self.settle,
      readout=self.readout,
      local_loss=self.local_loss,
    )

  ##############################################################################

  def _shape(self, row: int, inputs: jax.Array) -> tuple[int, ...]:
    return inputs.shape[1:] if row == 0 else self.layer_map.shape(row)

  def _labels(self, targets: jax.Array) -> jax.Array:
    size = math.prod(self.layer_map.shape(self.layer_map.last))
    return rules.signed_labels(targets, size)

  def _weights(
    self, params, constants
  ) -> dict[tuple[int, int], interfaces.ArrayTree]:
    weights = {}
    for edge in self.layer_map:
      name = layer_maps.edge_name(edge)
      weights[edge] = self.layer_map[edge].weights(
        params.get(name, {}), constants.get(name, {})
      )
    return weights

  def _message(self, edge, weights, state) -> jax.Array:
    return self.layer_map[edge].message(weights[edge], state[edge[1]])
