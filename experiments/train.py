# SPDX-License-Identifier: Apache-2.0
"""Trains what a config says, into a folder.

How to start it:

  python -m experiments.train --config=experiments/configs/prototypes.py \
    --workdir=runs/prototypes [--config.batch_size=32 ...]
  python -m experiments.train --list
"""

import bisect
import contextlib
import functools
import itertools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import jax
import ml_collections
import tqdm
from absl import flags

from bionet_core import plugins
from bionet_learners import base as learners
from bionet_learners.training import (
  checkpoints,
  ranges,
  writers,
)
from experiments import (
  build,
  commandline,
  evaluate,
  judgement,
  probes,
  signals,
  updates,
)
from experiments import workdir as workdirs

# What goes to the files alone: it would make a line of progress too long.
_FILES_ONLY = ('gradient_norm', 'update_norm', 'learning_rate')


def train(
  config: ml_collections.ConfigDict,
  run: build.Run,
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
    workdir: a folder made by `workdir.create`.
    state: where to start, from `begin`.
    first: updates behind it.
    interrupted: asked at every border; if so, the state is saved.
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
  judging = []  # CPU seconds of evaluations, which are no training
  folder = workdir / 'checkpoints'
  _announce(config, run, state)
  if first:
    _say(f'resuming after update {first}/{run.num_steps}')
  stop = evaluate.selection(
    run.task.spec,
    config.early_stopping.patience,
    config.early_stopping.min_delta,
  )
  score_held_out = evaluate.make_score(
    run.learner,
    run.task,
    run.task.evaluations['held_out'],
    run.keys.held_out,
    run.keys.held_out_noise,
  )
  intervals = ranges.Intervals(
    log=config.log_every,
    evaluate=config.eval_every,
    checkpoint=config.checkpoint_every or run.num_steps,
    also=tuple(updates.borders(run)),
  )

  def record(step, split, metrics):
    writer.write(step, split, metrics)
    shown = {k: v for k, v in metrics.items() if k not in _FILES_ONLY}
    line = evaluate.describe(shown)
    if split == 'eval':
      _say(f'held out after {step}: {line}')
    else:
      bar.update(step - bar.n)
      _say(f'update {step}/{run.num_steps}  {line}  {clock.tick(step)}')

  def held_out(state, step):
    del step
    began = time.process_time()
    scores, _, _ = score_held_out(updates.whole(run, state))
    judging.append(time.process_time() - began)
    return scores

  def save(state, step):
    checkpoints.save_checkpoint(updates.whole(run, state), folder, step)
    best = ranges.best_step(writer.rows, stop) if config.keep_best else None
    checkpoints.prune(folder, config.keep_last, best)

  advance = updates.make_advance_between(run)
  if profile:
    advance = _profiled(advance, workdir / 'profile')
  clock = _Clock(first, run.num_steps, updates.borders(run))
  with (
    writers.MetricsWriter(workdir, first) as writer,
    tqdm.tqdm(
      total=run.num_steps,
      initial=first,
      unit='update',
      disable=not sys.stderr.isatty(),
    ) as bar,
  ):
    state, step = ranges.train_ranges(
      updates.place(run, state),
      clock.timed(advance),
      num_steps=run.num_steps,
      intervals=intervals,
      record=record,
      rows=writer.rows,
      first=first,
      evaluate=held_out,
      save=save,
      early_stopping=stop,
      keep_best=config.keep_best,
      interrupted=interrupted,
    )
  cpu_seconds = time.process_time() - cpu_start - sum(judging)
  if step < run.num_steps:
    _say(
      f'stopped early: {run.task.spec.metric} has not improved for '
      f'{stop.patience} evaluations'
    )
  state = updates.whole(run, state)
  judged = evaluate.judge(run, state, step, writer.rows, score_held_out)
  last = (run, *run.later)[-1]  # the stage that the state comes from
  fitted, _, _ = evaluate.score(
    last.learner,
    state,
    last.task,
    evaluate.on_training_trials(last.task, last.batch_size),
    last.keys.data,
    last.keys.noise,
  )
  _say(judgement.table(judged))
  judgement.write(judged, workdir)
  if probed:
    probes.write(run, state, probed, workdir)
  result = {
    'steps': step,
    'wall_seconds': round(time.perf_counter() - start, 3),
    'cpu_seconds': None if first else round(cpu_seconds, 3),
    'train': fitted,
    'eval': judged.evaluations['held_out']['trained'],
  }
  workdirs.write_json(workdir / 'result.json', result)
  return result


def begin(
  config: ml_collections.ConfigDict, run: build.Run, workdir: pathlib.Path
) -> tuple[learners.LearnerState, int]:
  """The state to start from and the updates behind it; writes nothing.

  That of the last checkpoint that is whole; without one, the parameters and
  constants of `config.init_from`; without that, those of the seed.

  Raises:
    ValueError: if what is saved is not of this run's shapes; names the leaf.
    checkpoints.CorruptCheckpointError: if there are checkpoints, none whole.
    FileNotFoundError: if `init_from` has none.
  """
  found = checkpoints.restore_latest(
    workdir / 'checkpoints', functools.partial(updates.template, run), _say
  )
  if found is not None:
    return found
  state = updates.init(run)
  if not config.init_from:
    return state, 0
  if run.rule is None and jax.tree.leaves(state.rule_state.shared):
    raise ValueError(
      f'init_from is {config.init_from!r}, but {config.learner.name!r} learns '
      'from members or copies of its own, not from one set of parameters.'
    )
  _, learned, step = evaluate.restore(config.init_from)
  for part in ('params', 'constants'):
    checkpoints.check_like(
      getattr(learned, part),
      getattr(state, part),
      f'init_from {config.init_from}: {part} ',
    )
  _say(f'starting from the parameters of {config.init_from}, update {step}')
  return state._replace(params=learned.params, constants=learned.constants), 0


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
  """Milliseconds an update and the time left, compilation left out."""

  def __init__(self, first: int, total: int, stages: Sequence[int]):
    self._step, self._total, self._stages = first, total, stages
    self._began = 0.0
    self._seen: set[tuple[int, int]] = set()
    self._seconds, self._updates = 0.0, 0

  def timed(self, advance):
    """The same function; a range counts from its call to its `tick`."""

    def timed(state, first, last):
      self._began = time.perf_counter()
      return advance(state, first, last)

    return timed

  def tick(self, step: int) -> str:
    """Notes the end of a range; says the pace and how long the rest takes."""
    length, self._step = step - self._step, step
    program = (length, bisect.bisect_left(self._stages, step))
    if program in self._seen:  # a new one was compiled on the way
      self._seconds += time.perf_counter() - self._began
      self._updates += length
    self._seen.add(program)
    if not self._updates:
      return '(compiled)'
    pace = self._seconds / self._updates
    left = pace * (self._total - step)
    return f'{1e3 * pace:.2f} ms/update  ETA {left:.0f} s'


def _announce(config, run: build.Run, state: learners.LearnerState) -> None:
  spec = run.task.spec
  stages = len(run.later) + 1
  _say(
    f'{spec.name}: {config.learner.name} on {config.network.name}, '
    f'{run.num_steps} updates of {run.batch_size} trials, {spec.num_steps} '
    f'step{"s" if spec.num_steps > 1 else ""} each'
    + (f', in the first of {stages} stages' if stages > 1 else '')
  )
  _say(
    f'parameters {build.count(state.params):,}  '
    f'constants {build.count(state.constants):,}'
  )
  _say(
    f'chance: {evaluate.describe(dict(spec.chance))}   '
    f'ceiling: {evaluate.describe(dict(spec.ceiling))}'
  )


def _say(line: str) -> None:
  tqdm.tqdm.write(line)
  sys.stdout.flush()  # a pipe or a log file should see it now


def list_plugins() -> str:
  """Every task, cell, network and learner installed, and every config."""
  lines = [
    f'{group.removeprefix("bionet.")}: '
    + ', '.join(plugins.names(group, builtin))
    for group, builtin in build.BUILTIN.items()
  ]
  configs = pathlib.Path(__file__).parent / 'configs'
  files = sorted(p.name for p in configs.glob('*.py') if p.name[0] != '_')
  files.remove('base.py')
  return '\n'.join([*lines, f'configs: {", ".join(files)}'])


def _main(argv: list[str]) -> None:
  del argv
  if _LIST.value:
    with commandline.bad_input():
      print(list_plugins())
    return
  config = flags.FLAGS.config
  if config is None or not _WORKDIR.value:
    commandline.refuse('--config and --workdir are needed (or --list).')
  workdir = pathlib.Path(_WORKDIR.value)
  with contextlib.ExitStack() as stack:
    with commandline.bad_input():
      run = build.build(config)
      probed = probes.parse(_PROBE.value, run)
      stack.enter_context(workdirs.locked(workdir))
      found = workdirs.find(workdir, config)
      if found.status != 'finished':
        state, first = begin(config, run, workdir)
      if found.status == 'nothing':
        workdirs.create(workdir, config, run.task.spec)
    if found.status == 'finished':
      print(f'{workdir} is finished already; nothing to do.')
      result = workdirs.read_result(workdir)
    else:
      for note in found.notes:
        print(f'it may not go on bit for bit: {note}.')
      result = _train(config, run, workdir, state, first, probed)
  metric = run.task.spec.metric
  print(
    f'held-out {metric} {result["eval"][metric]:.4f}, on training trials '
    f'{result["train"][metric]:.4f}; {result["wall_seconds"]:.1f} s'
  )
  print(f'wrote {workdir / "result.json"} and {workdir / "figures"}/')


def _train(config, run, workdir, state, first, probed) -> dict:
  """`train`, where all that may end it ends in one line and a status."""
  again = f'The same command goes on from what is saved in {workdir}.'
  try:
    with signals.noted() as interrupted:
      return train(
        config,
        run,
        workdir,
        state,
        first,
        interrupted=interrupted,
        probed=probed,
        profile=_PROFILE.value,
      )
  except ranges.InterruptedRun as stop:
    commandline.refuse(
      f'asked to stop: saved after update {stop.step}. {again}',
      status=signals.REQUEUE,
    )
  except KeyboardInterrupt:
    commandline.refuse(f'interrupted. {again}', status=130)
  except FloatingPointError as error:
    commandline.refuse(str(error), status=1)
  except OSError as error:
    commandline.refuse(f'{commandline.message(error)}. {again}', status=1)


if __name__ == '__main__':
  commandline.define_config('A file of experiments/configs, with :VARIANT.')
  _WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of this run; where it holds the run already, it goes on.',
  )
  _PROBE = flags.DEFINE_list(
    'probe',
    [],
    'Held-out trials, by number, to record from the inside at the end.',
  )
  _PROFILE = flags.DEFINE_bool(
    'profile', False, 'Write a JAX trace of one range of updates.'
  )
  _LIST = flags.DEFINE_bool('list', False, 'List what is installed, and exit.')
  commandline.run(_main)
