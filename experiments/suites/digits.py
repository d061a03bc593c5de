# SPDX-License-Identifier: Apache-2.0
"""Test accuracy on real digits, beside what is simpler; seeds are splits."""

import functools

import numpy as np
from sklearn import linear_model

from bionet_tasks.static import digits as task
from experiments.configs import digits as configs
from experiments.suites import accuracy

SEEDS = (0, 1, 2)

_LEARNED_J = {'optimizer.rate_factors.to1_from1': 0.1}
_WITHOUT_J = {'network.strength_recurrent': 0.0}
# Tuned for itself on splits 10-12: no label feedback, a random hidden row.
_READOUT_ONLY = {
  **_WITHOUT_J,
  'network.strength_in': 1.0,
  'network.strength_feedback': 0.0,
  'network.threshold_out': 0.53,
  'optimizer.rate_factors.to1_from0': 0.0,
  'optimizer.rate_factors.to2_from1': 0.44,
}

_NETWORKS = {
  'local rule': {},
  'local rule, J learned': _LEARNED_J,
  'local rule, no J': _WITHOUT_J,
  'readout only, tuned for itself': _READOUT_ONLY,
}


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Each row: the learner, its mean over splits, the splits' spread."""
  scores = {
    name: functools.partial(_network, overrides)
    for name, overrides in _NETWORKS.items()
  }
  for name, classifier in (
    ('ridge, lambda 0.1', linear_model.RidgeClassifier(alpha=0.1)),
    ('logistic regression', linear_model.LogisticRegression(max_iter=5000)),
  ):
    scores[name] = functools.partial(_fitted, classifier)
  return accuracy.rows(scores, seeds, only)


def _network(overrides: dict, seed: int) -> float:
  return accuracy.held_out(configs.get_config(), overrides, seed)


def _fitted(classifier, seed: int) -> float:
  (inputs, classes), (test, truth) = accuracy.arrays(task.digits(split=seed))
  return float(np.mean(classifier.fit(inputs, classes).predict(test) == truth))
