# SPDX-License-Identifier: Apache-2.0
"""What a step reports, its mean over steps, and its line of text."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import chex
import jax
import numpy as np


class Metrics(NamedTuple):
  """Scalars of one step, or of a range of n steps, and what they weigh.

  Attributes:
    values: `{name: float [] or [n]}`, on the device or not.
    weight: `[]` or `[n]`, the number of trials behind them.
  """

  values: Mapping[str, chex.Numeric]
  weight: chex.Numeric = 1


def average_metrics(parts: Sequence[Metrics]) -> dict[str, float]:
  """The mean over steps, weighted: that of all trials together.

    mean = sum_i weight_i values_i / sum_i weight_i

  A mean of batch means would be wrong where the last batch is short. Reads the
  device once, and sums in float64.

  Args:
    parts: metrics with the same names.

  Returns:
    `{name: mean}`, names in order.

  Raises:
    ValueError: for no parts, other names, or weights that are negative or all
      zero.
  """
  steps = [per_step(part) for part in jax.device_get(list(parts))]
  return average_steps(steps)


def average_steps(
  steps: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> dict[str, float]:
  """`average_metrics` of what `per_step` gives."""
  if not steps:
    raise ValueError('no metrics to average: no step was taken.')
  names = sorted(steps[0][0])
  for values, _ in steps:
    if sorted(values) != names:
      raise ValueError(
        f'metrics {sorted(values)} cannot be averaged with {names}: every step '
        'must report the same names.'
      )
  weights = np.concatenate([weight for _, weight in steps])
  if not (np.all(weights >= 0) and np.sum(weights) > 0):
    raise ValueError(
      f'weights of metrics are {weights}; they must be 0 or more, not all 0.'
    )
  return {
    name: float(
      np.average(np.concatenate([v[name] for v, _ in steps]), weights=weights)
    )
    for name in names
  }


def per_step(part: Metrics) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Values and weights of metrics on the host, float64 `[n]` each."""
  values = {
    name: np.asarray(value, np.float64) for name, value in part.values.items()
  }
  for name, value in values.items():
    if value.ndim > 1:
      raise ValueError(
        f'metric {name!r} has shape {value.shape}; it must be a scalar, or one '
        'a step.'
      )
  weight = np.asarray(part.weight, np.float64)
  shape = np.broadcast_shapes(
    (1,), weight.shape, *(value.shape for value in values.values())
  )
  values = {n: np.broadcast_to(v, shape) for n, v in values.items()}
  return values, np.broadcast_to(weight, shape)


def format_metrics(metrics: Mapping[str, chex.Numeric]) -> str:
  """Metrics on one line: `accuracy: 0.9563, loss: 1.5000`."""
  return ', '.join(f'{k}: {float(v):.4f}' for k, v in metrics.items())
