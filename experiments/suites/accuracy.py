# SPDX-License-Identifier: Apache-2.0
"""What suites share that measure accuracy over several seeds."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from bionet_learners.training import notebook
from bionet_tasks import base as tasks
from experiments.judge import scoring
from experiments.runs import build, updates


def held_out(
  config,
  overrides: Mapping[str, object],
  seed: int,
  learner: Mapping[str, object] | None = None,
) -> float:
  """Trains a config and returns its main metric on the held-out trials.

  Args:
    config: the config; it is changed.
    overrides: `{dotted path: value}`.
    seed: of the run, and of all that follows it.
    learner: a section in place of the config's own, which is another rule's.
  """
  if learner is not None:
    config.learner = {'every': 0, 'carry': False, **learner}
  config.update_from_flattened_dict(overrides)
  return judged(config, seed, ('held_out',))['held_out']


def judged(
  config, seed: int, evaluations: Sequence[str] | None = None
) -> dict[str, float]:
  """Trains a config and returns its main metric on each evaluation named.

  Args:
    config: the config; it is changed.
    seed: of the run, and of all that follows it.
    evaluations: of the task; None: all of them.
  """
  config.seed = seed
  run = build.build(config)
  state = updates.trained(run)
  task, metrics = run.first.task, {}
  for name in evaluations or task.evaluations:
    scores, _, _ = scoring.score_run(run, state, name)
    metrics[name] = scores[task.spec.metric]
  return metrics


def arrays(task: tasks.Task):
  """Inputs and classes of a finite static task: training, then held out."""
  data = scoring.on_training_trials(task, 1)  # alike for any batch size
  for evaluation in (data, task.evaluations['held_out']):
    keys = notebook.run_keys(0)
    trials = evaluation.sample(keys.data, np.arange(evaluation.num_trials))
    yield np.asarray(trials.inputs[0], float), np.asarray(trials.targets[0])


def rows(
  scores: Mapping[str, Callable[[int], float]], seeds: list[int], only: str
) -> list[dict]:
  """The lines of a table: those of `scores` with `only` in their name."""
  return [
    row(name, score, seeds) for name, score in scores.items() if only in name
  ]


def row(name: str, score: Callable[[int], float], seeds: list[int]) -> dict:
  """One line: mean over seeds, its lower 95 % bound, and the seeds' range."""
  began = time.process_time()
  values = [score(seed) for seed in seeds]
  seconds = (time.process_time() - began) / len(seeds)
  mean = float(np.mean(values))
  bound = float('nan')
  if len(values) > 1:
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    bound = mean - float(stats.t.ppf(0.95, len(values) - 1) * error)
  return {
    'learner': name,
    'mean': mean,
    'lower 95 %': bound,
    'min': float(min(values)),
    'max': float(max(values)),
    'CPU s each': round(seconds, 1),
  }
