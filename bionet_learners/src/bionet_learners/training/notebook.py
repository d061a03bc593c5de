# SPDX-License-Identifier: Apache-2.0
"""The loop for a notebook: a learner, a task, and rows of numbers."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import tqdm

from bionet_core import unroll
from bionet_learners import base
from bionet_learners.training import (
  keywords,
  metrics,
  ranges,
  scoring,
  writers,
)
from bionet_learners.training import learner as learners

_RUN = 0x72756E  # what the keys of a run are folded with: 'run'
_ROWS = 20  # about how many rows of a training run are recorded


class RunKeys(NamedTuple):
  """The PRNG keys of a run, one per role; all follow from the seed.

  Attributes:
    init: parameters and what a rule draws once.
    data: training trials.
    noise: their noise, in dynamics and rules.
    held_out: trials of evaluations.
    held_out_noise: their noise.
  """

  init: jax.Array
  data: jax.Array
  noise: jax.Array
  held_out: jax.Array
  held_out_noise: jax.Array


def run_keys(seed: int) -> RunKeys:
  """The keys of a run with this seed; a task makes other keys of it.

  Raises:
    ValueError: for a seed out of range.
  """
  if not 0 <= seed < 2**32:
    raise ValueError(f'seed={seed}: must be from 0 to 2**32 - 1.')
  root = jax.random.fold_in(unroll.seed_key(seed), _RUN)
  return RunKeys(*jax.random.split(root, len(RunKeys._fields)))


@keywords.answered(num_steps='num_updates')
def train(
  learner: base.Learner,
  task: scoring.Task,
  *,
  num_updates: int,
  batch_size: int,
  seed: int,
) -> tuple[base.LearnerState, list[writers.Row]]:
  """Trains a learner on a task, and evaluates it at the end.

  For notebooks and scripts: nothing is written, and a run that is interrupted
  is lost. The same learner, task, sizes and seed give the same rows, bit for
  bit on a CPU.

    import bionet_core as core, bionet_learners as bl, bionet_tasks as tasks
    import optax

    task = tasks.copying(num_symbols=5, time_lag=5)
    cell = core.gru(task.spec, hidden=64)
    rule = bl.d_rtrl(cell, task.loss)
    learner = bl.descend(rule, optax.adam(1e-2))
    state, rows = bl.train(
      learner, task, num_updates=1000, batch_size=64, seed=0
    )
    rows[-1]['accuracy']

  Updates are compiled together in ranges of one length, about 20 in a run. A
  last range that is shorter is compiled once more: round numbers of updates
  have none.

  Args:
    learner: the learner, e.g. of `descend`.
    task: the task, e.g. of `bionet_tasks`.
    num_updates: updates of the weights.
    batch_size: trials per update.
    seed: all draws follow from it.

  Returns:
    The learner's state, and the rows: for each range `{'step': updates done,
    'split': 'train', name: mean over the range}`, and at the end one of the
    held-out trials with `'split': 'eval'` and the task's metrics.

  Raises:
    FloatingPointError: if a metric is NaN or infinite; names the update.
    ValueError: for a size or a seed out of range.
  """
  for name, size in (('num_updates', num_updates), ('batch_size', batch_size)):
    if size < 1:
      raise ValueError(f'{name}={size}: must be at least 1.')
  keys = run_keys(seed)
  first = task.sample(keys.data, jnp.arange(batch_size), batch_size)
  state = jax.jit(learner.init)(keys.init, first)
  # Committed to its device, as the states that updates return are: otherwise
  # the second range would be compiled anew.
  state = jax.device_put(state, jax.local_devices()[0])
  size = _range_size(
    num_updates, learners.longest_range(task.sample, keys.data, batch_size)
  )
  advance = learners.make_advance(
    learner,
    task.sample,
    data_key=keys.data,
    noise_key=keys.noise,
    batch_size=batch_size,
  )
  score = scoring.make_score(
    learner,
    task,
    task.evaluations['held_out'],
    keys.held_out,
    keys.held_out_noise,
  )
  rows: list[writers.Row] = []
  with tqdm.tqdm(total=num_updates, unit='update') as bar:

    def record(step, split, values):
      rows.append(writers.make_row(step, split, values))
      bar.update(step - bar.n)
      bar.set_postfix_str(metrics.format_metrics(values))

    state, _ = ranges.train_ranges(
      state,
      learners.advance_between(advance, size),
      num_updates=num_updates,
      intervals=ranges.Intervals(log=size, evaluate=num_updates),
      record=record,
      rows=rows,
      evaluate=lambda state, step: score(state)[0],
    )
  return state, rows


def _range_size(num_updates: int, longest: int) -> int:
  """Updates of a range: a divisor of all where one is near a 20th of them."""
  most = min(math.ceil(num_updates / _ROWS), longest)
  sizes = range(most, most // 2, -1)
  return next((size for size in sizes if num_updates % size == 0), most)
