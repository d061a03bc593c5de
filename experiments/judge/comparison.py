# SPDX-License-Identifier: Apache-2.0
"""Runs of one task beside each other: metrics against what they took.

Runs that differ by seed alone are drawn as one: their mean, and the 95 %
interval of the mean.

What a run took is counted in updates, in trials simulated (those of all members
of a population, of all copies, and the draws on which copies are judged), and
in CPU seconds of the training, compilation included and evaluations left out,
where the run was not resumed. The seconds are known of the whole run alone, and
are shared out by the steps simulated.
"""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from bionet_core import unroll
from bionet_learners.training import paths, writers
from bionet_tasks import base as tasks
from experiments.judge import seeds
from experiments.runs import factories, sections
from experiments.shell import workdirs


class Curve(NamedTuple):
  """One run, or the mean of several that differ by seed alone.

  Attributes:
    label: what it is called.
    values: the metric, `[n]`.
    costs: `{axis: [n]}`, what had been spent at each value.
    interval: the lower and the upper end `[n]` of the interval of the mean;
      None of one run.
    extremes: the least and the largest value `[n]` of the runs; likewise.
  """

  label: str
  values: np.ndarray
  costs: Mapping[str, np.ndarray]
  interval: tuple[np.ndarray, np.ndarray] | None = None
  extremes: tuple[np.ndarray, np.ndarray] | None = None


class Compared(NamedTuple):
  """One metric of all runs.

  Attributes:
    metric: its name.
    curves: one a run or group of runs, in the same order for every metric.
    levels: `{'chance' or 'ceiling': value}`.
  """

  metric: str
  curves: Sequence[Curve]
  levels: Mapping[str, float]


class Loaded(NamedTuple):
  """A run, read from its folder.

  Attributes:
    path: the folder.
    config: its config.
    spec: its task's spec.
    rows: its rows.
    result: its result.json; empty if it is not finished.
    untrained: the held-out metrics before any update; likewise.
  """

  path: pathlib.Path
  config: ml_collections.ConfigDict
  spec: tasks.TaskSpec
  rows: Sequence[writers.Row]
  result: Mapping
  untrained: Mapping


def load(folders: Sequence[str]) -> list[Loaded]:
  """Reads runs that can be compared.

  Raises:
    FileNotFoundError: if a folder holds no run.
    ValueError: if there are none, or their tasks differ in more than seeds and
      settings of training.
  """
  runs = [_read(paths.local('--workdirs', folder)) for folder in folders]
  if not runs:
    raise ValueError('--workdirs names no run.')
  for run in runs[1:]:
    difference = seeds.difference(runs[0].config, run.config)
    if difference:
      raise ValueError(
        f'--workdirs={runs[0].path},{run.path}: must be runs of one task; '
        f'{difference}.'
      )
  return runs


def _read(path: pathlib.Path) -> Loaded:
  config = workdirs.read_config(path)
  done = (path / 'result.json').exists()
  return Loaded(
    path=path,
    config=config,
    spec=factories.make_task(config).spec,
    rows=writers.read_rows(path / 'metrics.jsonl'),
    result=workdirs.read_result(path) if done else {},
    untrained=_untrained(path) if done else {},
  )


def _untrained(path: pathlib.Path) -> Mapping:
  content = json.loads((path / 'evaluation.json').read_text())
  return content['evaluations']['held_out']['untrained']


def curve(run: Loaded, metric: str, split: str) -> Curve:
  """A metric of a run against what it took.

  Raises:
    ValueError: if no row of the split has the metric; says which have.
  """
  rows = [r for r in run.rows if r['split'] == split and metric in r]
  if not rows:
    names = {name for r in run.rows if r['split'] == split for name in r}
    known = ', '.join(sorted(names - {'step', 'split'})) or 'none'
    raise ValueError(
      f'--metric={metric}: {run.path} has no {split} row with it. There are: '
      f'{known}.'
    )
  # What another run had learned before is no untrained network.
  fresh = not run.config.init_from
  if split == 'eval' and fresh and metric in run.untrained:
    rows = [{'step': 0, metric: run.untrained[metric]}, *rows]
  updates = np.array([row['step'] for row in rows])
  trials, steps = spent(run.config)
  costs = {'updates': updates, 'trials simulated': trials[updates]}
  seconds = run.result.get('cpu_seconds')
  if seconds is not None:
    share = steps[updates] / steps[run.result['updates']]
    costs['CPU seconds of training'] = seconds * share
  return Curve(
    label=f'{run.path.name} ({run.config.learner.name})',
    values=np.array([row[metric] for row in rows]),
    costs=costs,
  )


def spent(config: ml_collections.ConfigDict) -> tuple[np.ndarray, np.ndarray]:
  """Trials, and their steps, simulated after 0, 1, ... updates of a run."""
  trials, steps = [0], [0]
  for stage in sections.stage_configs(config):
    task = factories.make_task(stage)
    size = stage.batch_size * _copies(stage)
    draws = _validation_steps(stage, task)
    for _ in range(sections.count_updates(stage, task)):
      judged = _judged(stage, len(trials))
      trials.append(trials[-1] + size + judged * len(draws))
      steps.append(steps[-1] + size * task.spec.num_steps + judged * sum(draws))
  return np.array(trials), np.array(steps)


def _copies(config) -> int:
  """How often an update simulates a batch: for every member and every copy."""
  settings = config.restarts
  copies = settings.active or settings.count
  return copies * (config.learner.get('population_size') or 1)


def _judged(config, update: int) -> int:
  """How many copies this update, counted from 1, judges; and their pick."""
  settings = config.restarts
  if settings.count == 1:
    return 0
  if update == 1:
    return settings.count + 1
  due = update % settings.validate_every == 0
  return due * ((settings.active or settings.count) + 1)


def _validation_steps(config, task: tasks.Task) -> list[int]:
  """The steps of each trial on which a copy is judged."""
  settings = config.restarts
  if settings.count == 1:
    return []
  index, steps = jnp.arange(settings.num_trials), []
  for name in settings.evaluations:
    sample = task.evaluations[name].sample
    mask = jax.eval_shape(sample, unroll.seed_key(0), index).mask
    steps += [mask.shape[0]] * settings.num_trials
  return steps


def mean_curve(runs: Sequence[Loaded], metric: str, split: str) -> Curve:
  """A metric of runs that differ by seed alone: the `curve` of one.

  Where not all runs have been evaluated, e.g. since some stopped early, there
  is no mean.

  Raises:
    ValueError: if no row of the split has the metric, or the runs have none at
      the same updates.
  """
  curves = [curve(run, metric, split) for run in runs]
  if len(curves) == 1:
    return curves[0]
  steps = [curve.costs['updates'].tolist() for curve in curves]
  common = sorted(set(steps[0]).intersection(*steps[1:]))
  if not common:
    raise ValueError(
      f'--workdirs: {runs[0].path} and the {len(runs) - 1} that differ by seed '
      f'alone have no {split} row at the same update.'
    )
  rows = [[at.index(step) for step in common] for at in steps]
  values = np.stack(
    [curve.values[row] for curve, row in zip(curves, rows, strict=True)]
  )
  costs = {
    axis: np.mean(
      [curve.costs[axis][row] for curve, row in zip(curves, rows, strict=True)],
      axis=0,
    )
    for axis in curves[0].costs
    if all(axis in curve.costs for curve in curves)
  }
  return Curve(
    label=f'{_common_name(runs)} ({runs[0].config.learner.name}, '
    f'{len(runs)} seeds)',
    values=np.mean(values, axis=0),
    costs=costs,
    interval=seeds.interval(values),
    extremes=(np.min(values, axis=0), np.max(values, axis=0)),
  )


def _common_name(runs: Sequence[Loaded]) -> str:
  """What the names of the runs' folders begin with, else the folder of all."""
  names = [run.path.absolute().name for run in runs]
  alike = itertools.takewhile(
    lambda letters: len({*letters}) == 1, zip(*names, strict=False)
  )
  name = ''.join(letters[0] for letters in alike).rstrip('0123456789_-. ')
  if name in ('', 's', 'seed'):
    name = runs[0].path.absolute().parent.name
  return name


def compare(
  folders: Sequence[str], metrics: Sequence[str], split: str
) -> tuple[str, list[Compared]]:
  """Compares runs.

  Args:
    folders: the runs' folders.
    metrics: those to compare; none: the task's main metric.
    split: 'eval', or 'train': on the trials of the updates, whose number may
      differ from run to run.

  Returns:
    A title, and each metric of all runs; levels are means over the runs, since
    they may differ with the seed.

  Raises:
    FileNotFoundError, ValueError: if they cannot be compared.
  """
  runs = load(folders)
  spec = runs[0].spec
  groups = [
    [runs[number] for number in numbers]
    for numbers in seeds.groups([run.config for run in runs])
  ]
  compared = [
    Compared(
      metric,
      [mean_curve(group, metric, split) for group in groups],
      {
        level: float(
          np.mean([getattr(run.spec, level)[metric] for run in runs])
        )
        for level in ('ceiling', 'chance')
        if metric in getattr(spec, level)
      },
    )
    for metric in metrics or [spec.metric]
  ]
  title = f'{spec.name}, '
  title += {'eval': 'held out', 'train': 'training trials'}[split]
  if len(groups) < len(runs):
    title += '; means over seeds and their 95 % intervals'
  return title, compared
