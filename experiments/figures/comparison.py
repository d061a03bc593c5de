# SPDX-License-Identifier: Apache-2.0
"""Runs beside each other: metrics against what it took to reach them."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib import figure, ticker

from experiments.judge import comparison


def draw(
  title: str, compared: Sequence[comparison.Compared], path: pathlib.Path
) -> None:
  """Draws a row a metric, a panel a cost that all runs know, metrics upwards.

  Of runs that differ by seed alone the mean is drawn, and the interval of the
  mean as a band, as far as the runs themselves reach.
  The ceiling is always in the picture. Chance is where it is not so far off
  that the curves would be pressed flat; else the margin says that it is beyond.

  Args:
    title: what the runs learned.
    compared: the metrics, the first on top.
    path: the PNG to write.
  """
  curves = compared[0].curves
  known = [
    axis
    for axis in curves[0].costs
    if all(axis in curve.costs for curve in curves)
  ]
  rows = len(compared)
  canvas = figure.Figure(
    figsize=(1.5 + 3.7 * len(known), 1 + 3 * rows), layout='constrained'
  )
  canvas.suptitle(title, fontsize=10)
  panels = canvas.subplots(
    rows, len(known), sharex='col', sharey='row', squeeze=False
  )
  for row, entry in zip(panels, compared, strict=True):
    for axes, axis in zip(row, known, strict=True):
      _draw_panel(axes, axis, entry)
    row[0].set_ylabel(entry.metric)
    far = _beyond(entry)
    for level, value in entry.levels.items():
      row[-1].annotate(
        f'{level}\n{value:.3g}' + ('\nbeyond' if level in far else ''),
        xy=(1.02, far.get(level, value)),
        xycoords=('axes fraction', 'axes fraction' if level in far else 'data'),
        va='center',
        fontsize=8,
        color='0.35',
      )
  for axes, axis in zip(panels[-1], known, strict=True):
    axes.set_xlabel(axis)
  handles, labels = panels[0, 0].get_legend_handles_labels()
  canvas.legend(
    handles[: len(curves)],
    labels[: len(curves)],
    loc='outside lower center',
    ncols=min(len(curves), 4),
    frameon=False,
    fontsize=8,
  )
  canvas.savefig(path, dpi=150)


def _shown(entry: comparison.Compared) -> np.ndarray:
  """Every value of every run; of several runs, the extremes."""
  return np.concatenate(
    [
      values
      for curve in entry.curves
      for values in (curve.values, *(curve.extremes or ()))
    ]
  )


def _beyond(entry: comparison.Compared) -> dict[str, float]:
  """Levels too far off to be drawn: `{level: 0 below, 1 above}`."""
  shown = _shown(entry)
  shown = np.append(shown, entry.levels.get('ceiling', shown[0]))
  low, high = np.nanmin(shown), np.nanmax(shown)
  span = high - low or 1.0
  return {
    level: float(value > high)
    for level, value in entry.levels.items()
    if not low - span <= value <= high + span
  }


def _draw_panel(axes, axis: str, entry: comparison.Compared) -> None:
  """All runs' values of a metric against one cost."""
  for number, curve in enumerate(entry.curves):
    axes.plot(
      curve.costs[axis],
      curve.values,
      'o-',
      color=f'C{number % 10}',
      markersize=3.5,
      linewidth=1.5,
      label=curve.label,
    )
    if curve.interval is not None:
      axes.fill_between(
        curve.costs[axis],
        *curve.interval,
        color=f'C{number % 10}',
        alpha=0.2,
        linewidth=0,
      )
  far = _beyond(entry)
  for level, value in entry.levels.items():
    if level in far:
      continue
    axes.axhline(
      value,
      color='0.45',
      linestyle='-.' if level == 'ceiling' else ':',
      linewidth=1.2,
      label=f'{level} {value:.3g}',
      zorder=0,
    )
  spent = np.concatenate([curve.costs[axis] for curve in entry.curves])
  least = np.min(spent[spent > 0], initial=np.max(spent))
  if np.max(spent) > 30 * least:  # linear from 0 to the first cost
    axes.set_xscale('symlog', linthresh=least)
  axes.set_xlim(left=0)
  if any(curve.interval is not None for curve in entry.curves):
    # The interval of few seeds is wide, and would press the curves flat.
    near = [value for level, value in entry.levels.items() if level not in far]
    drawn = np.append(_shown(entry), near)
    margin = 0.05 * (np.max(drawn) - np.min(drawn) or 1.0)
    axes.set_ylim(np.min(drawn) - margin, np.max(drawn) + margin)
  if np.max(spent) >= 1000:
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  axes.spines[['top', 'right']].set_visible(False)
