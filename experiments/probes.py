# SPDX-License-Identifier: Apache-2.0
"""Probes: what goes on inside for chosen trials, recorded and drawn."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners import base as learners
from experiments import build
from experiments.figures import probes as figure
from experiments.figures import spikes

_SWEEPS = 20  # of a relaxation network, from zero states
_MAX_BYTES = 2**30


def parse(numbers: Sequence[str], run: build.Run) -> tuple[int, ...]:
  """The held-out trials that `--probe` names.

  Raises:
    ValueError: for what is no number of a held-out trial.
  """
  total = run.task.evaluations['held_out'].num_trials
  for number in numbers:
    if not number.isdecimal() or int(number) >= total:
      raise ValueError(
        f'--probe: {number!r} is no held-out trial; they are numbered from 0 '
        f'to {total - 1}.'
      )
  return tuple(int(number) for number in numbers)


def write(
  run: build.Run,
  state: learners.LearnerState,
  numbers: Sequence[int],
  workdir: pathlib.Path | str,
) -> pathlib.Path:
  """Writes `probes.npz` and `figures/probes.png`, and returns the first.

  The arrays are `inputs`, `targets`, `mask` and `outputs` as in `Trials`, the
  `number` of each trial, and `inside/NAME [S, n, ...]` of what the rule keeps
  per trial (states and traces of a cell after each of S = T steps), or of the
  rows of a relaxation network after each of S = 20 free sweeps from zero.

  A cell of spiking units also gets `figures/spikes.png`.

  Raises:
    ValueError: if that is more than 1 GiB.
  """
  workdir = pathlib.Path(workdir)
  recorded = {k: np.asarray(v) for k, v in record(run, state, numbers).items()}
  path = workdir / 'probes.npz'
  partial = workdir / 'probes.partial.npz'
  np.savez_compressed(partial, **recorded)
  partial.replace(path)
  figure.draw(recorded, workdir / 'figures' / 'probes.png')
  if spikes.has_spikes(recorded):
    spikes.draw(recorded, workdir / 'figures' / 'spikes.png')
  return path


def record(
  run: build.Run, state: learners.LearnerState, numbers: Sequence[int]
) -> dict[str, jax.Array]:
  """The arrays of `write`."""
  held_out = run.task.evaluations['held_out']
  index = jnp.asarray(numbers)
  every = held_out.sample(run.keys.held_out, jnp.arange(held_out.num_trials))
  trials = dataclasses.replace(
    every,
    index=every.index[index],
    **jax.tree.map(lambda x: x[:, index], unroll.timed(every)),
  )
  key = run.keys.held_out_noise
  if isinstance(run.dynamics, interfaces.RelaxationNetwork):
    inside = lambda: _sweeps(run.dynamics, state, key, trials)  # noqa: E731
  elif run.rule is not None:
    inside = lambda: _steps(run.rule, state, key, trials)  # noqa: E731
  else:
    inside = dict
  size = sum(
    math.prod(x.shape) * x.dtype.itemsize
    for x in jax.tree.leaves(jax.eval_shape(inside))
  )
  if size > _MAX_BYTES:
    raise ValueError(
      f'--probe: states and traces of {len(numbers)} trials are '
      f'{size / 2**30:.1f} GiB; name fewer.'
    )
  outputs = jax.jit(run.learner.predict)(state, key, trials)
  return {
    'number': index,
    **unroll.timed(trials),
    'outputs': outputs,
    **{f'inside/{name}': x for name, x in jax.jit(inside)().items()},
  }


def _steps(rule, state, key, trials) -> dict[str, jax.Array]:
  """What a rule keeps per trial, after each step."""
  params, constants = state.params, state.constants
  begun = rule.begin(params, constants, state.rule_state, key, trials)

  def advance(rule_state, step):
    window = jax.tree.map(lambda x: x[None], step)
    _, rule_state = rule.estimate(
      params, constants, rule_state, key, dataclasses.replace(trials, **window)
    )
    return rule_state, rule_state.per_trial

  return _named(jax.lax.scan(advance, begun, unroll.timed(trials))[1])


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
  return {
    jax.tree_util.keystr(where, simple=True, separator='.') or 'state': leaf
    for where, leaf in jax.tree.leaves_with_path(tree)
  }
