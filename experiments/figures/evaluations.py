# SPDX-License-Identifier: Apache-2.0
"""The main metric on every evaluation: untrained beside trained, as bars."""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib import figure

from bionet_tasks import base as tasks
from experiments.judge import scoring


def arguments(judged: scoring.Judged):
  """Of tasks with several evaluations; of one, the numbers say all."""
  if len(judged.evaluations) < 2:
    return None
  return judged.evaluations, judged.run.first.task.spec


def draw(
  evaluations: Mapping[str, Mapping], spec: tasks.TaskSpec, path: pathlib.Path
) -> None:
  """Draws a pair of bars an evaluation, each with its value above it.

  Args:
    evaluations: those of `Judged`.
    spec: names the main metric, its chance and its ceiling.
    path: the PNG to write.
  """
  places = np.arange(len(evaluations))
  canvas = figure.Figure(
    figsize=(2.4 + 1.5 * len(evaluations), 3.8), layout='constrained'
  )
  axes = canvas.subplots()
  for side, offset, color in (
    ('untrained', -0.2, '0.72'),
    ('trained', 0.2, 'tab:blue'),
  ):
    values = [content[side][spec.metric] for content in evaluations.values()]
    bars = axes.bar(places + offset, values, 0.36, color=color, label=side)
    behind = {'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.6}
    axes.bar_label(bars, fmt='%.3f', fontsize=8, padding=4, bbox=behind)
  for level, values, style in (
    ('ceiling', spec.ceiling, '-.'),
    ('chance', spec.chance, ':'),
  ):
    if spec.metric in values:
      axes.axhline(
        values[spec.metric],
        color='0.3',
        linestyle=style,
        linewidth=1.2,
        label=f'{level} {values[spec.metric]:.3g}',
        zorder=0,
      )
  names = [
    f'{name}\n{content["num_trials"]:,} trials'
    for name, content in evaluations.items()
  ]
  axes.set_xticks(places, names)
  axes.set_ylabel(spec.metric)
  axes.margins(y=0.12)
  axes.spines[['top', 'right']].set_visible(False)
  axes.set_title(f'{spec.name}: {spec.metric} on fresh trials', fontsize=10)
  canvas.legend(loc='outside lower center', ncols=4, frameon=False, fontsize=8)
  canvas.savefig(path, dpi=150)
