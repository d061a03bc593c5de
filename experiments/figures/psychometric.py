# SPDX-License-Identifier: Apache-2.0
"""The psychometric curve: how often 'right', by the evidence for it.

  python -m experiments.figures.psychometric --workdir=runs/evidence

Writes figures/psychometric.png into the folder of a run of evidence
accumulation.
"""

from experiments.shell import signals

if __name__ == '__main__':
  signals.end_at_once()

import pathlib
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from matplotlib import figure
from scipy import stats

from bionet_core import interfaces
from bionet_learners.training import paths
from bionet_tasks.temporal import evidence
from experiments.judge import scoring
from experiments.runs import saved
from experiments.shell import commandline

_LEVEL = 0.95


class Curve(NamedTuple):
  """Choices by evidence.

  Attributes:
    evidence: mean evidence of each bin `[K]`, right minus left cue spikes.
    share: share of its trials answered 'right' `[K]`.
    low: lower end of the 95 % interval (Wilson) `[K]`.
    high: its upper end `[K]`.
    count: trials of each bin `[K]`.
  """

  evidence: np.ndarray
  share: np.ndarray
  low: np.ndarray
  high: np.ndarray
  count: np.ndarray


def curve(
  outputs: jax.Array, trials: interfaces.Trials, num_bins: int = 12
) -> Curve:
  """Choices by evidence, in bins of equal width that hold a trial.

  Args:
    outputs: float `[T, B, 2]`; a trial's choice is that of their mean over the
      steps that are asked.
    trials: trials of evidence accumulation.
    num_bins: bins between the least evidence and the most.
  """
  mask = np.asarray(trials.mask)[..., None]
  scores = np.sum(np.where(mask > 0, outputs * mask, 0), axis=0)
  right = np.argmax(scores, axis=-1)
  left_spikes, right_spikes = evidence.cue_counts(trials)
  difference = np.asarray(right_spikes - left_spikes)
  edges = np.linspace(difference.min(), difference.max(), num_bins + 1)
  place = np.clip(np.digitize(difference, edges) - 1, 0, num_bins - 1)
  rows = []
  for k in np.unique(place):
    inside = place == k
    count, chosen = int(inside.sum()), int(right[inside].sum())
    interval = stats.binomtest(chosen, count).proportion_ci(_LEVEL, 'wilson')
    share, low, high = chosen / count, interval.low, interval.high
    rows.append((difference[inside].mean(), share, low, high, count))
  return Curve(*np.array(rows).T)


def draw(
  answers: dict[str, tuple[jax.Array, interfaces.Trials]], path: pathlib.Path
) -> None:
  """Draws a curve for each evaluation.

  Args:
    answers: `{evaluation: (outputs [T, B, 2], trials)}`.
    path: the PNG to write.
  """
  canvas = figure.Figure(figsize=(5.4, 4), layout='constrained')
  axes = canvas.subplots()
  for name, (outputs, trials) in answers.items():
    choices = curve(outputs, trials)
    errors = choices.share - choices.low, choices.high - choices.share
    axes.errorbar(
      choices.evidence,
      choices.share,
      yerr=np.maximum(errors, 0),
      fmt='o-',
      ms=4,
      capsize=2,
      label=f'{name}, {int(choices.count.sum()):,} trials',
    )
  axes.axhline(0.5, color='0.6', linestyle=':', linewidth=1)
  axes.axvline(0, color='0.6', linestyle=':', linewidth=1)
  axes.set(
    xlabel='evidence: right minus left cue spikes',
    ylabel="share of 'right' (95 % interval)",
    ylim=(-0.03, 1.03),
  )
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False, fontsize=8)
  canvas.savefig(path, dpi=150)


def _main(argv: list[str]) -> None:
  del argv
  with commandline.bad_input():
    workdir = paths.local('--workdir', _WORKDIR.value)
    run, state, _ = saved.restore(workdir, task='evidence_accumulation')
  answers = {}
  for name in run.first.task.evaluations:
    _, *answers[name] = scoring.score_run(run, state, name)
  path = workdir / 'figures' / 'psychometric.png'
  draw(answers, path)
  print(f'wrote {path}')


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run to draw.', required=True
  )
  commandline.run(_main)
