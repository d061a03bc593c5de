# SPDX-License-Identifier: Apache-2.0
"""Probes: inputs, states and traces, and outputs of chosen trials over time."""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib import figure, ticker

_MAX_TRIALS, _MAX_INSIDE, _MAX_LINES = 4, 4, 64


def draw(recorded: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
  """Draws one column a trial and one row a quantity, time to the right.

  Of many trials, quantities or components the first are drawn; all of them are
  in the npz. Steps that are asked for are marked above the outputs.

  Args:
    recorded: the arrays of `experiments.judge.probes.write`.
    path: the PNG to write.
  """
  inside = [k for k in recorded if k.startswith('inside/')]
  # Counters, and what is never set, say nothing in a picture.
  inside = [k for k in inside if recorded[k].ndim > 2 and recorded[k].any()]
  inside = inside[:_MAX_INSIDE]
  rows = ['inputs', *inside, 'outputs']
  shown = min(len(recorded['number']), _MAX_TRIALS)
  canvas = figure.Figure(
    figsize=(1.6 + 3 * shown, 0.8 + 1.6 * len(rows)), layout='constrained'
  )
  axes = canvas.subplots(len(rows), shown, squeeze=False)
  for i, name in enumerate(rows):
    values = _lines(recorded[name][:, :shown])
    limit = float(np.max(np.abs(values))) or 1.0
    for j in range(shown):
      image = axes[i, j].imshow(
        values[:, j].T,
        aspect='auto',
        interpolation='nearest',
        cmap='RdBu_r',
        vmin=-limit,
        vmax=limit,
      )
      axes[i, j].tick_params(labelsize=7)
      axes[i, j].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    canvas.colorbar(image, ax=axes[i].tolist(), shrink=0.9).ax.tick_params(
      labelsize=7
    )
    total = int(np.prod(recorded[name].shape[2:]))
    note = f'\n(first {_MAX_LINES} of {total})' if total > _MAX_LINES else ''
    axes[i, 0].set_ylabel(name.removeprefix('inside/') + note, fontsize=8)
  for j in range(shown):
    axes[0, j].set_title(f'held-out trial {recorded["number"][j]}', fontsize=9)
    scored = np.flatnonzero(recorded['mask'][:, j])
    axes[-1, j].plot(
      scored, np.full(scored.shape, -0.5), 'kv', ms=3, clip_on=False
    )
    axes[-1, j].set_xlabel('step', fontsize=8)
    if inside and len(recorded[inside[0]]) != len(recorded['mask']):
      axes[-2, j].set_xlabel('free sweep', fontsize=8)
  canvas.savefig(path, dpi=130)


def _lines(values: np.ndarray) -> np.ndarray:
  """Values `[S, n, ...]` as floats `[S, n, K]`, the first components."""
  flat = values.reshape(*values.shape[:2], -1)[..., :_MAX_LINES]
  return flat.astype(float)
