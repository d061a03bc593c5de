# SPDX-License-Identifier: Apache-2.0
"""The learning curve: what is descended, and what it is worth held out."""

import pathlib
from collections.abc import Mapping, Sequence

from matplotlib import figure, ticker

from bionet_tasks import base as tasks


def draw(
  rows: Sequence[Mapping], spec: tasks.TaskSpec, path: pathlib.Path
) -> None:
  """Draws loss and main metric against updates.

  Chance and ceiling are drawn where the task knows them. The held-out loss is
  shown where the task knows the chance of its loss, since only then is it the
  quantity that the rule descends.

  Args:
    rows: rows of metrics.jsonl.
    spec: the task's spec.
    path: the PNG to write.
  """
  canvas = figure.Figure(figsize=(9, 3.6), layout='constrained')
  loss_axes, metric_axes = canvas.subplots(1, 2)
  splits = ('train', 'eval') if 'loss' in spec.chance else ('train',)
  _curves(loss_axes, rows, 'loss', splits)
  _curves(metric_axes, rows, spec.metric, ('train', 'eval'))
  for axes, name in ((loss_axes, 'loss'), (metric_axes, spec.metric)):
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
    axes.set_xlabel('updates')
    axes.set_xlim(left=0)
    axes.set_ylabel('loss descended' if name == 'loss' else name)
    axes.spines[['top', 'right']].set_visible(False)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
  last = [row for row in rows if row['split'] == 'eval'][-1]
  canvas.suptitle(
    f'{spec.name}: held-out {spec.metric} {last[spec.metric]:.4f} '
    f'after {last["step"]} updates',
    fontsize=10,
  )
  canvas.savefig(path, dpi=150)


def _curves(axes, rows, name, splits) -> None:
  for split, label, color, marker in (
    ('train', 'training', 'tab:blue', None),
    ('eval', 'held out', 'tab:orange', 'o'),
  ):
    points = [
      (row['step'], row[name])
      for row in rows
      if row['split'] == split and name in row
    ]
    if split in splits and points:
      axes.plot(
        *zip(*points, strict=True),
        color=color,
        marker=marker,
        markersize=3.5,
        label=label,
      )
