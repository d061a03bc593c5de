# SPDX-License-Identifier: Apache-2.0
"""A forecast: the true trajectory and the predicted one.

  python -m experiments.figures.forecast --workdir=runs/lorenz

Writes figures/forecast.png into the folder of a run of the Lorenz task.
"""

from experiments.shell import signals

if __name__ == '__main__':
  signals.end_at_once()

import pathlib

import jax
import numpy as np
from absl import flags
from matplotlib import figure

from bionet_core import interfaces
from bionet_learners.training import paths
from experiments.judge import scoring
from experiments.runs import saved
from experiments.shell import commandline

_NAMES = ('x', 'y', 'z')


def draw(
  outputs: jax.Array,
  trials: interfaces.Trials,
  path: pathlib.Path,
  *,
  trial: int = 0,
) -> None:
  """Draws one trial: each component over time, and z against x.

  Args:
    outputs: float `[T, B, 3]`, forecasts of the targets.
    trials: trials of the Lorenz task, z-scored.
    path: the PNG to write.
    trial: which one.
  """
  steps = np.flatnonzero(np.asarray(trials.mask)[:, trial])
  truth = np.asarray(trials.targets)[steps, trial]
  predicted = np.asarray(outputs)[steps, trial]
  error = float(np.sqrt(np.mean((predicted - truth) ** 2)))
  canvas = figure.Figure(figsize=(10, 4.2), layout='constrained')
  grid = canvas.add_gridspec(3, 2, width_ratios=(2, 1))
  styles = (
    (truth, {'color': '0.6', 'linewidth': 2.4, 'label': 'true'}),
    (predicted, {'color': 'tab:red', 'linewidth': 1, 'label': 'predicted'}),
  )
  for k, name in enumerate(_NAMES):
    axes = canvas.add_subplot(grid[k, 0])
    for values, style in styles:
      axes.plot(steps, values[:, k], **style)
    axes.set_ylabel(f'{name} (z-scored)', fontsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    if k == 2:
      axes.set_xlabel('step')
    else:
      axes.tick_params(labelbottom=False)
  axes = canvas.add_subplot(grid[:, 1])
  for values, style in styles:
    axes.plot(values[:, 0], values[:, 2], **style)
  axes.set(xlabel='x', ylabel='z')
  axes.legend(frameon=False, fontsize=8)
  canvas.suptitle(
    f'held-out trial {trial}: root mean squared error {error:.3f}', fontsize=10
  )
  canvas.savefig(path, dpi=150)


def _main(argv: list[str]) -> None:
  del argv
  with commandline.bad_input():
    workdir = paths.local('--workdir', _WORKDIR.value)
    run, state, _ = saved.restore(workdir, task='lorenz')
  _, *answers = scoring.score_run(run, state)
  path = workdir / 'figures' / 'forecast.png'
  draw(*answers, path)
  print(f'wrote {path}')


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run to draw.', required=True
  )
  commandline.run(_main)
