# SPDX-License-Identifier: Apache-2.0
"""The learning curve: what is descended, and what it is worth held out."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure, ticker

from bionet_learners import base as learners
from bionet_tasks import base as tasks
from experiments.judge import measures, scoring


def arguments(judged: scoring.Judged):
  """Every run has one."""
  return judged.rows, judged.run.first.task.spec, judged.run.borders


def draw(
  rows: Sequence[Mapping],
  spec: tasks.TaskSpec,
  stages: Sequence[int],
  path: pathlib.Path,
) -> None:
  """Draws loss, main metric and gradient norm against updates.

  Of a population the best and the mean are drawn, of restarts the mean of those
  that learn, and held out the pick; the norm where a gradient is.
  Chance and ceiling are drawn where the task knows them. The held-out loss is
  shown where the task knows the chance of what the rule descends.

  Args:
    rows: rows of metrics.jsonl.
    spec: the task's spec.
    stages: the updates at which a new stage begins.
    path: the PNG to write.
  """
  norms = any('gradient_norm' in row for row in rows)
  population = any('loss_mean' in row for row in rows)
  canvas = figure.Figure(
    figsize=(12.6 if norms else 9, 4.2), layout='constrained'
  )
  loss_axes, metric_axes, *norm_axes = canvas.subplots(1, 3 if norms else 2)
  trained = [row for row in rows if row['split'] == 'train']
  loss = learners.objective(trained[0] if trained else ()) or 'loss'
  splits = ('train', 'eval') if loss in spec.chance else ('train',)
  training = 'training'
  if population:
    training = 'best of the population'
  elif any('restarts' in row for row in rows):
    training = 'mean of the copies that learn'
  _curves(loss_axes, rows, loss, splits, training)
  _curves(metric_axes, rows, spec.metric, ('train', 'eval'), training)
  if population:
    _population(loss_axes, rows)
  known = measures.of(spec)
  for axes, name in ((loss_axes, loss), (metric_axes, spec.metric)):
    for level, values, style in (
      ('ceiling', spec.ceiling, '-.'),
      ('chance', spec.chance, ':'),
    ):
      if name in values:
        axes.axhline(
          values[name],
          color='0.45',
          linestyle=style,
          linewidth=1.2,
          label=f'{level} {values[name]:.3g}',
        )
    words = name.replace('_', ' ')
    unit = known[name].unit if name in known else ''
    axes.set_ylabel(
      words
      + (' descended' if axes is loss_axes else '')
      + (f' ({unit})' if unit else '')
    )
  for axes in norm_axes:
    _curves(axes, rows, 'gradient_norm', ('train',), training)
    axes.set_ylabel('norm of the gradient')
    drawn = [row['gradient_norm'] for row in rows if 'gradient_norm' in row]
    if max(drawn) > 10 * min(drawn):  # they explode and vanish by decades
      axes.set_yscale('log')
  for axes in (loss_axes, metric_axes, *norm_axes):
    for i, stage in enumerate(stages):
      label = None if i else 'next stage'
      axes.axvline(stage, color='0.85', linewidth=1, zorder=0, label=label)
    axes.set_xlabel('updates')
    axes.set_xlim(left=0)
    axes.spines[['top', 'right']].set_visible(False)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:  # below: curves fill the axes
      axes.legend(
        loc='upper center',
        bbox_to_anchor=(0.5, -0.16),
        ncols=2,
        frameon=False,
        fontsize=8,
      )
  evaluated = [row for row in rows if row['split'] == 'eval']
  if evaluated:
    last = evaluated[-1]
    canvas.suptitle(
      f'{spec.name}: held-out {spec.metric} {last[spec.metric]:.4f} '
      f'after {last["step"]} updates',
      fontsize=10,
    )
  canvas.savefig(path, dpi=150)


def _curves(axes, rows, name, splits, training) -> None:
  for split, label, color, marker in (
    ('train', training, 'tab:blue', None),
    ('eval', 'held out', 'tab:orange', 'o'),
  ):
    points = _points(rows, split, name)
    if split in splits and points:
      axes.plot(
        *zip(*points, strict=True),
        color=color,
        marker=marker,
        markersize=3.5,
        label=label,
      )


def _population(axes, rows) -> None:
  """The mean loss of the population, and one standard deviation of it."""
  steps, means = zip(*_points(rows, 'train', 'loss_mean'), strict=True)
  stds = np.array([std for _, std in _points(rows, 'train', 'loss_std')])
  axes.plot(steps, means, color='tab:green', label='mean of the population')
  axes.fill_between(
    steps,
    means - stds,
    means + stds,
    color='tab:green',
    alpha=0.15,
    linewidth=0,
    label='its standard deviation',
  )


def _points(rows, split, name) -> list[tuple[int, float]]:
  return [
    (row['step'], row[name])
    for row in rows
    if row['split'] == split and name in row
  ]
