# SPDX-License-Identifier: Apache-2.0
"""One file per kind of figure; each draws into a PNG.

A figure of a run is a module with two functions: `arguments(judged)` gives what
`draw` takes before its path, or None where the figure says nothing about that
run; `draw(*arguments, path)` knows arrays and numbers only. To add one, write
the module and name it in `FIGURES`.
"""

import importlib
import pathlib
from collections.abc import Mapping

import numpy as np

from experiments.judge import scoring

FIGURES = (
  'learning_curve',
  'confusion_matrix',
  'evaluations',
  'patterns',
  'space_time',
  'learned_rate',
)
"""The figures of a run, each a module here and a PNG of that name."""


def draw_all(judged: scoring.Judged, folder: pathlib.Path) -> list[str]:
  """Draws every figure that applies to a run; returns their names."""
  drawn = []
  for name in FIGURES:
    module = importlib.import_module(f'experiments.figures.{name}')
    arguments = module.arguments(judged)
    if arguments is not None:
      module.draw(*arguments, folder / f'{name}.png')
      drawn.append(name)
  return drawn


def draw_probes(
  recorded: Mapping[str, np.ndarray], folder: pathlib.Path
) -> None:
  """Draws what `experiments.judge.probes` has recorded.

  A cell of spiking units also gets `spikes.png`.
  """
  probes = importlib.import_module('experiments.figures.probes')
  spikes = importlib.import_module('experiments.figures.spikes')
  probes.draw(recorded, folder / 'probes.png')
  if spikes.has_spikes(recorded):
    spikes.draw(recorded, folder / 'spikes.png')
