# SPDX-License-Identifier: Apache-2.0
"""One session with a run: trained into its folder, or judged again.

A session begins where the folder stands and ends where the run does, or where
it is interrupted. The commands `train` and `evaluate` are this and their flags.
"""

import bisect
import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import ml_collections
import optax
import tqdm

from bionet_learners import base as learners
from bionet_learners.training import checkpoints, paths, ranges, writers
from experiments import figures
from experiments.judge import measures, probes, profiling, scoring, table
from experiments.runs import (
  build,
  checks,
  factories,
  numerics,
  records,
  saved,
  updates,
)
from experiments.shell import (
  commandline,
  messages,
  signals,
  workdirs,
)

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
    profile: write a trace of one range of updates: the second of the run; where
      there is none, or the run is finished, the first, made anew and dropped.
    check_credit: check the credit that the rule gives to a cell that is not
      built in, before the run begins or goes on.
  """
  with contextlib.ExitStack() as stack:
    with commandline.bad_input():
      workdir = paths.local('--workdir', path)
      numerics.tell(config)
      run = build.build(config)
      probed = probes.parse(probe, run)
      interrupted = stack.enter_context(signals.noted())
      stack.enter_context(workdirs.locked(workdir))
      stack.enter_context(_ends_in_one_line(workdir))
      before = workdirs.listing(workdir)
      status, notes = workdirs.find(workdir, config)
      if status != 'nothing':
        workdirs.check_data(workdir, run.first.task.spec)
      inspects = bool(probed) or profile
      if status == 'finished' and inspects:
        _, state, _ = saved.restore(workdir, report=_say)
      elif status != 'finished':
        if status == 'unfinished':
          notes += numerics.notes(config)
        for note in notes:
          print(f'it may not go on bit for bit: {note}.')
        if check_credit and not factories.is_built_in(config.network.name):
          _say(checks.check_credit(_for_credit(config, run)))
        state, first = saved.begin(config, run, workdir, _say)
        if interrupted():
          raise ranges.InterruptedRun(first)
      if status == 'nothing':
        workdirs.create(workdir, config, run.first.task.spec)
    if status == 'finished':
      ending = '.' if inspects else '; nothing to do.'
      print(f'{workdir} is finished already{ending}')
      result = workdirs.read_result(workdir)
      with commandline.bad_input():
        profiler = _profiler(profile, workdir)
        if inspects:
          _inspect(run, workdir, state, probed, profiler, config.log_every)
    else:
      result = train_from(
        config,
        run,
        workdir,
        state,
        first,
        interrupted=interrupted,
        probed=probed,
        profile=profile,
      )
  metric = run.first.task.spec.metric
  print(
    f'held-out {metric} {result["eval"][metric]:.4f}, on training trials '
    f'{result["train"][metric]:.4f}; {result["wall_seconds"]:.1f} s'
  )
  _say_written(workdir, before)


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


@contextlib.contextmanager
def _ends_in_one_line(workdir: pathlib.Path) -> Iterator[None]:
  """Inside, what ends a run ends the process in one line and a status."""
  again = f'The same command goes on from what is saved in {workdir}.'
  try:
    yield
  except ranges.InterruptedRun as stop:
    saved_at = f'asked to stop: saved after update {stop.update}. {again}'
    commandline.refuse(
      saved_at if stop.update else signals.STOPPED_EARLY,
      status=signals.REQUEUE,
    )
  except KeyboardInterrupt:
    begun = (workdir / 'config.json').exists()
    commandline.refuse(
      f'interrupted. {again}' if begun else signals.INTERRUPTED_EARLY,
      status=signals.INTERRUPTED,
    )
  except FloatingPointError as error:
    commandline.refuse(str(error), status=1)
  except OSError as error:
    commandline.refuse(f'{messages.text(error)}. {again}', status=1)


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
  profiler = _profiler(profile, workdir)
  state, update, rows = _advance(
    config,
    run,
    workdir,
    state,
    first,
    evaluate=evaluations,
    early_stopping=early_stopping,
    interrupted=interrupted,
    profiler=profiler,
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
  _say(table.table(judged, legend=False))  # which the rows have had
  _write(judged, workdir)
  _inspect(run, workdir, state, probed, profiler, config.log_every)
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
  profiler,
) -> tuple[learners.LearnerState, int, Sequence[writers.Row]]:
  """The loop: the last state, whole; the updates behind it; all rows."""
  folder = workdir / 'checkpoints'

  known, explained = measures.of(run.first.task.spec), set()

  def record(update, split, metrics):
    writer.write(update, split, metrics)
    shown = {k: v for k, v in metrics.items() if k not in _FILES_ONLY}
    new = [name for name in shown if name not in explained]
    for line in measures.legend(new, known):
      _say(line)
    explained.update(shown)
    line = table.line(shown, known)
    if split == 'eval':
      _say(f'held out after {update}: {line}')
    else:
      bar.update(update - bar.n)
      pace = clock.tick(update)
      _say(f'update {update}/{run.num_updates}  {line}  {pace}')

  def save(state, update):
    state = updates.whole(run, state, update)
    checkpoints.save_checkpoint(state, folder, update)
    best = ()
    if config.keep_best:
      best = ranges.best_updates(writer.rows, early_stopping)
    checkpoints.prune(folder, config.keep_last, best)

  advance = updates.make_advance_between(run)
  if profiler is not None:
    advance = profiler.watching(advance)
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
  with commandline.bad_input():
    workdir = paths.local('--workdir', path)
    before = workdirs.listing(workdir)
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
    commandline.refuse(messages.text(error), status=1)
  if probed:
    with commandline.bad_input():
      _write_probes(run, state, probed, workdir)
  _say_written(workdir, before)


def _write(judged: scoring.Judged, workdir: pathlib.Path) -> None:
  """Writes evaluation.json and the figures that apply."""
  table.write(judged, workdir)
  folder = workdir / 'figures'
  folder.mkdir(exist_ok=True)
  figures.draw_all(judged, folder)


def _write_probes(run, state, probed, workdir: pathlib.Path) -> None:
  recorded = probes.write(run, state, probed, workdir)
  figures.draw_probes(recorded, workdir / 'figures')


def _profiler(profile: bool, workdir: pathlib.Path):
  return profiling.Profiler(workdir / 'profile', _say) if profile else None


def _inspect(run, workdir, state, probed, profiler, length) -> None:
  """Records the probes, and the trace that training has not left."""
  if probed:
    _write_probes(run, state, probed, workdir)
  if profiler is not None:
    profiler.trace_first(run, length)


def _say_written(workdir: pathlib.Path, before: Mapping[str, int]) -> None:
  """Names every file that is new or has changed, the last one written last."""
  after = workdirs.listing(workdir)
  written = [name for name in after if after[name] != before.get(name)]
  for name in sorted(written, key=after.__getitem__):
    print(f'wrote {workdir / name}' + ('/' if name.endswith('/') else ''))
  traces = [name for name in written if name.endswith('.trace.json.gz')]
  if traces:
    print(
      f'to see the trace, open {workdir / traces[-1]} at '
      'https://ui.perfetto.dev, or install tensorboard and xprof and start '
      f'tensorboard --logdir={workdir / "profile"}'
    )


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
  known = measures.of(spec)
  _say(
    f'chance: {table.line(spec.chance, known)}   '
    f'ceiling: {table.line(spec.ceiling, known)}'
  )


def _say(line: str) -> None:
  tqdm.tqdm.write(line)
  sys.stdout.flush()  # a pipe or a log file has it at once
