# SPDX-License-Identifier: Apache-2.0
"""Any cell with noise in its state, and the density of what it draws."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, noise

_OF_THE_STATE = np.uint32(0x6E6F6973)  # 'nois': keys of the cell are others


def noisy(
  cell: interfaces.Cell,
  std: float,
  *,
  emit: Callable[[interfaces.ArrayTree], jax.Array] | None = None,
) -> interfaces.Cell:
  """The cell with a Gaussian drawn upon its new state at every step.

    m_t = the cell's own new state, from s_{t-1} and the inputs
    s_t = m_t + std xi_t,  xi ~ N(0, 1) for each number of each float leaf
    log p(s_t | s_{t-1}) = -sum (s_t - m_t)^2 / (2 std^2) + constant

  So `score_function` learns on it, which compares what trials have drawn with
  what became of them: node perturbation, through any step. Rules that
  differentiate take the draws as given.

  Integers and booleans of the state stay as the cell makes them, and the
  initial state is the cell's own. What a cell emits has to come out of what was
  drawn: where the step emits a leaf of its new state as it is, as leaky, gated
  and spiking units do, the noisy cell emits that leaf as drawn. Any other
  emission is drawn, too, with a noise of its own and its share in the density,
  unless `emit` makes it of the drawn state.

  The score is without bias where m_t is continuous in the parameters. Where
  spikes and other integers jump with them, slopes of surrogates stand for the
  jumps. A cell that draws already goes on to do so; the density is then that of
  std xi, its own draws given.

  Args:
    cell: any cell.
    std: standard deviation of the noise, 0 or more; 0 is the cell itself.
    emit: `state -> emission [B, N]`, the emission as a function of the new
      state alone, for a cell whose emission is one.

  Returns:
    A Cell of the same parameters, constants and state, with a `log_density`.

  Raises:
    ValueError: for a std that is negative or not finite.
    TypeError: when it steps, if the state has a complex leaf.

  Source: R. J. Williams, Machine Learning 8, 229 (1992), the Gaussian units of
  section 6; I. R. Fiete and H. S. Seung, PRL 97, 048104 (2006), for noise in
  the nodes.
  """
  if not 0 <= std < math.inf:
    raise ValueError(f'std={std}: must be a finite number, 0 or more.')
  if not std:
    return cell

  def proposal(params, constants, state, keys, inputs):
    """What is drawn about, what is added to it, and the step of the two.

    Returns:
      Leaves that are drawn, `[B, ...]`; their noise; and `leaves -> (emission,
      state)`, the step with these in their place.
    """
    emission, after = cell.step(params, constants, state, keys, inputs)
    leaves, tree = jax.tree.flatten(after)
    # The very array: that a leaf and an emission are equal is not seen here.
    places = [i for i, leaf in enumerate(leaves) if leaf is emission]
    if emit is None and not places:
      leaves = [*leaves, emission]
    drawn = [i for i, leaf in enumerate(leaves) if _is_drawn(leaf)]
    xi = _normal(keys, [leaves[i] for i in drawn])

    def after_draw(values):
      whole = [*leaves]
      for i, value in zip(drawn, values, strict=True):
        whole[i] = value
      state = tree.unflatten(whole[: tree.num_leaves])
      if emit is not None:
        return emit(state), state
      return whole[places[0] if places else -1], state

    return [leaves[i] for i in drawn], [std * x for x in xi], after_draw

  def step(params, constants, state, keys, inputs):
    means, kicks, after_draw = proposal(params, constants, state, keys, inputs)
    return after_draw([m + kick for m, kick in zip(means, kicks, strict=True)])

  def log_density(params, constants, state, keys, inputs):
    means, kicks, _ = proposal(params, constants, state, keys, inputs)
    total = jnp.zeros(keys.shape)
    for mean, kick in zip(means, kicks, strict=True):
      drawn = jax.lax.stop_gradient(mean + kick)
      z = (drawn - mean).astype(total.dtype) / std
      total -= jnp.sum(z**2, axis=tuple(range(1, z.ndim))) / 2
    return total

  return cell._replace(step=step, log_density=log_density)


def _is_drawn(leaf: jax.Array) -> bool:
  """Whether a leaf is float.

  Raises:
    TypeError: if it is complex.
  """
  if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
    raise TypeError(
      f'a leaf of the state is {leaf.dtype}, and noisy draws real numbers: '
      'keep the real and the imaginary part as two leaves of the state.'
    )
  return jnp.issubdtype(leaf.dtype, jnp.floating)


def _normal(keys: jax.Array, leaves: list[jax.Array]) -> list[jax.Array]:
  """Normal numbers like the leaves `[B, ...]`, of keys `[B]`."""
  folded = noise.fold_in(keys, jnp.full(keys.shape, _OF_THE_STATE))
  sizes = [math.prod(leaf.shape[1:]) for leaf in leaves]
  parts = jnp.split(noise.normal(folded, sum(sizes)), np.cumsum(sizes)[:-1], 1)
  return [
    part.reshape(leaf.shape).astype(leaf.dtype)
    for part, leaf in zip(parts, leaves, strict=True)
  ]
