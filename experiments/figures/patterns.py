# SPDX-License-Identifier: Apache-2.0
"""Patterns of fates: replicate by cell, sorted, and the most frequent ones."""

import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from matplotlib import colors, figure, patches, ticker

from bionet_core import surrogate
from bionet_tasks.population import cell_fate
from experiments.judge import scoring

FATES = colors.ListedColormap(['#e8e4d8', '#1f4e79'])  # fate 0, fate 1
_MAX_ROWS = 600  # of a heat map: more would be thinner than a pixel
_ABREAST = 5  # tissues beside each other


def arguments(judged: scoring.Judged):
  """Of tasks that describe their answers by patterns."""
  described = judged.evaluations['held_out'].get('described', {})
  if cell_fate.PATTERNS not in described.get('trained', {}):
    return None
  return (
    judged.untrained_outputs[-1],
    judged.outputs[-1],
    described['untrained'][cell_fate.PATTERNS],
    described['trained'][cell_fate.PATTERNS],
  )


def draw(
  untrained: jax.Array,
  trained: jax.Array,
  untrained_frequent: Mapping[str, float],
  trained_frequent: Mapping[str, float],
  path: pathlib.Path,
) -> None:
  """Draws the fates of all replicates before and after, and two tables.

  Replicates are sorted by how frequent their pattern is, the most frequent on
  top, so that a tissue that always makes the same pattern shows clean columns.
  Where the cells lie in several rows, the tables show the tissues as they lie.

  Args:
    untrained: final states float `[R, N]` of the untrained tissue.
    trained: those of the trained one.
    untrained_frequent: its most frequent patterns and their shares.
    trained_frequent: those of the trained one.
    path: the PNG to write.
  """
  rows, columns = np.shape(cells_of(next(iter(trained_frequent))))
  tables = trained_frequent, untrained_frequent
  draw_table, lines = _draw_table, [len(table) for table in tables]
  if rows > 1:
    draw_table, lines = _draw_tissues, [-(-n // _ABREAST) for n in lines]
  canvas = figure.Figure(figsize=(9.5, 5), layout='constrained')
  axes_of = canvas.subplot_mosaic(
    [['before', 'after', 'top'], ['before', 'after', 'bottom']],
    width_ratios=[1, 1, 1.3],
    height_ratios=[number + 1 for number in lines],
  )
  before, after = axes_of['before'], axes_of['after']
  for axes, states, title in (
    (before, untrained, 'untrained'),
    (after, trained, 'trained'),
  ):
    fates = sort(np.asarray(surrogate.fates(states)))
    num_replicates, num_cells = fates.shape
    shown = np.linspace(0, num_replicates - 1, min(_MAX_ROWS, num_replicates))
    axes.imshow(
      fates[shown.astype(int)],
      aspect='auto',
      interpolation='nearest',
      cmap=FATES,
      vmin=0,
      vmax=1,
      extent=(0.5, num_cells + 0.5, num_replicates, 0),
    )
    _separate(axes, num_cells, columns)
    distinct = len(np.unique(fates, axis=0))
    noun = 'pattern' if distinct == 1 else 'patterns'
    axes.set_title(f'{title}: {distinct} {noun}', fontsize=10)
    axes.set_xlabel('cell' if rows == 1 else 'cell, row by row')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(10, integer=True))
  before.set_ylabel('replicate, sorted by its pattern')
  after.tick_params(labelleft=False)
  draw_table(axes_of['top'], trained_frequent, 'trained')
  draw_table(axes_of['bottom'], untrained_frequent, 'untrained')
  handles = [
    patches.Patch(color=FATES(fate), label=f'fate {fate}') for fate in (0, 1)
  ]
  canvas.legend(
    handles=handles,
    loc='outside lower center',
    ncols=2,
    frameon=False,
    fontsize=8,
  )
  canvas.savefig(path, dpi=150)


def cells_of(pattern: str) -> np.ndarray:
  """The fates of a pattern as they lie in its tissue, int `[rows, columns]`."""
  return np.array([[int(fate) for fate in row] for row in pattern.split('/')])


def sort(fates: np.ndarray) -> np.ndarray:
  """Fates `[R, N]`, the replicates of the most frequent pattern first."""
  _, which, counts = np.unique(
    fates, axis=0, return_inverse=True, return_counts=True
  )
  which = which.reshape(-1)
  return fates[np.lexsort((which, -counts[which]))]


def _draw_table(axes, frequent: Mapping[str, float], title: str) -> None:
  fates = np.concatenate([cells_of(pattern) for pattern in frequent])
  num_rows, num_cells = fates.shape
  axes.imshow(fates, cmap=FATES, vmin=0, vmax=1, aspect='auto')
  for row in range(num_rows):
    axes.axhline(row + 0.5, color='white', linewidth=4)
  _separate(axes, num_cells, num_cells, start=-0.5)
  axes.set_xticks([])
  axes.set_yticks(
    range(num_rows), list(frequent), family='monospace', fontsize=9
  )
  shares = axes.secondary_yaxis('right')
  shares.set_yticks(
    range(num_rows), [f'{s:.2%}' for s in frequent.values()], fontsize=9
  )
  for side in (axes, shares):
    side.tick_params(length=0)
    side.spines[:].set_visible(False)
  axes.set_title(f'most frequent, {title}', fontsize=10)


def _draw_tissues(axes, frequent: Mapping[str, float], title: str) -> None:
  """Each pattern as the tissue that it is, its share below."""
  for number, (pattern, share) in enumerate(frequent.items()):
    fates = cells_of(pattern)
    rows, columns = fates.shape
    line, place = divmod(number, _ABREAST)
    left, top = 1.25 * columns * place, (rows + 0.45 * columns) * line
    axes.imshow(
      fates,
      cmap=FATES,
      vmin=0,
      vmax=1,
      extent=(left, left + columns, top + rows, top),
    )
    for row in range(1, rows):
      axes.plot([left, left + columns], [top + row] * 2, 'w', linewidth=1)
    for column in range(1, columns):
      axes.plot([left + column] * 2, [top, top + rows], 'w', linewidth=1)
    axes.text(
      left + columns / 2,
      top + rows + 0.06 * columns,
      f'{share:.2%}',
      ha='center',
      va='top',
      fontsize=7,
    )
  lines = -(-len(frequent) // _ABREAST)
  axes.set_xlim(0, 1.25 * columns * _ABREAST)
  axes.set_ylim((rows + 0.45 * columns) * lines, -0.1)
  axes.set_axis_off()
  axes.set_title(f'most frequent, {title}', fontsize=10)


def _separate(axes, num_cells: int, columns: int, start: float = 0.5) -> None:
  """White lines between cells, and wider ones between rows of a tissue."""
  for cell in range(1, num_cells):
    width = 1.5 if cell % columns else 4
    axes.axvline(start + cell, color='white', linewidth=width)
