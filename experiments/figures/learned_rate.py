# SPDX-License-Identifier: Apache-2.0
"""The learned rate of a tissue: what a cell makes of its neighbours' mean."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import figure

from bionet_core import interfaces, unroll
from experiments.figures import patterns
from experiments.judge import scoring

_MEANS = np.linspace(0, 1, 201, dtype=np.float32)


def arguments(judged: scoring.Judged):
  """Of tissues: cells of inputs (dt, sigma) that rest while both are 0."""
  cell = judged.run.first.dynamics
  if patterns.arguments(judged) is None or not _is_tissue(cell, judged):
    return None
  states = judged.state, judged.untrained
  learned, initial = (
    np.asarray(rate(cell, s.params, s.constants, judged.outputs.shape[-1]))
    for s in states
  )
  return _MEANS, learned, initial


def rate(
  cell: interfaces.Cell,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  num_cells: int,
  means: np.ndarray = _MEANS,
) -> jax.Array:
  """The rate f(m) of a tissue, whatever is inside it.

    f(m) = d s_i(t + dt) / d dt at sigma = 0,  s_i = .5, all others m

  in the first cell i that is not pinned.

  Args:
    cell: the tissue, of three cells or more.
    params: its parameters.
    constants: its constants.
    num_cells: N.
    means: where to take it, float `[M]`.
  """
  free = int(np.argmax(_still(cell, params, constants, num_cells)))
  state = jnp.broadcast_to(means[:, None], (len(means), num_cells))
  state = state.at[:, free].set(0.5)
  keys = jax.random.split(unroll.seed_key(0), len(means))  # unused: sigma is 0

  def after(dt):
    inputs = jnp.stack([dt, jnp.zeros_like(dt)])
    inputs = jnp.broadcast_to(inputs, (len(means), 2))
    return cell.step(params, constants, state, keys, inputs)[1][:, free]

  # At 0 itself the square root of dt has no derivative.
  dt = jnp.asarray(1e-6, state.dtype)
  return jax.jit(lambda dt: jax.jvp(after, (dt,), (jnp.ones_like(dt),))[1])(dt)


def _still(cell, params, constants, num_cells: int) -> np.ndarray:
  """Which cells stay where they are while time rests: bool `[N]`.

  Those that are pinned at 0 do not; none does where a cell goes elsewhere.
  """
  state = jnp.linspace(0.2, 0.8, num_cells)
  keys = jax.random.split(jax.random.key(0), 1)
  step = jax.jit(cell.step)
  _, after = step(params, constants, state[None], keys, jnp.zeros((1, 2)))
  still = np.asarray(after[0] == state)
  return still & np.all(still | np.asarray(after[0] == 0))


def _is_tissue(cell, judged: scoring.Judged) -> bool:
  num_cells = judged.outputs.shape[-1]
  spec, learned = judged.run.first.task.spec, judged.state
  if not isinstance(cell, interfaces.Cell) or spec.input_shape != (2,):
    return False
  keys = jax.random.split(unroll.seed_key(0), 1)
  state = cell.initial_state(learned.constants, keys)
  if num_cells < 3 or not isinstance(state, jax.Array):
    return False
  if state.shape != (1, num_cells):
    return False
  still = _still(cell, learned.params, learned.constants, num_cells)
  return bool(np.any(still))


def draw(
  means: np.ndarray,
  learned: np.ndarray,
  initial: np.ndarray,
  path: pathlib.Path,
) -> None:
  """Draws the learned rate, that before training and lateral inhibition.

  On the left as they are; on the right each over its largest value, since what
  evolves is often many times faster than what it is compared with.

  Args:
    means: the neighbours' means m, `[M]`.
    learned: f(m), `[M]`, in states a unit of time.
    initial: that of the untrained network.
    path: the PNG to write.
  """
  curves = (
    (r'$-\tanh(5\,(m - .5))$', -np.tanh(5 * (means - 0.5)), 'tab:orange', ':'),
    ('untrained', initial, '0.55', '--'),
    ('learned', learned, 'tab:blue', '-'),
  )
  canvas = figure.Figure(figsize=(9, 3.9), layout='constrained')
  absolute, relative = canvas.subplots(1, 2)
  for label, values, color, style in curves:
    largest = np.max(np.abs(values)) or 1.0
    for axes, shown in ((absolute, values), (relative, values / largest)):
      axes.plot(means, shown, style, color=color, label=label, linewidth=1.8)
  absolute.set_ylabel('rate f(m)')
  relative.set_ylabel('f(m) / max |f|')
  for axes in (absolute, relative):
    axes.axhline(0, color='0.85', linewidth=1, zorder=0)
    axes.set_xlabel("mean state m of a cell's neighbours")
    axes.set_xlim(0, 1)
    axes.spines[['top', 'right']].set_visible(False)
  handles, labels = absolute.get_legend_handles_labels()
  canvas.legend(
    handles,
    labels,
    loc='outside lower center',
    ncols=len(labels),
    frameon=False,
    fontsize=8,
  )
  at = (0, len(means) // 2, -1)
  signs = ', '.join('+' if learned[i] > 0 else '\N{MINUS SIGN}' for i in at)
  canvas.suptitle(f'Learned rate: signs ({signs}) at m = 0, .5, 1', fontsize=10)
  canvas.savefig(path, dpi=150)
