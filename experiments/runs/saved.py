# SPDX-License-Identifier: Apache-2.0
"""States of a run that stand in its folder."""

import functools
import os
import pathlib
from collections.abc import Callable

import jax
import ml_collections

from bionet_learners import base as learners
from bionet_learners.training import (
  checkpoints,
  paths,
  ranges,
  stopping,
  writers,
)
from bionet_tasks import base as tasks
from experiments.runs import build, numerics, records, updates
from experiments.shell import workdirs

Report = Callable[[str], None]


def begin(
  config: ml_collections.ConfigDict,
  run: records.Run,
  workdir: pathlib.Path,
  report: Report = print,
) -> tuple[learners.LearnerState, int]:
  """The state to start from and the updates behind it; writes nothing.

  That of the last checkpoint that is whole; without one, the parameters and
  constants of `config.init_from`; without that, those of the seed.

  Args:
    config: the run's config.
    run: what was built from it.
    workdir: the run's folder, which need not exist.
    report: takes a line for the user.

  Raises:
    ValueError: if what is saved is not of this run's shapes, or the run cannot
      start from one set of parameters.
    checkpoints.CorruptCheckpointError: if there are checkpoints, none whole.
    FileNotFoundError: if `init_from` has none.
  """
  saved = checkpoints.restore_latest(
    workdir / 'checkpoints', functools.partial(updates.template, run), report
  )
  if saved is not None:
    return saved
  state = updates.init(run)
  if not config.init_from:
    return state, 0
  if run.first.rule is None and jax.tree.leaves(state.rule_state.shared):
    raise ValueError(
      f'init_from={config.init_from!r}: must be empty, for '
      f'{config.learner.name!r} learns from members or copies of its own, not '
      'from one set of parameters.'
    )
  folder = paths.local('init_from', config.init_from)
  _, learned, update = _restore(folder, 'last', report)
  for part in ('params', 'constants'):
    checkpoints.check_like(
      getattr(learned, part),
      getattr(state, part),
      f'init_from={config.init_from}: {part} ',
    )
  report(f'starting from the parameters of {config.init_from}, update {update}')
  return state._replace(params=learned.params, constants=learned.constants), 0


def restore(
  path: str | os.PathLike[str],
  which: str = 'last',
  report: Report = print,
  *,
  task: str | None = None,
) -> tuple[records.Run, learners.LearnerState, int]:
  """The state of a run's last checkpoint that is whole, or of its best.

  Args:
    path: the run's folder.
    which: 'last', or 'best': of the evaluations whose state is saved whole, the
      one with the best main metric.
    report: takes a line for the user: for what differs here from where the run
      began, and for a damaged checkpoint.
    task: the one task whose run it may be; None: any.

  JAX is told the run's precision and determinism.

  Returns:
    The run, built from the config in the folder for one device; the state; the
    updates behind it.

  Raises:
    FileNotFoundError: if there is no run, no checkpoint, or no evaluated one.
    ValueError, checkpoints.CorruptCheckpointError: if it cannot be used.
  """
  workdir = paths.local('workdir', path)
  numerics.tell(workdirs.read_config(workdir))
  # First, for what differs may be why the state cannot be restored.
  for note in workdirs.notes(workdir):
    report(f'it may not score bit for bit as it did: {note}.')
  run, state, update = _restore(workdir, which, report)
  name = run.first.task.spec.name
  if task not in (None, name):
    raise ValueError(
      f'--workdir={workdir}: must hold a run of {task}, not of {name}.'
    )
  workdirs.check_data(workdir, run.first.task.spec)
  return run, state, update


def _restore(
  workdir: pathlib.Path, which: str, report: Report
) -> tuple[records.Run, learners.LearnerState, int]:
  """As `restore`, whose numbers here may be others than where the run began."""
  config = workdirs.read_config(workdir)
  config.devices = 1  # what is saved is whole, and predicts on one
  run = build.build(config)
  folder = workdir / 'checkpoints'
  template = functools.partial(updates.template, run)
  if which == 'best':
    rows = writers.read_rows(workdir / 'metrics.jsonl')
    with_state = checkpoints.all_steps(folder)
    rows = [row for row in rows if row['step'] in with_state]
    best = ranges.best_updates(rows, ranking(run.first.task.spec))
    saved = checkpoints.restore_first(folder, best, template, report)
    lacks = 'checkpoint that was evaluated'
  else:
    saved = checkpoints.restore_latest(folder, template, report)
    lacks = 'checkpoint'
  if saved is None:
    raise FileNotFoundError(f'{workdir} has no {lacks}.')
  return run, *saved


def ranking(
  spec: tasks.TaskSpec, patience: int = 0, min_delta: float = 0.0
) -> stopping.EarlyStopping:
  """Which evaluation is better: by the main metric, towards its ceiling."""
  up = spec.ceiling[spec.metric] > spec.chance[spec.metric]
  mode = 'max' if up else 'min'
  return stopping.EarlyStopping(spec.metric, patience, mode, min_delta).check()
