# SPDX-License-Identifier: Apache-2.0
"""Probes: what goes on in chosen trials, and what they answer."""

import pathlib
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from matplotlib import figure

from experiments.figures import panels

_MAX_TRIALS, _MAX_INSIDE, _MAX_LINES = 4, 4, 64

_WORDS = {
  'voltage': 'membrane potential',
  'spikes': 'spikes',
  'adaptation': 'adaptation',
  'filtered': 'filtered spikes',
  'hidden': 'hidden state',
  'cell': 'cell state',
  'real': 'real part',
  'imaginary': 'imaginary part',
  'rest': 'refractory steps',
  'count': 'spike count',
}
"""What state variables are called in words, the first to be drawn first."""


class Row(NamedTuple):
  """A quantity of all trials, which is a row of the picture.

  Attributes:
    label: its name in words.
    values: `[S, n, ...]`, over S steps or sweeps.
    over: what S counts, 'step' or 'sweep'.
    height: of its panels, to those of the others.
    draw: `(axes, values [S, ...], trial) -> None or the image drawn`.
  """

  label: str
  values: np.ndarray
  over: str
  height: float
  draw: Callable


def draw(recorded: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
  """Draws one column per trial and one row per quantity, time to the right.

  At the head of a column stand what was asked and what was answered. Classes
  are marked on the outputs at each step that is asked, the true one by a square
  and the predicted one by a dot; of values the targets are drawn beside the
  outputs. Where trials have a single step there is no axis of time: inputs are
  a strip or, if they make a square, a picture, and outputs are bars.

  Of many trials, quantities or components the first are drawn; all of them are
  in the npz. Counters, and what is never set, are left out.

  Args:
    recorded: the arrays of `experiments.judge.probes.write`.
    path: the PNG to write.
  """
  shown = min(len(recorded['number']), _MAX_TRIALS)
  rows = _rows(recorded)
  heights = [row.height for row in rows]
  canvas = figure.Figure(
    figsize=(1.9 + 3.2 * shown, 1.3 + 1.2 * sum(heights)), layout='constrained'
  )
  axes = canvas.subplots(len(rows), shown, squeeze=False, height_ratios=heights)
  for i, row in enumerate(rows):
    images = [row.draw(axes[i, j], row.values[:, j], j) for j in range(shown)]
    if images[0] is not None:
      bar = canvas.colorbar(
        images[0], ax=axes[i].tolist(), aspect=12, panchor=False
      )
      bar.ax.tick_params(labelsize=panels.FONT - 3)
    axes[i, 0].set_ylabel(row.label, fontsize=panels.FONT)
    last = i == len(rows) - 1 or rows[i + 1].over != row.over
    for panel in axes[i]:
      panel.tick_params(
        labelsize=panels.FONT - 3, labelbottom=last or not row.over
      )
      if last and row.over:
        panel.set_xlabel(row.over, fontsize=panels.FONT)
    for panel in axes[i, 1:]:
      panel.tick_params(labelleft=False)
  for j in range(shown):
    title = f'held-out trial {recorded["number"][j]}\n{answered(recorded, j)}'
    axes[0, j].set_title(title.strip(), fontsize=panels.FONT)
  handles, labels = axes[-1, 0].get_legend_handles_labels()
  if handles:
    canvas.legend(
      handles,
      labels,
      loc='outside lower center',
      ncols=len(labels),
      frameon=False,
      fontsize=panels.FONT,
    )
  canvas.align_ylabels(axes[:, 0])
  canvas.savefig(path, dpi=150)


##############################################################################
# What is drawn


def _rows(recorded: Mapping[str, np.ndarray]) -> list[Row]:
  inputs, mask = np.asarray(recorded['inputs']), recorded['mask']
  over = 'step' if len(mask) > 1 else ''
  rows = [_row('inputs', inputs, over, picture=True)]
  inside = {
    name: np.asarray(values)
    for name, values in recorded.items()
    if name.startswith('inside/') or name == 'signals'
  }
  inside = {
    name: values
    for name, values in inside.items()
    if values.ndim > 2 and values.any() and not _is_inputs(values, inputs)
  }
  for name in sorted(inside, key=_order)[:_MAX_INSIDE]:
    values = inside[name]
    sweeps = len(values) != len(mask)
    rows.append(
      _row(words(name, recorded), values, 'sweep' if sweeps else over)
    )
  outputs = np.asarray(recorded['outputs'])
  if not over:
    return [*rows, Row('outputs', outputs, '', 1.4, panels.bars(recorded))]
  if panels.has_values(recorded):
    label = _first('outputs', outputs.shape[-1], panels.MAX_CURVES)
    return [*rows, Row(label, outputs, over, 1.6, panels.curves(recorded))]
  return [*rows, _row('outputs', outputs, over, mark=panels.marks(recorded))]


def _first(label: str, total: int, most: int) -> str:
  """The label, and that not all are drawn."""
  return label if total <= most else f'{label}\n(first {most} of {total})'


def _row(
  label: str,
  values: np.ndarray,
  over: str,
  *,
  picture: bool = False,
  mark: Callable | None = None,
) -> Row:
  """A row of colours: maps over steps, or a strip or a picture of one step."""
  total = int(np.prod(values.shape[2:]))
  if not over and picture and panels.side_of(values) is not None:
    return Row(label, values, '', 1.8, panels.pictures(values))
  label = _first(label, total, _MAX_LINES)
  flat = values.reshape(*values.shape[:2], -1)[..., :_MAX_LINES].astype(float)
  height = 1.3 if over else 0.45
  return Row(label, flat, over, height, panels.maps(flat, over, mark))


def _is_inputs(values: np.ndarray, inputs: np.ndarray) -> bool:
  """Whether a row of a network is clamped to the inputs in all sweeps."""
  alike = len(inputs) == 1 and values.shape[1:] == inputs.shape[1:]
  return alike and bool(np.all(values == inputs))


def _order(name: str) -> tuple[int, str, int]:
  """States before signals before traces; a layer's variables as in `_WORDS`."""
  kind = (name == 'signals') + 2 * name.startswith('inside/traces')
  where, _, last = name.rpartition('.')
  known = [*_WORDS]
  return kind, where, known.index(last) if last in known else len(known)


def words(name: str, names: Mapping[str, object]) -> str:
  """What an array of `inside/` is called in words.

  Args:
    name: its name, e.g. 'inside/state.layer_0.voltage'.
    names: all names, which tell how many of a kind there are.
  """
  parts = name.removeprefix('inside/').split('.')
  if name == 'signals':
    return 'learning signal'
  if re.fullmatch(r'inside/buffers\.\d+', name):  # of a relaxation network
    last = f'inside/buffers.{int(parts[1]) + 1}' not in names
    return f'row {parts[1]}' + (', outputs' if last else '')
  if parts[0] == 'traces':
    group = '.'.join(parts[:2])
    several = sum(n.startswith(f'inside/{group}.') for n in names) > 1
    return 'traces ' + ', '.join(parts[1:] if several else parts[1:2])
  if parts[0] == 'state' and len(parts) > 1:
    parts = parts[1:]
  text = ', '.join(_WORDS.get(part, part.replace('_', ' ')) for part in parts)
  return textwrap.fill(text, 18)


def answered(recorded: Mapping[str, np.ndarray], trial: int) -> str:
  """What a trial asks and what it gets, in a line; '' where it is neither."""
  is_asked = np.asarray(recorded['mask'])[:, trial] > 0
  outputs = np.asarray(recorded['outputs'])[is_asked, trial]
  targets = np.asarray(recorded['targets'])[is_asked, trial]
  if panels.has_values(recorded):
    return f'rms error {np.sqrt(np.mean((outputs - targets) ** 2)):.2g}'
  if not panels.has_classes(recorded):
    return ''
  predicted = np.argmax(outputs, axis=-1)
  if len({*targets}) == len({*predicted}) == 1:
    return f'true class {targets[0]}, predicted {predicted[0]}'
  if len(targets) <= 8:
    true, guess = (' '.join(map(str, x)) for x in (targets, predicted))
    return f'true {true}, predicted {guess}'
  return f'right at {np.sum(targets == predicted)} of {len(targets)} steps'
