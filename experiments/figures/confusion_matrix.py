# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix of a classification: which class is taken for which."""

import pathlib

import jax
import numpy as np
from matplotlib import figure
from sklearn import metrics

from bionet_core import interfaces
from experiments.judge import scoring


def arguments(judged: scoring.Judged):
  """Of tasks whose targets are classes, one a step."""
  targets = judged.trials.targets
  if np.issubdtype(targets.dtype, np.integer) and targets.ndim == 2:
    return judged.outputs, judged.trials
  return None


def draw(
  outputs: jax.Array, trials: interfaces.Trials, path: pathlib.Path
) -> None:
  """Draws the shares of predictions for each class, over all asked steps.

  Args:
    outputs: scores float `[T, B, O]`.
    trials: with int classes `[T, B]`.
    path: the PNG to write.
  """
  scored = np.asarray(trials.mask) > 0
  truth = np.asarray(trials.targets)[scored]
  predicted = np.argmax(np.asarray(outputs), axis=-1)[scored]
  classes = np.arange(outputs.shape[-1])
  shares = metrics.confusion_matrix(
    truth, predicted, labels=classes, normalize='true'
  )
  canvas = figure.Figure(figsize=(5, 4.4), layout='constrained')
  axes = canvas.subplots()
  image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
  canvas.colorbar(image, label='share of the true class')
  if len(classes) <= 12:
    for i, j in np.ndindex(shares.shape):
      if shares[i, j] >= 0.005:
        axes.text(
          j,
          i,
          f'{shares[i, j]:.2f}'.lstrip('0'),
          ha='center',
          va='center',
          fontsize=7,
          color='white' if shares[i, j] > 0.5 else '0.2',
        )
  axes.set(
    xlabel='predicted class',
    ylabel='true class',
    xticks=classes,
    yticks=classes,
    title=f'{len(truth):,} held-out answers',
  )
  canvas.savefig(path, dpi=150)
