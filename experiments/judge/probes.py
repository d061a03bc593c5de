# SPDX-License-Identifier: Apache-2.0
"""Probes: states and traces of chosen trials, recorded."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners import base as learners
from bionet_learners import padding
from experiments.runs import records, updates

_SWEEPS = 20  # of a relaxation network, from zero states
_MAX_BYTES = 2**30


def parse(numbers: Sequence[str], run: records.Run) -> tuple[int, ...]:
  """The held-out trials that `--probe` names.

  Raises:
    ValueError: for what is no number of a held-out trial, or if the arrays of
      the trials would take more than 1 GiB.
  """
  total = run.first.task.evaluations['held_out'].num_trials
  for number in numbers:
    if not number.isdecimal() or int(number) >= total:
      raise ValueError(
        f'--probe: {number!r} is no held-out trial; they are numbered from 0 '
        f'to {total - 1}.'
      )
  chosen = tuple(int(number) for number in numbers)
  if chosen:
    _check_size(run, chosen)
  return chosen


def _check_size(run: records.Run, numbers: Sequence[int]) -> None:
  recorded = jax.eval_shape(
    lambda state: record(run, state, numbers),
    updates.template(run, run.num_updates),
  )
  size = sum(math.prod(x.shape) * x.dtype.itemsize for x in recorded.values())
  if size > _MAX_BYTES:
    raise ValueError(
      f'--probe: what is recorded of {len(numbers)} trials is '
      f'{size / 2**30:.1f} GiB; name fewer.'
    )


def write(
  run: records.Run,
  state: learners.LearnerState,
  numbers: Sequence[int],
  workdir: pathlib.Path | str,
) -> dict[str, np.ndarray]:
  """Writes `probes.npz`, and returns its arrays.

  The arrays are `inputs`, `targets`, `mask` and `outputs` as in `Trials`, but
  with inputs of 0 after the last asked step of a trial; the `number` of each
  trial, and `inside/NAME [S, n, ...]` of what the rule keeps
  per trial (states and traces of a cell after each of S = T steps), or of the
  rows of a relaxation network after each of S = 20 free sweeps from zero. There
  are `signals [T, n, N]` of a rule that sends its units a learning signal, of
  each trial by itself.
  """
  workdir = pathlib.Path(workdir)
  recorded = {k: np.asarray(v) for k, v in record(run, state, numbers).items()}
  partial = workdir / 'probes.partial.npz'
  np.savez_compressed(partial, **recorded)
  partial.replace(workdir / 'probes.npz')
  return recorded


def record(
  run: records.Run, state: learners.LearnerState, numbers: Sequence[int]
) -> dict[str, jax.Array]:
  """The arrays of `write`."""
  stage = run.first
  held_out = stage.task.evaluations['held_out']
  index = jnp.asarray(numbers)

  @jax.jit
  def shown(key):
    # All trials are drawn: a sample of a stream depends on the rows beside it.
    drawn = held_out.sample(key, jnp.arange(held_out.num_trials))
    trials = dataclasses.replace(
      drawn,
      index=drawn.index[index],
      **jax.tree.map(lambda x: x[:, index], unroll.timed(drawn)),
    )
    return padding.without_padding(trials, keep_unasked=True)

  trials = shown(stage.keys.held_out)
  key = stage.keys.held_out_noise
  if isinstance(stage.dynamics, interfaces.RelaxationNetwork):
    inside = lambda: _sweeps(stage.dynamics, state, key, trials)  # noqa: E731
  elif stage.rule is not None:
    inside = lambda: _steps(stage, state, key, trials)  # noqa: E731
  else:
    inside = dict
  outputs = jax.jit(stage.learner.predict)(state, key, trials)
  return {
    'number': index,
    **unroll.timed(trials),
    'outputs': outputs,
    **jax.jit(inside)(),
  }


def _steps(stage, state, key, trials) -> dict[str, jax.Array]:
  """What a rule keeps per trial, after each step, and its learning signals."""
  rule, params, constants = stage.rule, state.params, state.constants
  rule_start = rule.begin(params, constants, state.rule_state, key, trials)

  def advance(rule_state, step):
    window = jax.tree.map(lambda x: x[None], step)
    _, rule_state = rule.estimate(
      params, constants, rule_state, key, dataclasses.replace(trials, **window)
    )
    return rule_state, rule_state.per_trial

  recorded = _named(jax.lax.scan(advance, rule_start, unroll.timed(trials))[1])
  if rule.learning_signal is None:
    return recorded
  keys = unroll.trial_keys(key, trials.index)

  def advance_and_signal(cell_state, at_step):
    step, inputs, targets, mask = at_step
    emission, cell_state = stage.dynamics.step(
      params, constants, cell_state, unroll.step_keys(keys, step), inputs
    )
    signal = rule.learning_signal(
      params, constants, state.rule_state, emission, targets, mask
    )
    # The signal is that of the mean over trials; each trial's is B times it.
    return cell_state, signal * mask.shape[0]

  start = unroll.initial_state(stage.dynamics, constants, key, trials.index)
  steps = jnp.arange(trials.mask.shape[0])[:, None]
  steps = jnp.broadcast_to(steps, trials.mask.shape)
  over_time = (steps, trials.inputs, trials.targets, trials.mask)
  _, signals = jax.lax.scan(advance_and_signal, start, over_time)
  return {**recorded, 'signals': signals}


def _sweeps(network, state, key, trials) -> dict[str, jax.Array]:
  """The rows of a relaxation network, after each free sweep."""
  params, constants = state.params, state.constants
  keys = unroll.trial_keys(key, trials.index)
  rows = network.initial_state(params, constants, trials.inputs[0], None)

  def advance(rows, _):
    rows, _ = network.settle(
      params, constants, rows, keys, messages='free', sweeps=1
    )
    return rows, rows

  return _named(jax.lax.scan(advance, rows, None, length=_SWEEPS)[1])


def _named(tree: interfaces.ArrayTree) -> dict[str, jax.Array]:
  def name(where):
    return jax.tree_util.keystr(where, simple=True, separator='.') or 'state'

  return {
    f'inside/{name(where)}': leaf
    for where, leaf in jax.tree.leaves_with_path(tree)
  }
