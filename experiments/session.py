# SPDX-License-Identifier: Apache-2.0
"""One session with a run: trained into its folder, or judged again.

A session begins where the folder stands and ends where the run does, or where
it is interrupted. The commands `train` and `evaluate` are this and their flags.
"""

import bisect
import contextlib
import itertools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import jax
import ml_collections
import optax
import tqdm

from bionet_core import plugins
from bionet_learners import base as learners
from bionet_learners.training import checkpoints, ranges, writers
from experiments import figures
from experiments.judge import probes, scoring, table
from experiments.runs import build, checks, factories, records, saved, updates
from experiments.shell import commandline, signals, workdirs

# Metrics that go to the files alone: a line of progress would become too long.
_FILES_ONLY = ('gradient_norm', 'update_norm', 'learning_rate')


def train(
  config: ml_collections.ConfigDict,
  path: str | os.PathLike[str],
  probe: Sequence[str] = (),
  *,
  profile: bool = False,
  check_credit: bool = True,
) -> None:
  """Trains a run to its end in its folder, as `experiments.train` does.

  Everything that is wrong ends the process with one line and a status:
  WORKSPACE.md lists them.

  Args:
    config: the run's config.
    path: the run's folder; where it holds the run already, the run goes on.
    probe: numbers of held-out trials to record at the end.
    profile: write a trace of one range of updates.
    check_credit: check the credit that the rule gives to a cell that is not
      built in, before the run begins or goes on.
  """
  workdir = pathlib.Path(path)
  with contextlib.ExitStack() as stack:
    with commandline.bad_input():
      run = build.build(config)
      probed = probes.parse(probe, run)
      stack.enter_context(workdirs.locked(workdir))
      status, notes = workdirs.find(workdir, config)
      if status != 'finished':
        for note in notes:
          print(f'it may not go on bit for bit: {note}.')
        if check_credit and not factories.is_built_in(config.network.name):
          _say(checks.check_credit(_for_credit(config, run)))
        state, first = saved.begin(config, run, workdir, _say)
      if status == 'nothing':
        workdirs.create(workdir, config, run.first.task.spec)
    if status == 'finished':
      print(f'{workdir} is finished already; nothing to do.')
      result = workdirs.read_result(workdir)
    else:
      result = _train_or_end(
        config, run, workdir, state, first, probed=probed, profile=profile
      )
  metric = run.first.task.spec.metric
  print(
    f'held-out {metric} {result["eval"][metric]:.4f}, on training trials '
    f'{result["train"][metric]:.4f}; {result["wall_seconds"]:.1f} s'
  )
  print(f'wrote {workdir / "result.json"} and {workdir / "figures"}/')


def _for_credit(config, run: records.Run) -> records.Run:
  """The run with the rule that `checks.check_credit` needs.

  The rule of the run may compute in bfloat16, or be hidden in copies.
  """
  config, stage = config.copy_and_resolve_references(), run.first
  config.precision = ''
  dynamics = factories.make_dynamics(config, stage.task)
  rule = factories.make_rule(config, stage.task, dynamics, optax.identity())
  if not isinstance(rule, learners.GradientRule):
    rule = None
  return run._replace(stages=(stage._replace(dynamics=dynamics, rule=rule),))


def _train_or_end(config, run, workdir, state, first, **settings) -> dict:
  """`train_from`; what ends it ends the process in one line and a status."""
  again = f'The same command goes on from what is saved in {workdir}.'
  try:
    with signals.noted() as interrupted:
      return train_from(
        config, run, workdir, state, first, interrupted=interrupted, **settings
      )
  except ranges.InterruptedRun as stop:
    commandline.refuse(
      f'asked to stop: saved after update {stop.update}. {again}',
      status=signals.REQUEUE,
    )
  except KeyboardInterrupt:
    commandline.refuse(f'interrupted. {again}', status=130)
  except FloatingPointError as error:
    commandline.refuse(str(error), status=1)
  except OSError as error:
    commandline.refuse(f'{commandline.message(error)}. {again}', status=1)


def train_from(
  config: ml_collections.ConfigDict,
  run: records.Run,
  workdir: pathlib.Path,
  state: learners.LearnerState,
  first: int = 0,
  *,
  interrupted: Callable[[], bool] = lambda: False,
  probed: Sequence[int] = (),
  profile: bool = False,
) -> dict:
  """Trains to the end, and writes all that a finished run has.

  Args:
    config: the run's config.
    run: what was built from it.
    workdir: a folder made by `workdirs.create`.
    state: where to start, from `saved.begin`.
    first: updates behind it.
    interrupted: called at every border; if true, the state is saved.
    probed: held-out trials whose states and traces are recorded at the end.
    profile: write a trace of one range of updates.

  Returns:
    The content of result.json.

  Raises:
    FloatingPointError: if a metric is NaN or infinite; names the update. The
      last good checkpoint stays.
    ranges.InterruptedRun: after saving, if `interrupted`.
    OSError: if something cannot be written; what was saved stays.
  """
  start, cpu_start = time.perf_counter(), time.process_time()
  _announce(config, run, state)
  if first:
    _say(f'resuming after update {first}/{run.num_updates}')
  early_stopping = saved.ranking(
    run.first.task.spec,
    config.early_stopping.patience,
    config.early_stopping.min_delta,
  )
  scorer = scoring.scorer(run)
  evaluations = _Evaluations(run, scorer)
  state, update, rows = _advance(
    config,
    run,
    workdir,
    state,
    first,
    evaluate=evaluations,
    early_stopping=early_stopping,
    interrupted=interrupted,
    profile=profile,
  )
  # Evaluations are no training.
  cpu_seconds = time.process_time() - cpu_start - evaluations.cpu_seconds
  if update < run.num_updates:
    _say(
      f'stopped early: {early_stopping.metric} has not improved for '
      f'{early_stopping.patience} evaluations'
    )
  judged = scoring.judge(run, state, update, rows, scorer)
  fitted = scoring.score_training_trials(run, state)
  _say(table.table(judged))
  _write(judged, workdir)
  if probed:
    _write_probes(run, state, probed, workdir)
  result = {
    'updates': update,
    'wall_seconds': round(time.perf_counter() - start, 3),
    # What went before a resumption is not known.
    'cpu_seconds': None if first else round(cpu_seconds, 3),
    'train': fitted,
    'eval': judged.evaluations['held_out']['trained'],
  }
  workdirs.write_json(workdir / 'result.json', result)
  return result


def _advance(
  config,
  run,
  workdir,
  state,
  first,
  *,
  evaluate,
  early_stopping,
  interrupted,
  profile,
) -> tuple[learners.LearnerState, int, Sequence[writers.Row]]:
  """The loop: the last state, whole; the updates behind it; all rows."""
  folder = workdir / 'checkpoints'

  def record(update, split, metrics):
    writer.write(update, split, metrics)
    shown = {k: v for k, v in metrics.items() if k not in _FILES_ONLY}
    line = table.line(shown)
    if split == 'eval':
      _say(f'held out after {update}: {line}')
    else:
      bar.update(update - bar.n)
      pace = clock.tick(update)
      _say(f'update {update}/{run.num_updates}  {line}  {pace}')

  def save(state, update):
    state = updates.whole(run, state, update)
    checkpoints.save_checkpoint(state, folder, update)
    best = None
    if config.keep_best:
      best = ranges.best_update(writer.rows, early_stopping)
    checkpoints.prune(folder, config.keep_last, best)

  advance = updates.make_advance_between(run)
  if profile:
    advance = _profiled(advance, workdir / 'profile')
  clock = _Clock(first, run.num_updates, run.borders)
  with (
    writers.MetricsWriter(workdir, first) as writer,
    tqdm.tqdm(
      total=run.num_updates,
      initial=first,
      unit='update',
      disable=not sys.stderr.isatty(),
    ) as bar,
  ):
    state, update = ranges.train_ranges(
      updates.place(run, state, first),
      clock.timed(advance),
      num_updates=run.num_updates,
      intervals=ranges.Intervals(
        log=config.log_every,
        evaluate=config.eval_every,
        checkpoint=config.checkpoint_every or run.num_updates,
        also=run.borders,
      ),
      record=record,
      rows=writer.rows,
      first=first,
      evaluate=evaluate,
      save=save,
      early_stopping=early_stopping,
      keep_best=config.keep_best,
      interrupted=interrupted,
    )
  return updates.whole(run, state, update), update, writer.rows


class _Evaluations:
  """The held-out scores of a state, and the CPU seconds that all have taken."""

  def __init__(self, run: records.Run, scorer):
    self._run, self._scorer = run, scorer
    self.cpu_seconds = 0.0

  def __call__(self, state, update: int) -> dict[str, float]:
    began = time.process_time()
    scores, _, _ = self._scorer(updates.whole(self._run, state, update))
    self.cpu_seconds += time.process_time() - began
    return scores


def evaluate(
  path: str | os.PathLike[str],
  which: str = 'last',
  probe: Sequence[str] = (),
) -> None:
  """Judges a run again, as `experiments.evaluate` does.

  Args:
    path: the run's folder.
    which: the 'last' checkpoint, or the 'best'.
    probe: numbers of held-out trials to record.
  """
  workdir = pathlib.Path(path)
  with commandline.bad_input():
    run, state, update = saved.restore(workdir, which)
    probed = probes.parse(probe, run)
  print(f'{workdir}: {update} updates')
  rows = writers.read_rows(workdir / 'metrics.jsonl')
  rows = [row for row in rows if row['step'] <= update]
  judged = scoring.judge(run, state, update, rows)
  print(table.table(judged))
  try:
    _write(judged, workdir)
  except OSError as error:
    commandline.refuse(commandline.message(error), status=1)
  print(f'wrote {workdir / "evaluation.json"} and {workdir / "figures"}/')
  if probed:
    with commandline.bad_input():
      _write_probes(run, state, probed, workdir)
    print(f'wrote {workdir / "probes.npz"}')


def _write(judged: scoring.Judged, workdir: pathlib.Path) -> None:
  """Writes evaluation.json and the figures that apply."""
  table.write(judged, workdir)
  folder = workdir / 'figures'
  folder.mkdir(exist_ok=True)
  figures.draw_all(judged, folder)


def _write_probes(run, state, probed, workdir: pathlib.Path) -> None:
  recorded = probes.write(run, state, probed, workdir)
  figures.draw_probes(recorded, workdir / 'figures')


def _profiled(advance, folder: pathlib.Path):
  """Traces the second range of updates: the first one compiles."""
  calls = itertools.count()

  def traced(state, first, last):
    if next(calls) != 1:
      return advance(state, first, last)
    with jax.profiler.trace(os.fspath(folder)):
      answer = jax.block_until_ready(advance(state, first, last))
    _say(f'updates {first} to {last} are traced in {folder}/')
    return answer

  return traced


class _Clock:
  """Milliseconds per update and the time left, compilation left out."""

  def __init__(self, first: int, total: int, borders: Sequence[int]):
    self._update, self._total, self._borders = first, total, borders
    self._began = 0.0
    self._seen: set[tuple[int, int]] = set()
    self._seconds, self._updates = 0.0, 0

  def timed(self, advance):
    """The same function; a range counts from its call to its `tick`."""

    def timed(state, first, last):
      self._began = time.perf_counter()
      return advance(state, first, last)

    return timed

  def tick(self, update: int) -> str:
    """Notes the end of a range; says the pace and how long the rest takes."""
    length, self._update = update - self._update, update
    # Each length of a range is a program of its own, in each stage.
    program = (length, bisect.bisect_left(self._borders, update))
    if program in self._seen:  # so that no compilation is in the seconds
      self._seconds += time.perf_counter() - self._began
      self._updates += length
    self._seen.add(program)
    if not self._updates:
      return '(compiled)'
    pace = self._seconds / self._updates
    left = pace * (self._total - update)
    return f'{1e3 * pace:.2f} ms/update  ETA {left:.0f} s'


def _announce(config, run: records.Run, state: learners.LearnerState) -> None:
  spec, stages = run.first.task.spec, len(run.stages)
  _say(
    f'{spec.name}: {config.learner.name} on {config.network.name}, '
    f'{run.num_updates} updates of {run.first.batch_size} trials, '
    f'{spec.num_steps} step{"s" if spec.num_steps > 1 else ""} each'
    + (f', in the first of {stages} stages' if stages > 1 else '')
  )
  _say(
    f'parameters {optax.tree.size(state.params):,}  '
    f'constants {optax.tree.size(state.constants):,}'
  )
  _say(
    f'chance: {table.line(spec.chance)}   ceiling: {table.line(spec.ceiling)}'
  )


def _say(line: str) -> None:
  tqdm.tqdm.write(line)
  sys.stdout.flush()  # a pipe or a log file has it at once


def installed() -> str:
  """Every task, cell, network and learner installed, and every config."""
  lines = [
    f'{group.removeprefix("bionet.")}: '
    + ', '.join(plugins.names(group, builtin))
    for group, builtin in factories.BUILTIN.items()
  ]
  configs = pathlib.Path(__file__).parent / 'configs'
  files = sorted(p.name for p in configs.glob('*.py') if p.name[0] != '_')
  files.remove('base.py')
  return '\n'.join([*lines, f'configs: {", ".join(files)}'])
