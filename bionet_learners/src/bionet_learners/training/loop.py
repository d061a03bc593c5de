# SPDX-License-Identifier: Apache-2.0
"""Epochs of batches with a training step of your own."""

import contextlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from bionet_core import interfaces
from bionet_learners.training import (
  checkpoints,
  environment,
  files,
  folders,
  keywords,
  metrics,
  paths,
  ranges,
  stopping,
  writers,
)

State = TypeVar('State')

# A batch is whatever the step takes.
StepFn = Callable[[Any, Any, jax.Array], tuple[Any, Any]]
Batches = Callable[[], Iterable[Any]] | Iterable[Any]


@keywords.answered(
  data='data_iterator_fn',
  epochs='num_epochs',
  steps_per_epoch='num_batches',
  validation_data='val_data_iterator_fn',
  validation_steps='val_num_batches',
  workdir='checkpoint_dir',
)
def train_loop(
  state: State,
  train_step_fn: StepFn,
  data_iterator_fn: Batches,
  num_epochs: int,
  num_batches: int,
  rng_key: jax.Array,
  checkpoint_dir: str | os.PathLike[str] | None = None,
  checkpoint_every: int = 1,
  val_step_fn: StepFn | None = None,
  val_data_iterator_fn: Batches | None = None,
  val_num_batches: int | None = None,
  show_progress: bool = True,
  *,
  early_stopping: stopping.EarlyStopping | None = None,
  keep_last: int = 2,
  keep_best: bool = False,
  interrupted: Callable[[], bool] | None = None,
) -> tuple[State, dict[str, list[float]]]:
  """Trains epochs of batches with a step of your own.

  With a `checkpoint_dir`, a call with the same arguments goes on from the last
  checkpoint there and ends, bit for bit on a CPU, where it would have ended
  uninterrupted. For that, batch i must be the same in every call: the batches
  consumed are skipped, and step i draws from `fold_in(rng_key, i)`. One process
  at a time trains in a folder.

  Args:
    state: any tree of arrays, e.g. a `TrainState`.
    train_step_fn: `(state, batch, rng_key) -> (state, metrics)`, best jitted.
      The metrics are `{name: []}`, which weigh as much as their batch has
      trials, or a `Metrics` with a weight of its own. They stay on the device
      until the end of the epoch.
    data_iterator_fn: `() -> iterator` of batches, or something to iterate over
      again and again. Begun anew when it ends; longer or shorter than an epoch,
      each batch is used.
    num_epochs: epochs in all, those before a restart included.
    num_batches: batches of an epoch.
    rng_key: the root of the steps' keys.
    checkpoint_dir: where to save; None: nowhere.
    checkpoint_every: epochs between two checkpoints; the last epoch has one.
    val_step_fn: as `train_step_fn`; its state is dropped, its key the same at
      every evaluation, so that two differ by the state alone.
    val_data_iterator_fn: as `data_iterator_fn`, begun anew at each evaluation.
      An iterator proper would be used up by the first, and is refused.
    val_num_batches: batches of an evaluation; None: all there are.
    show_progress: a bar on standard error, where that is a terminal.
    early_stopping: when to stop, by the validation metrics.
    keep_last: how many of the latest checkpoints stay.
    keep_best: keep the checkpoint of the best epoch too (by `early_stopping`'s
      metric; patience 0 never stops).
    interrupted: called at every border; if true, saves and raises
      `ranges.InterruptedRun`.

  Returns:
    The final state, and the history: `{'train_loss': [...], 'val_loss':
    [...], ...}`, one value an epoch, those before a restart included.

  Raises:
    FloatingPointError: if a metric is NaN or infinite; names the batch.
    ValueError: for settings that cannot be, or a checkpoint_dir of other ones,
      or one where another process trains.
    TypeError: for data that can be iterated over only once, or for an unknown
      keyword; says which is meant.
  """
  _check_counts(
    num_epochs=num_epochs,
    num_batches=num_batches,
    checkpoint_every=checkpoint_every,
    keep_last=keep_last,
  )
  if (val_step_fn is None) != (val_data_iterator_fn is None):
    raise ValueError(
      'val_step_fn and val_data_iterator_fn belong together; one is None.'
    )
  selects = early_stopping is not None or keep_best
  if selects and (val_step_fn is None or early_stopping is None):
    raise ValueError(
      'early_stopping and keep_best choose by a validation metric: give '
      'val_step_fn and early_stopping (whose patience may be 0).'
    )
  if early_stopping is not None:
    early_stopping.check()
  if interrupted is not None and checkpoint_dir is None:
    raise ValueError(
      'interrupted saves before it stops: give checkpoint_dir, too.'
    )
  for data in (data_iterator_fn, val_data_iterator_fn):
    _check_begins_anew(data)
  total = num_epochs * num_batches
  with contextlib.ExitStack() as stack:
    folder, first = None, 0
    if checkpoint_dir is not None:
      folder = paths.local('checkpoint_dir', checkpoint_dir)
      folder.mkdir(parents=True, exist_ok=True)
      stack.enter_context(_alone_in(folder))
      _check_same_run(folder, rng_key, num_batches)
      state, first = _restored(folder, state, total)
    # fold_in takes 32 bits, and no run has that many batches.
    val_key = _fold_in(rng_key, 2**32 - 1)
    batches = _endless(data_iterator_fn)
    for _ in range(first):
      next(batches)
    writer = None
    if folder is not None:
      writer = stack.enter_context(writers.MetricsWriter(folder, first))
    rows: list[writers.Row] = writer.rows if writer else []

    def record(update, split, values):
      if writer:
        writer.write(update, split, values)
      else:
        rows.append(writers.make_row(update, split, values))
      bar.set_postfix_str(metrics.format_metrics(values))

    def advance(state, begin, end):
      parts = []
      for i in range(begin, end):
        batch = next(batches)
        state, values = train_step_fn(state, batch, _fold_in(rng_key, i))
        parts.append(_weighed(values, batch))
        bar.update()
      return state, parts

    evaluate = save = None
    if val_step_fn is not None and val_data_iterator_fn is not None:
      evaluate = _validation(
        val_step_fn, val_data_iterator_fn, val_num_batches, val_key
      )
    if folder is not None:
      save = _saving(
        folder, rows, keep_last, early_stopping if keep_best else None
      )
    bar = stack.enter_context(
      tqdm.tqdm(
        total=total,
        initial=first,
        unit='batch',
        disable=not (show_progress and sys.stderr.isatty()),
      )
    )
    state, _ = ranges.train_ranges(
      state,
      advance,
      num_updates=total,
      intervals=ranges.Intervals(
        log=num_batches,
        evaluate=num_batches if val_step_fn else 0,
        checkpoint=checkpoint_every * num_batches if folder else 0,
      ),
      record=record,
      rows=rows,
      first=first,
      evaluate=evaluate,
      save=save,
      early_stopping=early_stopping,
      keep_best=keep_best,
      interrupted=interrupted or (lambda: False),
    )
  return state, _history(rows)


@contextlib.contextmanager
def _alone_in(folder: pathlib.Path) -> Iterator[None]:
  """Inside, no other process trains in the folder."""
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(folders.locked(folder))
    except BlockingIOError as error:
      raise ValueError(
        f'checkpoint_dir={folder}: another process trains there now; choose '
        'another folder, or wait for its end.'
      ) from error
    yield


def _validation(step_fn, data, num_batches, key):
  """`(state, update) -> metrics` over the validation batches."""

  def evaluate(state, update):
    del update
    parts = []
    for i, batch in enumerate(itertools.islice(_begun(data), num_batches)):
      _, values = step_fn(state, batch, _fold_in(key, i))
      parts.append(_weighed(values, batch))
    return metrics.average_metrics(parts)

  return evaluate


def _saving(folder, rows, keep_last, by: stopping.EarlyStopping | None):
  """`(state, update)`: saves, and deletes what need not be kept."""

  def save(state, update):
    checkpoints.save_checkpoint(state, folder, update)
    best = ranges.best_updates(rows, by) if by is not None else ()
    checkpoints.prune(folder, keep_last, best)

  return save


def _restored(
  folder: pathlib.Path, state: State, total: int
) -> tuple[State, int]:
  """The state and position of the last checkpoint, or those of the start."""
  template = jax.eval_shape(lambda: state)
  restored = checkpoints.restore_latest(folder, lambda _: template, _tell)
  if restored is None:
    return state, 0
  if restored[1] > total:
    raise ValueError(
      f'checkpoint_dir={folder}: holds a run of {restored[1]} batches, more '
      f'than num_epochs * num_batches = {total}; choose another folder.'
    )
  _tell(f'{folder}: going on after batch {restored[1]} of {total}')
  return restored


def _tell(line: str) -> None:
  tqdm.tqdm.write(line, file=sys.stderr)


@jax.jit
def _folded(key: jax.Array, number: jax.Array) -> jax.Array:
  return jax.random.fold_in(key, number)


def _fold_in(key: jax.Array, number: int) -> jax.Array:
  # Put explicitly: the loop runs under a transfer guard.
  return _folded(key, jax.device_put(np.uint32(number)))


def _weighed(values: Any, batch: Any) -> metrics.Metrics:
  """A step's metrics; a plain dict weighs as much as its batch has trials."""
  if isinstance(values, metrics.Metrics):
    return values
  if not isinstance(values, Mapping):
    raise TypeError(
      f'a step returned a {type(values).__name__} for its metrics; it must be '
      '(state, {name: scalar}) or (state, Metrics).'
    )
  for name, value in values.items():
    if np.ndim(value):
      raise ValueError(
        f'metric {name!r} has shape {np.shape(value)}; it must be a scalar, or '
        'stand in Metrics with as many weights.'
      )
  if isinstance(batch, interfaces.Trials):
    return metrics.Metrics(values, batch.index.shape[0])
  lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
  if len(lengths) != 1 or lengths == {()}:
    raise ValueError(
      f'the arrays of a batch have leading axes {sorted(lengths)}, so that it '
      'is not clear how many trials it has: return Metrics(values, weight).'
    )
  return metrics.Metrics(values, lengths.pop()[0])


def _begun(data: Batches) -> Iterator[Any]:
  """An iterator over the data from their beginning."""
  return iter(data() if callable(data) else data)


def _check_begins_anew(data: Batches | None) -> None:
  if isinstance(data, Iterator):
    raise TypeError(
      'an iterator can be iterated over only once: give a function that makes '
      'one, or a list.'
    )


def _endless(data: Batches) -> Iterator[Any]:
  while True:
    empty = True
    for batch in _begun(data):
      empty = False
      yield batch
    if empty:
      raise ValueError('data_iterator_fn made an iterator without a batch.')


def _history(rows: Iterable[writers.Row]) -> dict[str, list[float]]:
  history: dict[str, list[float]] = {}
  for row in rows:
    prefix = 'val' if row['split'] == 'eval' else 'train'
    for name, value in row.items():
      if name not in ('step', 'split'):
        history.setdefault(f'{prefix}_{name}', []).append(value)
  return history


def _check_counts(**counts: int) -> None:
  for name, count in counts.items():
    if count < 1:
      raise ValueError(f'{name}={count}: must be at least 1.')


def _check_same_run(
  folder: pathlib.Path, rng_key: jax.Array, num_batches: int
) -> None:
  """Raises ValueError if the folder is of another key or length of epoch.

  What else may change the numbers is recorded there, and what differs is told.
  """
  key = rng_key
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.key_data(key)
  wanted = {
    'num_batches': num_batches,
    'rng_key': jax.device_get(key).tolist(),
    'generator': str(jax.random.key_impl(rng_key)),
  }
  here = environment.record()
  path = folder / 'loop.json'
  if not path.exists():
    files.write_atomically(path, json.dumps({**wanted, **here}))
    return
  begun = json.loads(path.read_text(encoding='utf-8'))
  for note in environment.differences(begun, here):
    _tell(f'{folder}: it may not go on bit for bit: {note}.')
  for name, value in wanted.items():
    if begun[name] != value:
      raise ValueError(
        f'checkpoint_dir={folder}: holds a run with {name}={begun[name]}, not '
        f'{value}; choose another folder.'
      )
