# SPDX-License-Identifier: Apache-2.0
"""Held-out accuracy on binary prototypes, beside all that is simpler."""

import functools

import numpy as np
from sklearn import linear_model
from sklearn import neighbors

from bionet_tasks import prototypes as task
from experiments.configs import prototypes as configs
from experiments.suites import accuracy

SEEDS = (0, 1, 2, 3, 4)

_FROZEN_J = {'optimizer.learning_rates.to1_from1': 0.0}
_WITHOUT_J = {**_FROZEN_J, 'network.strength_recurrent': 0.0}
_READOUT_ONLY = {**_FROZEN_J, 'optimizer.learning_rates.to1_from0': 0.0}

_NETWORKS = {
  'reference': ('', {}),
  'reference, J frozen': ('', _FROZEN_J),
  'reference, no J': ('', _WITHOUT_J),
  'best': ('best', {}),
  'best, no J': ('best', _WITHOUT_J),
  'best, readout only': ('best', _READOUT_ONLY),
}
_RIDGES = (1.0, 300.0, 1000.0, 3000.0)


def run(seeds: list[int]) -> list[dict]:
  """Each row: the learner, its mean over seeds, the seeds' spread."""
  rows = [
    accuracy.row(
      name, functools.partial(_network, variant, overrides), seeds
    )
    for name, (variant, overrides) in _NETWORKS.items()
  ]
  for penalty in _RIDGES:
    ridge = linear_model.RidgeClassifier(alpha=penalty)
    score = functools.partial(_fitted, ridge)
    rows.append(accuracy.row(f'ridge, lambda {penalty:g}', score, seeds))
  centroid = functools.partial(_fitted, neighbors.NearestCentroid())
  rows.append(accuracy.row('nearest estimated centroid', centroid, seeds))
  rows.append(accuracy.row('nearest true prototype', _ceiling, seeds))
  return rows


def _network(variant: str, overrides: dict, seed: int) -> float:
  return accuracy.held_out(configs.get_config(variant), overrides, seed)


def _fitted(classifier, seed: int) -> float:
  (inputs, classes), (test, truth) = accuracy.arrays(task.prototypes(seed=seed))
  return float(np.mean(classifier.fit(inputs, classes).predict(test) == truth))


def _ceiling(seed: int) -> float:
  return task.prototypes(seed=seed).spec.ceiling['accuracy']
