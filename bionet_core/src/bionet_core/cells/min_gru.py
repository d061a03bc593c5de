# SPDX-License-Identifier: Apache-2.0
"""The minimal gated unit: gates that read the inputs alone."""

import haiku as hk
import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_core.cells import stack


class MinGRUCore(hk.RNNCore):
  """A GRU whose gate and candidate do not see the past.

    z_t = sigmoid(x_t W_z + b_z)
    a_t = x_t W_a + b_a
    h_t = (1 - z_t) h_{t-1} + z_t a_t

  The state is carried elementwise and nothing else, so per-unit traces are
  exact in one layer. Linear in h; layers and readout have to mix the units.

  Source: L. Feng et al., arXiv 2410.01201 (2024), without the logarithms that a
  parallel scan needs.
  """

  def __init__(
    self, hidden: int, update_bias: float = 0.0, name: str = 'min_gru'
  ):
    """The state is h, float `[B, hidden]`; b_z starts at update_bias."""
    super().__init__(name=name)
    self._hidden, self._update_bias = hidden, update_bias

  def __call__(self, inputs, prev_state):
    """One step; emits the state."""
    start = hk.initializers.Constant(self._update_bias)
    gate = jax.nn.sigmoid(
      hk.Linear(self._hidden, b_init=start, name='gate')(inputs)
    )
    candidate = hk.Linear(self._hidden, name='candidate')(inputs)
    state = (1 - gate) * prev_state + gate * candidate
    return state, state

  def initial_state(self, batch_size):
    """Zeros."""
    return jnp.zeros((batch_size, self._hidden))


def min_gru(
  spec: interfaces.Sizes,
  *,
  hidden: int = 128,
  num_layers: int = 1,
  update_bias: float = 0.0,
  readout: tuple[int, ...] = (),
) -> interfaces.Cell:
  """A minGRU with a readout of `spec.num_outputs`.

  Args:
    spec: sizes of the task.
    hidden: units of a layer.
    num_layers: layers, each driven by the one below.
    update_bias: where b_z starts. Far below 0 a unit forgets slowly at first:
      about exp(-update_bias) steps are remembered.
    readout: hidden sizes of a tanh MLP as the readout; none: linear.

  Raises:
    ValueError: for a size below 1.
  """
  stack.check_at_least_one(hidden=hidden, num_layers=num_layers)
  return stack.layered(
    lambda: MinGRUCore(hidden, update_bias),
    stack.mlp_readout(spec.num_outputs, readout),
    num_layers,
  )
