# SPDX-License-Identifier: Apache-2.0
"""Panels of the picture of probes: how a quantity of one trial is drawn.

Each function takes what all panels of a row share and returns `draw(axes,
values [S, ...], trial)`, which gives the image that a bar of colours explains,
or None.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib import colors, ticker

FONT = 11
MAX_CURVES = 4


def has_values(recorded: Mapping[str, np.ndarray]) -> bool:
  """Whether targets are values of the outputs."""
  targets, outputs = recorded['targets'], recorded['outputs']
  is_float = np.issubdtype(targets.dtype, np.floating)
  return bool(is_float) and targets.shape == outputs.shape


def has_classes(recorded: Mapping[str, np.ndarray]) -> bool:
  """Whether targets are classes."""
  targets = recorded['targets']
  return targets.ndim == 2 and bool(np.issubdtype(targets.dtype, np.integer))


def _limits(*arrays: np.ndarray) -> tuple[float, float]:
  """The least and the largest finite number of all arrays."""
  values = np.concatenate([np.ravel(array) for array in arrays])
  values = values[np.isfinite(values)]
  return (float(values.min()), float(values.max())) if values.size else (0, 0)


def _colours(values: np.ndarray) -> dict:
  """A map of colours for all panels of a row, with white at 0."""
  low, high = _limits(values)
  limit = max(-low, high) or 1.0
  if low >= 0:
    return {'cmap': 'Greys', 'norm': colors.Normalize(0, limit)}
  return {'cmap': 'RdBu_r', 'norm': colors.Normalize(-limit, limit)}


def maps(flat: np.ndarray, over: str, mark: Callable | None) -> Callable:
  """Maps of components over steps; of one step they go to the right."""
  style = _colours(flat)

  def draw_map(axes, values, trial):
    image = axes.imshow(
      values.T if over else values,
      aspect='auto',
      interpolation='nearest',
      **style,
    )
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    if not over:
      axes.set_yticks([])
    if mark is not None:
      mark(axes, trial)
    return image

  return draw_map


def side_of(values: np.ndarray) -> tuple[int, int] | None:
  """The shape of one-step inputs that make a picture, or None."""
  shape = values.shape[2:]
  if len(shape) == 2:
    return shape
  side = math.isqrt(math.prod(shape))
  return (side, side) if side > 2 and side**2 == math.prod(shape) else None


def pictures(values: np.ndarray) -> Callable:
  """Inputs of one step as the picture that they are, or may be."""
  style, side = _colours(values), side_of(values)

  def draw_picture(axes, values, trial):
    del trial
    image = axes.imshow(values[0].reshape(side), **style)
    axes.set_xticks([])
    axes.set_yticks([])
    return image

  return draw_picture


def marks(recorded: Mapping[str, np.ndarray]) -> Callable | None:
  """Squares at the true classes and dots at the predicted ones."""
  if not has_classes(recorded):
    return None

  def mark(axes, trial):
    steps = np.flatnonzero(recorded['mask'][:, trial])
    size = float(np.clip(160 / len(recorded['mask']), 2, 9))
    axes.plot(
      steps,
      recorded['targets'][steps, trial],
      's',
      ms=size,
      mew=1.3,
      markerfacecolor='none',
      markeredgecolor='black',
      label='true class',
    )
    axes.plot(
      steps,
      np.argmax(recorded['outputs'][steps, trial], axis=-1),
      'o',
      ms=max(size / 2, 3.5),
      mew=0.8,
      markerfacecolor='black',
      markeredgecolor='white',
      label='predicted class',
    )

  return mark


def curves(recorded: Mapping[str, np.ndarray]) -> Callable:
  """Outputs as lines and their targets, where they are asked, as dots."""
  outputs, targets = recorded['outputs'], recorded['targets']
  is_asked = np.asarray(recorded['mask']) > 0
  num_drawn = min(outputs.shape[-1], MAX_CURVES)
  low, high = _limits(
    outputs[..., :num_drawn], targets[is_asked][..., :num_drawn]
  )

  def draw_curves(axes, values, trial):
    for k in range(num_drawn):
      (line,) = axes.plot(values[:, k], linewidth=1.5)
      steps = np.flatnonzero(is_asked[:, trial])
      axes.plot(
        steps, targets[steps, trial, k], '.', ms=4, color=line.get_color()
      )
    axes.plot([], [], '-', color='0.3', label='output')
    axes.plot([], [], '.', color='0.3', label='target')
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    axes.spines[['top', 'right']].set_visible(False)

  return draw_curves


def bars(recorded: Mapping[str, np.ndarray]) -> Callable:
  """Outputs of one step as bars; the target's is marked, or its value."""
  outputs, targets = np.asarray(recorded['outputs']), recorded['targets']
  values = [targets] if has_values(recorded) else []
  low, high = _limits(outputs, np.zeros(1), *values)
  margin = 0.08 * (high - low) or 1.0

  def draw_bars(axes, values, trial):
    scores = values[0]
    places = np.arange(len(scores))
    faces = ['tab:blue' if s == scores.max() else '0.75' for s in scores]
    if not has_classes(recorded):
      faces = '0.75'
    axes.bar(places, scores, color=faces)
    if has_classes(recorded):
      true = int(targets[0, trial])
      axes.bar([], [], color='tab:blue', label='predicted class')
      axes.plot(
        [true],
        [scores[true] + np.copysign(margin / 2, scores[true])],
        's',
        ms=7,
        markerfacecolor='none',
        markeredgecolor='black',
        label='true class',
      )
    elif has_values(recorded):
      axes.plot(places, targets[0, trial], 'k_', ms=10, label='target')
    axes.axhline(0, color='0.3', linewidth=0.8)
    axes.set_ylim(low - margin, high + margin)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(10, integer=True))
    axes.spines[['top', 'right']].set_visible(False)
    classes = 'class' if has_classes(recorded) else 'output'
    axes.set_xlabel(classes, fontsize=FONT)

  return draw_bars
