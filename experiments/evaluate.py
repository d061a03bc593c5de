# SPDX-License-Identifier: Apache-2.0
"""Scores a trained learner on every evaluation of its task.

How to start it:

  python -m experiments.evaluate --workdir=runs/prototypes

It prints a table, saves it as evaluation.json and draws the figures anew.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from absl import flags

from bionet_core import interfaces, unroll
from bionet_learners import base as learners
from bionet_learners.training import checkpoints, ranges, stopping, writers
from bionet_tasks import base as tasks
from experiments import build, commandline, judgement, probes, updates
from experiments import workdir as workdirs

_MAX_CHUNK = 1000  # trials predicted at once: bounds what a prediction takes


Score = tuple[dict[str, float], jax.Array, interfaces.Trials]


def score(
  learner: learners.Learner,
  state: learners.LearnerState,
  task: tasks.Task,
  evaluation: tasks.Evaluation,
  sample_key: jax.Array,
  noise_key: jax.Array,
) -> Score:
  """Scores one state: `make_score` for a single use."""
  return make_score(learner, task, evaluation, sample_key, noise_key)(state)


def make_score(
  learner: learners.Learner,
  task: tasks.Task,
  evaluation: tasks.Evaluation,
  sample_key: jax.Array,
  noise_key: jax.Array,
) -> Callable[[learners.LearnerState], Score]:
  """What predicts all trials of an evaluation and measures the predictions.

  Trials are predicted in chunks of one size; metrics are those of all trials
  together, so the chunks change nothing. Compiled at the first call only.

  Args:
    learner: the learner; its `predict` reads no targets.
    task: gives the metrics.
    evaluation: the trials.
    sample_key: draws the trials.
    noise_key: draws the noise of the trials.

  Returns:
    From the learner's state to the metrics as floats, the outputs `[T, B, O]`
    and the trials.
  """
  total = evaluation.num_trials
  num_chunks = math.ceil(total / _MAX_CHUNK)
  chunk = math.ceil(total / num_chunks)

  @jax.jit
  def run(state):
    trials = evaluation.sample(sample_key, jnp.arange(total))

    def predict(index):
      # The last chunk is filled up with copies of the last trial.
      index = jnp.minimum(index, total - 1)
      part = jax.tree.map(lambda x: x[:, index], timed)
      return learner.predict(
        state, noise_key, interfaces.Trials(index=trials.index[index], **part)
      )

    timed = unroll.timed(trials)
    index = jnp.arange(num_chunks * chunk).reshape(num_chunks, chunk)
    outputs = jnp.moveaxis(jax.lax.map(predict, index), 0, 1)
    outputs = outputs.reshape(outputs.shape[0], -1, *outputs.shape[3:])
    outputs = outputs[:, :total]
    return task.metrics(outputs, trials), outputs, trials

  def scored(state):
    metrics, outputs, trials = run(state)
    return {k: float(v) for k, v in metrics.items()}, outputs, trials

  return scored


def judge(
  run: build.Run,
  state: learners.LearnerState,
  step: int,
  rows: Sequence[writers.Row],
  score_held_out: Callable[[learners.LearnerState], Score] | None = None,
) -> judgement.Judged:
  """Judges a state on every evaluation, beside the untrained one.

  Args:
    run: what was built of the run's config.
    state: the state, whole.
    step: updates behind it.
    rows: rows of metrics.jsonl up to there.
    score_held_out: the `make_score` of 'held_out', where it is compiled.
  """
  untrained = updates.init(run)
  describe = run.task.describe
  evaluations, answers = {}, {}
  for name, evaluation in run.task.evaluations.items():
    score = score_held_out if name == 'held_out' else None
    keys = run.keys.held_out, run.keys.held_out_noise
    score = score or make_score(run.learner, run.task, evaluation, *keys)
    content = {'num_trials': evaluation.num_trials}
    described = {}
    for side, judged in (('trained', state), ('untrained', untrained)):
      content[side], outputs, trials = score(judged)
      if describe is not None:
        described[side] = describe(outputs, trials)
      if name == 'held_out':
        answers[side] = outputs, trials
    content['gain'] = {
      metric: value - content['untrained'][metric]
      for metric, value in content['trained'].items()
    }
    if describe is not None:
      content['described'] = described
    evaluations[name] = content
  outputs, trials = answers['trained']
  return judgement.Judged(
    run=run,
    state=state,
    untrained=untrained,
    step=step,
    rows=rows,
    evaluations=evaluations,
    trials=trials,
    outputs=outputs,
    untrained_outputs=answers['untrained'][0],
  )


def restore(
  path: str, which: str = 'last'
) -> tuple[build.Run, learners.LearnerState, int]:
  """The state of a run's last checkpoint that is whole, or of its best.

  Args:
    path: the run's folder.
    which: 'last', or 'best': of the evaluations whose state was kept, the one
      with the best main metric.

  Returns:
    What the run's config builds, on one device; the state; the updates behind
    it.

  Raises:
    FileNotFoundError: if there is no checkpoint, or none that was evaluated.
    ValueError, checkpoints.CorruptCheckpointError: if it cannot be used.
  """
  workdir = pathlib.Path(path)
  config = workdirs.read_config(workdir)
  config.devices = 1  # what is saved is whole, and predicts on one
  run = build.build(config)
  folder = workdir / 'checkpoints'
  if which == 'best':
    rows = writers.read_rows(workdir / 'metrics.jsonl')
    kept = checkpoints.all_steps(folder)
    rows = [row for row in rows if row['step'] in kept]
    best = ranges.best_step(rows, selection(run.task.spec))
    if best is None:
      raise FileNotFoundError(
        f'{workdir} has no checkpoint that was evaluated.'
      )
    kept = folder / f'checkpoint_{best}'
    state = checkpoints.load_checkpoint(kept, updates.template(run, best))
    return run, state, best
  found = checkpoints.restore_latest(
    folder, functools.partial(updates.template, run), print
  )
  if found is None:
    raise FileNotFoundError(f'{workdir} has no checkpoint.')
  return run, *found


def selection(
  spec: tasks.TaskSpec, patience: int = 0, min_delta: float = 0.0
) -> stopping.EarlyStopping:
  """Which evaluation is better: by the main metric, towards its ceiling."""
  up = spec.ceiling[spec.metric] > spec.chance[spec.metric]
  mode = 'max' if up else 'min'
  return stopping.EarlyStopping(spec.metric, patience, mode, min_delta).check()


def on_training_trials(task: tasks.Task, batch_size: int) -> tasks.Evaluation:
  """The training trials as an evaluation: how well is known what was learned.

  All samples of a finite training set; else the first of the run, as many as
  are held out. With the run's data key and batch size they are the very trials;
  of a stream, each batch is judged from the initial state.
  """
  held_out = task.evaluations['held_out'].num_trials
  sample = functools.partial(task.sample, batch_size=batch_size)
  return tasks.Evaluation(task.spec.num_data or held_out, sample)


def describe(metrics: dict[str, float]) -> str:
  """Metrics on one line: `accuracy 0.9563  loss 0.1360`."""
  return '  '.join(
    f'{name} {round(value, 4) + 0.0:.4f}'  # what is 0 so has no sign
    for name, value in metrics.items()
  )


def _main(argv: list[str]) -> None:
  del argv
  with commandline.bad_input():
    run, state, step = restore(_WORKDIR.value, _WHICH.value)
    probed = probes.parse(_PROBE.value, run)
  workdir = pathlib.Path(_WORKDIR.value)
  print(f'{workdir}: {step} updates')
  rows = writers.read_rows(workdir / 'metrics.jsonl')
  judged = judge(run, state, step, [r for r in rows if r['step'] <= step])
  print(judgement.table(judged))
  try:
    judgement.write(judged, workdir)
  except OSError as error:
    commandline.refuse(commandline.message(error), status=1)
  print(f'wrote {workdir / "evaluation.json"} and {workdir / "figures"}/')
  if probed:
    with commandline.bad_input():
      print(f'wrote {probes.write(run, state, probed, _WORKDIR.value)}')


if __name__ == '__main__':
  _WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run to evaluate.', required=True
  )
  _WHICH = flags.DEFINE_enum(
    'which', 'last', ['last', 'best'], 'The checkpoint to evaluate.'
  )
  _PROBE = flags.DEFINE_list(
    'probe',
    [],
    'Held-out trials, by number, whose states and traces to record.',
  )
  commandline.run(_main)
