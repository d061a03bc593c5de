# SPDX-License-Identifier: Apache-2.0
"""Spikes: who fires when, and what goes on in a few units."""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib import figure

_MAX_TRIALS, _CLOSELY = 3, 4
_MEMBRANE = ('spikes', 'voltage', 'adaptation')


def has_spikes(recorded: Mapping[str, np.ndarray]) -> bool:
  """Whether the recorded cell is one layer of spiking units."""
  return all(len(_of(recorded, name)) == 1 for name in _MEMBRANE)


def _of(recorded: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
  """What is recorded of membranes; a rule may keep more in a state."""
  return [
    leaf
    for where, leaf in recorded.items()
    if where.startswith('inside/state.') and where.endswith(f'.{name}')
  ]


def draw(recorded: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
  """Draws, a column a trial: inputs, a raster of the units, four units closely.

  These are the ones of each quarter of the units that fire most in the drawn
  trials: their membranes, one above the other, each with its threshold at rest
  (dotted) and dots where it fires; the leaky count of their spikes, which lifts
  the threshold of those that adapt; and the learning signals that a rule sends
  them, if it does. Shaded steps are asked.

  Args:
    recorded: the arrays of `experiments.judge.probes.write` of a spiking cell.
    path: the PNG to write.
  """
  shown = min(len(recorded['number']), _MAX_TRIALS)
  inputs = np.asarray(recorded['inputs'])[:, :shown]
  fired, voltage, adaptation = (
    np.asarray(_of(recorded, name)[0])[:, :shown] for name in _MEMBRANE
  )
  more = {
    'spikes counted': adaptation,
    'learning signal': recorded.get('signals'),
  }
  more = {
    name: values[:, :shown]
    for name, values in more.items()
    if values is not None and np.any(values)
  }
  count = fired.sum(axis=(0, 1))
  quarters = np.array_split(np.arange(len(count)), min(len(count), _CLOSELY))
  busiest = [int(part[np.argmax(count[part])]) for part in quarters]
  apart = 1.05 * np.max(np.ptp(voltage[:, :, busiest], axis=(0, 1)))
  heights = (1.3, 2.2, 2.2, *[1.2] * len(more))
  canvas = figure.Figure(
    figsize=(1 + 4.2 * shown, 1 + 1.1 * sum(heights)), layout='constrained'
  )
  axes = canvas.subplots(
    len(heights),
    shown,
    squeeze=False,
    sharex=True,
    sharey='row',
    height_ratios=heights,
  )
  for j in range(shown):
    for row, values in ((0, inputs), (1, fired)):
      steps, units = np.nonzero(values[:, j])
      axes[row, j].plot(steps, units, '|', color='0.2', ms=2.5, mew=0.7)
      axes[row, j].set_ylim(-1, values.shape[-1])
    for place, unit in enumerate(busiest):
      trace = voltage[:, j, unit] + apart * place
      (line,) = axes[2, j].plot(trace, linewidth=0.8, label=f'unit {unit}')
      steps = np.flatnonzero(fired[:, j, unit])
      axes[2, j].plot(steps, trace[steps], 'k.', ms=1.8)
      axes[2, j].axhline(
        apart * place + 1, color=line.get_color(), linestyle=':', linewidth=0.7
      )
    axes[2, j].set_yticks([])
    for row, values in enumerate(more.values(), start=3):
      axes[row, j].plot(values[:, j, busiest], linewidth=0.9)
    axes[-1, j].set_xlabel('step')
    scored = np.flatnonzero(recorded['mask'][:, j])
    for row in axes[:, j]:
      if len(scored):
        row.axvspan(scored[0] - 0.5, scored[-1] + 0.5, color='gold', alpha=0.2)
      row.spines[['top', 'right']].set_visible(False)
    rate = fired[:, j].mean()
    axes[0, j].set_title(
      f'held-out trial {recorded["number"][j]}: {rate:.3f} spikes a step',
      fontsize=9,
    )
  names = ('input', 'unit', 'membrane, shifted', *more)
  for name, row in zip(names, axes[:, 0], strict=True):
    row.set_ylabel(name)
  canvas.align_ylabels(axes[:, 0])
  canvas.legend(
    *axes[2, 0].get_legend_handles_labels(),
    loc='outside lower center',
    ncols=_CLOSELY,
    frameon=False,
    fontsize=8,
  )
  canvas.savefig(path, dpi=130)
