# SPDX-License-Identifier: Apache-2.0
"""Runs that differ by their seeds alone, and tasks that measure alike."""

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from scipy import stats

from bionet_learners.training import notebook
from experiments.runs import factories

_SEEDS = ('seed', 'split')  # of the run, and of the task in it
_IGNORED = ('devices',)  # which changes no result
_TRIALS = 4  # of each of two evaluations are compared
_CONFIDENCE = 0.95


def settings(config: ml_collections.ConfigDict) -> dict[str, object]:
  """`{key: value}` of all that is set but the seeds."""
  return {
    key: value
    for key, value in _flat(config.to_dict())
    if not _is_seed(key) and key not in _IGNORED
  }


def _is_seed(key: str) -> bool:
  *sections, last = key.split('.')
  return last in _SEEDS and (not sections or sections[-1] == 'task')


def _flat(tree: Mapping, prefix: str = '') -> Iterator[tuple[str, object]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value


def groups(configs: Sequence[ml_collections.ConfigDict]) -> list[list[int]]:
  """The numbers of the configs that differ by seed alone, group by group.

  Groups stand in the order of their first. Two of one seed are two versions of
  one run, and no sample of two: where there are such, each is a group.
  """
  alike: dict[str, list[int]] = {}
  for number, config in enumerate(configs):
    key = repr(sorted(settings(config).items()))
    alike.setdefault(key, []).append(number)
  grouped = []
  for numbers in alike.values():
    drawn = {configs[number].seed for number in numbers}
    whole = len(drawn) == len(numbers)
    grouped += [numbers] if whole else [[number] for number in numbers]
  return sorted(grouped)


def difference(
  first: ml_collections.ConfigDict, other: ml_collections.ConfigDict
) -> str:
  """Why what two runs were judged by cannot be compared; '' if it can be.

  The tasks must have the same settings but for seeds, or such as change the
  training alone: with one seed, both hold out the same trials.

  Args:
    first: the config of a run.
    other: that of another.
  """
  left, right = _of_one_seed(first.task), _of_one_seed(other.task)
  differ = [key for key in {**left, **right} if left.get(key) != right.get(key)]
  if not differ:
    return ''
  key = differ[0]
  if left['name'] != right['name']:
    key = 'name'
  else:
    mine = _held_out(left)
    if _same(mine, _held_out(right)):
      return ''
    # Of many, one that matters: changed alone, it changes what is held out.
    for candidate in differ:
      changed = {k: v for k, v in left.items() if k != candidate}
      if candidate in right:
        changed[candidate] = right[candidate]
      try:
        matters = not _same(mine, _held_out(changed))
      except (KeyError, TypeError, ValueError):  # it does not stand alone
        continue
      if matters:
        key = candidate
        break
  return (
    f'task.{key} is {left.get(key, "not set")!r} in the one and '
    f'{right.get(key, "not set")!r} in the other'
  )


def _of_one_seed(task: ml_collections.ConfigDict) -> dict[str, object]:
  """The settings of a task, its seeds 0."""
  settings = task.to_dict()
  seeds = {key: 0 for key in _SEEDS if isinstance(settings.get(key), int)}
  return {**settings, **seeds}


def _held_out(settings: Mapping[str, object]):
  """What a task is judged by: its main metric, and some held-out trials."""
  task = factories.make_task(ml_collections.ConfigDict({'task': settings}))
  held_out = task.evaluations['held_out']
  index = jnp.arange(min(_TRIALS, held_out.num_trials))
  trials = held_out.sample(notebook.run_keys(0).held_out, index)
  return (task.spec.metric, held_out.num_trials), jax.tree.leaves(trials)


def _same(left, right) -> bool:
  return left[0] == right[0] and all(map(np.array_equal, left[1], right[1]))


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The 95 % interval of the mean over rows `[R, n]`, R >= 2, by Student's t.

  Returns:
    Its lower and its upper end, `[n]`.
  """
  count = len(values)
  error = np.std(values, axis=0, ddof=1) / np.sqrt(count)
  half = stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1) * error
  mean = np.mean(values, axis=0)
  return mean - half, mean + half
