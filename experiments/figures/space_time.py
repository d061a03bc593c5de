# SPDX-License-Identifier: Apache-2.0
"""Space and time: how the cells of one tissue come to their fates."""

import pathlib

import jax.numpy as jnp
import numpy as np
from matplotlib import figure, ticker

from bionet_core import surrogate
from bionet_tasks.population import cell_fate
from experiments.figures import patterns
from experiments.judge import scoring

_LABEL = 'state (fate 1 from .5 on)'
_MOMENTS = 6  # of a tissue of several rows


def arguments(judged: scoring.Judged):
  """Of the runs that have patterns and whose inputs begin with dt.

  One replicate is taken, since all of them are tens of megabytes: the first
  that ends in the trained tissue's most frequent pattern.
  """
  has_patterns = patterns.arguments(judged) is not None
  if not has_patterns or judged.run.first.task.spec.input_shape != (2,):
    return None
  described = judged.evaluations['held_out']['described']['trained']
  frequent = max(
    described[cell_fate.PATTERNS].items(), key=lambda item: item[1]
  )
  cells = patterns.cells_of(frequent[0])
  wanted = cells.reshape(-1).astype(float)
  fates = np.asarray(surrogate.fates(judged.outputs[-1]))
  first = int(np.argmax(np.all(fates == wanted, axis=1)))
  return (
    np.asarray(judged.trials.inputs[:, first, 0]),
    np.asarray(judged.untrained_outputs[:, first]),
    np.asarray(judged.outputs[:, first]),
    first,
    len(cells),
  )


def draw(
  dts: np.ndarray,
  untrained: np.ndarray,
  trained: np.ndarray,
  replicate: int,
  rows: int,
  path: pathlib.Path,
) -> None:
  """Draws the states of all cells over time, before and after training.

  A single row of cells is drawn as a map of space and time; a third panel shows
  the trained tissue until its fates stand, where that is too soon to be seen in
  the whole. Several rows are drawn as they lie, at a few moments.

  Args:
    dts: time step of each step, `[T]`.
    untrained: states `[T, N]` of one replicate of the untrained tissue.
    trained: the same replicate, with the same noise, of the trained one.
    replicate: its number.
    rows: rows in which the cells lie.
    path: the PNG to write.
  """
  if rows > 1:
    canvas = _moments(dts, untrained, trained, rows)
  else:
    canvas = _maps(dts, untrained, trained)
  canvas.suptitle(
    f'Held-out replicate {replicate}: states over time, final fates beside',
    fontsize=10,
  )
  canvas.savefig(path, dpi=150)


def _maps(dts, untrained, trained) -> figure.Figure:
  """Space downwards, time to the right: a map for each tissue."""
  panels = [('untrained', untrained), ('trained', trained)]
  settled = settling(trained)
  shown = max(2 * settled, 10)
  if 4 * shown < len(trained):
    panels.append(('trained, the beginning', trained[:shown]))
  canvas = figure.Figure(
    figsize=(8.5, 0.6 + 2 * len(panels)), layout='constrained'
  )
  all_axes = canvas.subplots(len(panels), 1)
  for axes, (title, states) in zip(all_axes, panels, strict=True):
    num_steps, num_cells = states.shape
    image = axes.imshow(
      states.T,
      aspect='auto',
      interpolation='nearest',
      cmap='cividis',
      vmin=0,
      vmax=1,
      extent=(0, float(np.sum(dts[:num_steps])), num_cells + 0.5, 0.5),
    )
    fates = np.asarray(surrogate.fates(jnp.asarray(states[-1]))).astype(int)
    pattern = ''.join(map(str, fates))
    axes.set_title(f'{title}: {pattern}', fontsize=10)
    axes.set_ylabel('cell')
    axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    right = axes.secondary_yaxis('right')
    right.set_yticks(range(1, num_cells + 1), [str(fate) for fate in fates])
    right.tick_params(length=0, labelsize=8)
  all_axes[-1].set_xlabel(f'time (dt {np.max(dts):.3g})')
  canvas.colorbar(image, ax=all_axes.tolist(), label=_LABEL)
  return canvas


def moments(states: np.ndarray) -> list[int]:
  """Steps of `[T, N]` to be shown: most of them until the fates stand."""
  last = len(states) - 1
  stand = max(2 * settling(states), _MOMENTS - 2)
  until = np.linspace(0, min(stand, last), _MOMENTS - 1)
  return sorted({*until.round().astype(int).tolist(), last})


def _moments(dts, untrained, trained, rows: int) -> figure.Figure:
  """The tissues as they lie, one above the other, and the final fates."""
  steps = moments(trained)
  times = np.cumsum(dts)
  columns = trained.shape[1] // rows
  width, height = len(steps) + 1, 2 * rows / columns
  canvas = figure.Figure(
    figsize=(1.35 * width + 1, 1.35 * height + 1.2), layout='constrained'
  )
  all_axes = canvas.subplots(2, width)
  for line, title, states in (
    (all_axes[0], 'untrained', untrained),
    (all_axes[1], 'trained', trained),
  ):
    for axes, step in zip(line, steps, strict=False):
      image = axes.imshow(
        states[step].reshape(rows, columns), cmap='cividis', vmin=0, vmax=1
      )
      axes.set_title(f't = {times[step]:.3g}', fontsize=8)
    fates = np.asarray(surrogate.fates(jnp.asarray(states[-1])))
    line[-1].imshow(
      fates.reshape(rows, columns), cmap=patterns.FATES, vmin=0, vmax=1
    )
    line[-1].set_title('fates', fontsize=8)
    line[0].set_ylabel(title)
    for axes in line:
      axes.set_xticks([])
      axes.set_yticks([])
  canvas.colorbar(image, ax=all_axes.ravel().tolist(), label=_LABEL)
  return canvas


def settling(states: np.ndarray) -> int:
  """Steps after which the fates of states `[T, N]` never change again."""
  fates = np.asarray(surrogate.fates(jnp.asarray(states)))
  same = np.all(fates == fates[-1], axis=1)
  differs = np.flatnonzero(~same)
  return int(differs[-1]) + 1 if differs.size else 0
