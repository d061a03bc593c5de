# SPDX-License-Identifier: Apache-2.0
"""Trains what a config says, into a folder.

How to start it:

  python -m experiments.train --config=experiments/configs/prototypes.py \
    --workdir=runs/prototypes [--config.batch_size=32 ...]
  python -m experiments.train --list
"""

import dataclasses
import functools
import math
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm
from absl import flags

from bionet_core import plugins, unroll
from bionet_learners import base as learners
from bionet_learners.training import checkpoints, writers
from experiments import build, commandline, evaluate
from experiments import workdir as workdirs
from experiments.figures import confusion_matrix, learning_curve

_RANGE_BYTES = 256 * 2**20  # most that the trials of one compiled range take


def make_advance(run: build.Run):
  """The compiled inner loop: `(state, first, count) -> (state, metrics)`.

  One call samples the trials of `count` updates, scans over them, and leaves
  the metrics' mean on the device. What a task draws once an epoch is thus drawn
  outside the scan.

  Returns:
    The function; `first` is the number of the first update, `count` is static.
  """

  @functools.partial(jax.jit, static_argnums=2, donate_argnums=0)
  def advance(state, first, count):
    size = run.batch_size
    index = first * size + jnp.arange(count * size)
    trials = run.task.sample(run.keys.data, index, size)

    def split(x):  # [T, count * B, ...] -> [count, T, B, ...]
      x = x.reshape(x.shape[0], count, size, *x.shape[2:])
      return jnp.moveaxis(x, 1, 0)

    batches = dataclasses.replace(
      trials,
      index=trials.index.reshape(count, size),
      **jax.tree.map(split, unroll.timed(trials)),
    )
    state, metrics = jax.lax.scan(
      lambda state, batch: run.learner.update(state, run.keys.noise, batch),
      state,
      batches,
    )
    return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

  return advance


def init(run: build.Run) -> learners.LearnerState:
  """The learner's state before the first update."""
  index = jnp.arange(run.batch_size)
  return jax.jit(run.learner.init)(
    run.keys.init, run.task.sample(run.keys.data, index)
  )


def train(
  config: ml_collections.ConfigDict, run: build.Run, workdir: pathlib.Path
) -> dict:
  """Trains to the end and writes all that a finished run has.

  Args:
    config: the run's config.
    run: what was built from it.
    workdir: a folder made by `workdir.create`.

  Returns:
    The content of result.json.

  Raises:
    FloatingPointError: if a metric is NaN or infinite; names the updates.
  """
  start = time.perf_counter()
  state = init(run)
  _announce(config, run, state)
  rows: list[dict] = []

  def log(split, step, metrics):
    writer.write(step, split, metrics)
    rows.append({'step': step, 'split': split, **metrics})

  def evaluate_now(step):
    metrics, outputs, trials = score_held_out(state)
    _check_finite(f'held out after {step}', metrics)
    log('eval', step, metrics)
    _say(f'held out after {step}: {evaluate.describe(metrics)}')
    return metrics, outputs, trials

  score_held_out = evaluate.make_score(
    run.learner,
    run.task,
    run.task.evaluations['held_out'],
    run.keys.held_out,
    run.keys.held_out_noise,
  )
  advance = make_advance(run)
  with (
    writers.MetricsWriter(workdir) as writer,
    tqdm.tqdm(
      total=run.num_steps, unit='update', disable=not sys.stderr.isatty()
    ) as bar,
  ):
    clock = _Clock(run.num_steps)
    step = 0
    while step < run.num_steps:
      border = _next_border(step, run.num_steps, config)
      began = time.perf_counter()
      state, metrics = advance_to(border, step, state, advance, run)
      _check_finite(f'updates {step} to {border}', metrics)
      log('train', border, metrics)
      bar.update(border - step)
      pace = clock.tick(time.perf_counter() - began, step, border)
      step = border
      _say(
        f'update {step}/{run.num_steps}  {evaluate.describe(metrics)}  {pace}'
      )
      if step % config.eval_every == 0 and step < run.num_steps:
        evaluate_now(step)
    final, outputs, trials = evaluate_now(step)
    fitted, _, _ = evaluate.score(
      run.learner,
      state,
      run.task,
      evaluate.on_training_trials(run.task),
      run.keys.data,
      run.keys.noise,
    )

  checkpoints.save_checkpoint(state, workdir / 'checkpoints', step)
  figures = workdir / 'figures'
  learning_curve.draw(rows, run.task.spec, figures / 'learning_curve.png')
  classes = jnp.issubdtype(trials.targets.dtype, jnp.integer)
  if classes and trials.targets.ndim == 2:
    confusion_matrix.draw(outputs, trials, figures / 'confusion_matrix.png')
  result = {
    'steps': step,
    'wall_seconds': round(time.perf_counter() - start, 3),
    'train': fitted,
    'eval': final,
  }
  workdirs.write_json(workdir / 'result.json', result)
  return result


class _Clock:
  """Milliseconds an update and the time left, compilation left out."""

  def __init__(self, total: int):
    self._total = total
    self._seen: set[int] = set()
    self._seconds, self._updates = 0.0, 0

  def tick(self, seconds: float, first: int, border: int) -> str:
    """Notes a range of updates; says the pace and how long the rest takes."""
    length = border - first
    if length in self._seen:  # a new length was compiled on the way
      self._seconds += seconds
      self._updates += length
    self._seen.add(length)
    if not self._updates:
      return '(compiled)'
    pace = self._seconds / self._updates
    left = pace * (self._total - border)
    return f'{1e3 * pace:.2f} ms/update  ETA {left:.0f} s'


def advance_to(border, step, state, advance, run):
  """Advances to a border in ranges that fit in memory; one look at the end."""
  one = jax.eval_shape(
    run.task.sample, run.keys.data, jnp.arange(run.batch_size)
  )
  size = sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(one)
  )
  most = max(1, _RANGE_BYTES // size)
  parts = []
  while step < border:
    count = min(most, border - step)
    state, metrics = advance(state, jnp.int32(step), count)
    parts.append((count, metrics))
    step += count
  counts = np.array([count for count, _ in parts])
  means = jax.device_get([metrics for _, metrics in parts])
  return state, {
    name: float(np.average([mean[name] for mean in means], weights=counts))
    for name in means[0]
  }


def _check_finite(where: str, metrics: dict[str, float]) -> None:
  if not all(math.isfinite(value) for value in metrics.values()):
    raise FloatingPointError(
      f'{where}: a metric is not finite ({metrics}). Try a smaller learning '
      'rate, or optimizer.clip_norm.'
    )


def _next_border(step: int, num_steps: int, config) -> int:
  """The next update at which something is logged, evaluated or over."""
  intervals = (config.log_every, config.eval_every)
  return min(num_steps, *(step - step % n + n for n in intervals))


def _announce(config, run: build.Run, state: learners.LearnerState) -> None:
  spec = run.task.spec
  _say(
    f'{spec.name}: {config.learner.name} on {config.network.name}, '
    f'{run.num_steps} updates of {run.batch_size} trials, {spec.num_steps} '
    f'step{"s" if spec.num_steps > 1 else ""} each'
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
  with commandline.bad_input():
    run = build.build(config)
    workdir = workdirs.create(_WORKDIR.value, config)
  try:
    result = train(config, run, workdir)
  except FloatingPointError as error:
    commandline.refuse(str(error), status=1)
  metric = run.task.spec.metric
  print(
    f'held-out {metric} {result["eval"][metric]:.4f}, on training trials '
    f'{result["train"][metric]:.4f}; {result["wall_seconds"]:.1f} s'
  )
  print(f'wrote {workdir / "result.json"} and {workdir / "figures"}/')


if __name__ == '__main__':
  commandline.define_config('A file of experiments/configs, with :VARIANT.')
  _WORKDIR = flags.DEFINE_string('workdir', None, 'New folder of this run.')
  _LIST = flags.DEFINE_bool('list', False, 'List what is installed, and exit.')
  commandline.run(_main)
