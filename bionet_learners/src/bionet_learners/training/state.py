# SPDX-License-Identifier: Apache-2.0
"""The state of a network that is trained by a plain gradient."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from bionet_core import interfaces
from bionet_learners.training import keywords

# What fields of a state are called elsewhere.
_ELSEWHERE = {
  'batch_stats': 'network_state',  # Flax
  'state': 'network_state',  # Haiku
  'optimizer': 'tx',
  'rng': 'key',
  'rng_key': 'key',
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that training carries from step to step, Haiku state included.

  The arrays are one pytree: they go through jit, a checkpoint and back whole.
  The functions travel beside them and are never saved.

  Attributes:
    params: what learns.
    network_state: Haiku's state (batch statistics); `{}` for none.
    opt_state: the optimizer's.
    step: int32 `[]`, gradients applied.
    key: the root of draws, for a step written without `train_loop` (which hands
      each step its own key): draw from `fold_in(state.key, state.step)`. None
      where nothing is drawn.
    apply_fn: the network's apply function.
    tx: the optimizer.
  """

  params: interfaces.ArrayTree
  network_state: interfaces.ArrayTree
  opt_state: interfaces.ArrayTree
  step: jax.Array
  key: jax.Array | None
  apply_fn: Callable[..., Any] = dataclasses.field(metadata={'static': True})
  tx: optax.GradientTransformation = dataclasses.field(
    metadata={'static': True}
  )

  @classmethod
  @keywords.answered(**_ELSEWHERE)
  def create(
    cls,
    apply_fn: Callable[..., Any],
    params: interfaces.ArrayTree,
    tx: optax.GradientTransformation,
    network_state: interfaces.ArrayTree | None = None,
    key: jax.Array | None = None,
  ) -> 'TrainState':
    """The state before the first step.

    Args:
      apply_fn: e.g. the `apply` of a network transformed with state.
      params: initial parameters.
      tx: the optimizer.
      network_state: initial Haiku state, if the network has one.
      key: the root of draws, if the steps draw from it.

    Raises:
      TypeError: for another keyword; says which is meant.
    """
    return cls(
      params=params,
      network_state={} if network_state is None else network_state,
      opt_state=tx.init(params),
      step=jnp.zeros((), jnp.int32),
      key=key,
      apply_fn=apply_fn,
      tx=tx,
    )

  @keywords.answered(gradients='grads')
  def apply_gradients(self, grads: interfaces.ArrayTree) -> 'TrainState':
    """One step of the optimizer against the gradients.

    Raises:
      AssertionError: if they are no tree like the parameters.
    """
    chex.assert_trees_all_equal_shapes(grads, self.params)
    updates, opt_state = self.tx.update(grads, self.opt_state, self.params)
    return self.replace(
      params=optax.apply_updates(self.params, updates),
      opt_state=opt_state,
      step=self.step + 1,
    )

  def replace(self, **changes: Any) -> 'TrainState':
    """A copy with other fields, e.g. `replace(network_state=statistics)`.

    Raises:
      TypeError: for what is no field; says which is meant.
    """
    fields = [field.name for field in dataclasses.fields(self)]
    keywords.check('TrainState.replace', changes, fields, _ELSEWHERE)
    return dataclasses.replace(self, **changes)
