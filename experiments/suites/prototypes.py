# SPDX-License-Identifier: Apache-2.0
"""Held-out accuracy on binary prototypes, beside all that is simpler."""

import functools

import numpy as np
from sklearn import linear_model, neighbors

from bionet_tasks.static import prototypes as task
from experiments.configs import prototypes as configs
from experiments.suites import accuracy

SEEDS = (0, 1, 2, 3, 4)

_FROZEN_J = {'optimizer.rate_factors.to1_from1': 0.0}
_WITHOUT_J = {**_FROZEN_J, 'network.strength_recurrent': 0.0}
_READOUT_ONLY = {**_FROZEN_J, 'optimizer.rate_factors.to1_from0': 0.0}
# Tuned for itself on seeds 10-12: no label feedback, a random hidden row.
_READOUT_TUNED = {
  **_WITHOUT_J,
  **_READOUT_ONLY,
  'network.strength_in': 1.0,
  'network.strength_feedback': 0.0,
  'network.threshold_out': 21.7,
  'optimizer.rate_factors.to2_from1': 1.02,
}

_NETWORKS = {
  'reference': ('', {}),
  'reference, J frozen': ('', _FROZEN_J),
  'reference, no J': ('', _WITHOUT_J),
  'best': ('best', {}),
  'best, no J': ('best', _WITHOUT_J),
  'best, readout only': ('best', _READOUT_ONLY),
  'readout only, tuned for itself': ('best', _READOUT_TUNED),
}
_RIDGES = (1.0, 300.0, 1000.0, 3000.0, 30_000.0)


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Each row: the learner, its mean over seeds, the seeds' spread."""
  scores = {
    name: functools.partial(_network, variant, overrides)
    for name, (variant, overrides) in _NETWORKS.items()
  }
  for penalty in _RIDGES:
    ridge = linear_model.RidgeClassifier(alpha=penalty)
    scores[f'ridge, lambda {penalty:g}'] = functools.partial(_fitted, ridge)
  centroid = neighbors.NearestCentroid()
  scores['nearest estimated centroid'] = functools.partial(_fitted, centroid)
  scores['nearest true prototype'] = _ceiling
  return accuracy.rows(scores, seeds, only)


def _network(variant: str, overrides: dict, seed: int) -> float:
  return accuracy.held_out(configs.get_config(variant), overrides, seed)


def _fitted(classifier, seed: int) -> float:
  (inputs, classes), (test, truth) = accuracy.arrays(task.prototypes(seed=seed))
  return float(np.mean(classifier.fit(inputs, classes).predict(test) == truth))


def _ceiling(seed: int) -> float:
  return task.prototypes(seed=seed).spec.ceiling['accuracy']
