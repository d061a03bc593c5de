# SPDX-License-Identifier: Apache-2.0
"""Spikes: who fires when, and the membranes of a few units."""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib import figure

_MAX_TRIALS, _TRACES = 3, 4
_SPIKES, _VOLTAGE = 'inside/state.spikes', 'inside/state.voltage'


def has_spikes(recorded: Mapping[str, np.ndarray]) -> bool:
  """Whether the recorded cell is one layer of spiking units."""
  return _SPIKES in recorded and _VOLTAGE in recorded


def draw(recorded: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
  """Draws, a column a trial: inputs, a raster of the units, four membranes.

  The membranes are those of the units that fire most in the drawn trials, in
  units of the threshold at rest, dots where they fire. Shaded steps are asked.

  Args:
    recorded: the arrays of `experiments.probes.write` of a spiking cell.
    path: the PNG to write.
  """
  shown = min(len(recorded['number']), _MAX_TRIALS)
  inputs, fired, voltage = (
    np.asarray(recorded[name])[:, :shown]
    for name in ('inputs', _SPIKES, _VOLTAGE)
  )
  busiest = np.argsort(-fired.sum(axis=(0, 1)), kind='stable')[:_TRACES]
  canvas = figure.Figure(figsize=(1 + 4 * shown, 7), layout='constrained')
  axes = canvas.subplots(
    3, shown, squeeze=False, sharex=True, height_ratios=(1, 2, 2)
  )
  for j in range(shown):
    for row, values, name in ((0, inputs, 'input'), (1, fired, 'unit')):
      steps, units = np.nonzero(values[:, j])
      axes[row, j].plot(steps, units, '|', color='0.2', ms=2.5, mew=0.7)
      axes[row, j].set_ylim(-1, values.shape[-1])
      axes[row, j].set_ylabel(name)
    for place, unit in enumerate(busiest):
      trace = voltage[:, j, unit] + 2.5 * place  # one above the other
      axes[2, j].plot(trace, linewidth=0.9, label=f'unit {unit}')
      steps = np.flatnonzero(fired[:, j, unit])
      axes[2, j].plot(steps, trace[steps], 'k.', ms=3)
    axes[2, j].set_ylabel('membrane / threshold, shifted')
    axes[2, j].set_xlabel('step')
    asked = np.flatnonzero(recorded['mask'][:, j])
    for row in axes[:, j]:
      if len(asked):
        row.axvspan(asked[0] - 0.5, asked[-1] + 0.5, color='gold', alpha=0.2)
      row.spines[['top', 'right']].set_visible(False)
    rate = fired[:, j].mean()
    axes[0, j].set_title(
      f'held-out trial {recorded["number"][j]}: {rate:.3f} spikes a step',
      fontsize=9,
    )
  axes[2, 0].legend(frameon=False, fontsize=7, loc='upper left')
  canvas.savefig(path, dpi=130)
