# SPDX-License-Identifier: Apache-2.0
"""Runs beside each other: a metric against what it took to reach it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import figure


class Curve(NamedTuple):
  """One run.

  Attributes:
    label: what it is called.
    values: the metric, `[n]`.
    costs: `{axis: [n]}`, what had been spent by then.
  """

  label: str
  values: np.ndarray
  costs: Mapping[str, np.ndarray]


def draw(
  curves: Sequence[Curve],
  metric: str,
  levels: Mapping[str, float],
  path: pathlib.Path,
) -> None:
  """Draws one panel a cost that all runs know, the metric upwards.

  Args:
    curves: the runs.
    metric: its name.
    levels: `{'chance' or 'ceiling': value}`, drawn as lines.
    path: the PNG to write.
  """
  known = [
    axis
    for axis in curves[0].costs
    if all(axis in curve.costs for curve in curves)
  ]
  canvas = figure.Figure(
    figsize=(1 + 3.7 * len(known), 4), layout='constrained'
  )
  panels = canvas.subplots(1, len(known), sharey=True, squeeze=False)[0]
  for axes, axis in zip(panels, known, strict=True):
    for number, curve in enumerate(curves):
      axes.plot(
        curve.costs[axis],
        curve.values,
        'o-',
        color=f'C{number % 10}',
        markersize=3.5,
        linewidth=1.5,
        label=curve.label,
      )
    for level, value in levels.items():
      axes.axhline(
        value,
        color='0.45',
        linestyle='-.' if level == 'ceiling' else ':',
        linewidth=1.2,
        label=f'{level} {value:.3g}',
        zorder=0,
      )
    spent = np.concatenate([curve.costs[axis] for curve in curves])
    if np.max(spent) > 30 * np.min(spent) > 0:
      axes.set_xscale('log')
    else:
      axes.set_xlim(left=0)
    axes.set_xlabel(axis)
    axes.spines[['top', 'right']].set_visible(False)
  panels[0].set_ylabel(metric)
  handles, labels = panels[0].get_legend_handles_labels()
  canvas.legend(
    handles,
    labels,
    loc='outside lower center',
    ncols=min(len(labels), 4),
    frameon=False,
    fontsize=8,
  )
  canvas.savefig(path, dpi=150)
