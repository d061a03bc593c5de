# SPDX-License-Identifier: Apache-2.0
"""Compares runs of one task: metrics against what it took to reach them.

How to start it:

  python -m experiments.compare --workdirs=runs/online,runs/offline \
    --output=comparison.png [--metric=loss,accuracy] [--split=eval]

Drawn are the held-out evaluations of each run, so give the runs a small
`eval_every`; a finished one begins with its untrained network. What a run took
is counted in updates, in trials simulated (those of all members of a
population, of all copies, and the draws on which copies are judged), and in CPU
seconds of the training, compilation included and evaluations left out, where
the run was not resumed: the seconds are known of the whole and shared out by
the steps simulated.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from bionet_learners.training import writers
from bionet_tasks import base as tasks
from experiments import build, commandline
from experiments import workdir as workdirs
from experiments.figures import comparison


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


def load(paths: Sequence[str]) -> list[Loaded]:
  """Reads runs that can be compared.

  Raises:
    FileNotFoundError: if a folder holds no run.
    ValueError: if there are none, or their tasks or evaluations differ: chance
      and ceiling show that, e.g. where fewer held-out trials are more biased.
  """
  runs = [_read(pathlib.Path(path)) for path in paths]
  if not runs:
    raise ValueError('--workdirs names no run.')
  for run in runs[1:]:
    if run.spec.name != runs[0].spec.name:
      raise ValueError(
        f'--workdirs: {runs[0].path} learned {runs[0].spec.name!r} and '
        f'{run.path} {run.spec.name!r}; only runs of one task compare.'
      )
    for level in ('chance', 'ceiling'):
      first, other = (dict(getattr(r.spec, level)) for r in (runs[0], run))
      if first != other:
        raise ValueError(
          f'--workdirs: {level} is {first} in {runs[0].path} and {other} in '
          f'{run.path}: they were not measured alike.'
        )
  return runs


def _read(path: pathlib.Path) -> Loaded:
  config = workdirs.read_config(path)
  done = (path / 'result.json').exists()
  return Loaded(
    path=path,
    config=config,
    spec=_task(config).spec,
    rows=writers.read_rows(path / 'metrics.jsonl'),
    result=workdirs.read_result(path) if done else {},
    untrained=_untrained(path) if done else {},
  )


def _untrained(path: pathlib.Path) -> Mapping:
  content = json.loads((path / 'evaluation.json').read_text())
  return content['evaluations']['held_out']['untrained']


def curve(run: Loaded, metric: str, split: str) -> comparison.Curve:
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
    share = steps[updates] / steps[run.result['steps']]
    costs['CPU seconds of training'] = seconds * share
  return comparison.Curve(
    label=f'{run.path.name} ({run.config.learner.name})',
    values=np.array([row[metric] for row in rows]),
    costs=costs,
  )


def spent(config: ml_collections.ConfigDict) -> tuple[np.ndarray, np.ndarray]:
  """Trials, and their steps, simulated after 0, 1, ... updates of a run."""
  trials, steps = [0], [0]
  for stage in build.stage_configs(config):
    task = _task(stage)
    size = stage.batch_size * _copies(stage)
    draws = _validation_steps(stage, task)
    for _ in range(build.count_updates(stage, task)):
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
    mask = jax.eval_shape(sample, jax.random.key(0), index).mask
    steps += [mask.shape[0]] * settings.num_trials
  return steps


def _task(config) -> tasks.Task:
  return build.make('bionet.tasks', 'task', config.task)


def compare(
  paths: Sequence[str],
  output: pathlib.Path,
  metrics: Sequence[str],
  split: str,
) -> list[comparison.Compared]:
  """Draws the comparison, and returns what it shows.

  Args:
    paths: the runs' folders.
    output: the PNG to write.
    metrics: a row each; none: the task's main metric.
    split: 'eval', or 'train': on the trials of the updates, whose number may
      differ from run to run.

  Raises:
    FileNotFoundError, ValueError: if they cannot be compared.
  """
  runs = load(paths)
  spec = runs[0].spec
  compared = [
    comparison.Compared(
      metric,
      [curve(run, metric, split) for run in runs],
      {
        level: values[metric]
        for level, values in (
          ('ceiling', spec.ceiling),
          ('chance', spec.chance),
        )
        if metric in values
      },
    )
    for metric in metrics or [spec.metric]
  ]
  of = {'eval': 'held out', 'train': 'training trials'}[split]
  comparison.draw(f'{spec.name}, {of}', compared, output)
  return compared


def _main(argv: list[str]) -> None:
  del argv
  output = pathlib.Path(_OUTPUT.value).absolute()
  with commandline.bad_input():
    if not output.parent.is_dir() or output.suffix != '.png':
      raise ValueError(
        f'--output={_OUTPUT.value}: name a .png file in a folder that is there.'
      )
    compared = compare(_WORKDIRS.value, output, _METRIC.value, _SPLIT.value)
  width = max(len(drawn.label) for drawn in compared[0].curves)
  for one in compared:
    for drawn in one.curves:
      spent_by_then = ', '.join(
        f'{values[-1]:,.0f} {axis}' for axis, values in drawn.costs.items()
      )
      print(
        f'{drawn.label:{width}}  {one.metric} {drawn.values[-1]:.4f} after '
        f'{spent_by_then}'
      )
  print(f'wrote {output}')


if __name__ == '__main__':
  _WORKDIRS = flags.DEFINE_list(
    'workdirs', None, 'Folders of the runs, with commas.', required=True
  )
  _OUTPUT = flags.DEFINE_string(
    'output', None, 'The PNG to write.', required=True
  )
  _METRIC = flags.DEFINE_list(
    'metric', [], "The metrics to compare; the task's main one if not given."
  )
  _SPLIT = flags.DEFINE_enum(
    'split', 'eval', ['eval', 'train'], 'Held-out rows, or those of training.'
  )
  commandline.run(_main)
