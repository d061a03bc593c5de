# SPDX-License-Identifier: Apache-2.0
"""Small problems that many tests share: cells, trials, a loss."""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces
from bionet_core.cells import cores
from bionet_learners import oracles

CORES = {'gru': hk.GRU, 'lstm': hk.LSTM, 'vanilla_rnn': hk.VanillaRNN}


class Sizes(NamedTuple):
  """The sizes of a task."""

  input_shape: tuple[int, ...] = (3,)
  num_outputs: int = 2


def squared_error(outputs, targets, mask):
  """The squared distance; the metric is the loss itself."""
  error = jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1) * mask)
  return error, {'error': error}


def trials(
  sizes, asked=None, *, seed=1, first=0, dtype=jnp.float32
) -> interfaces.Trials:
  """Normal inputs and targets, float `[T, B, I]` and `[T, B, O]`.

  Args:
    sizes: T, B, I and O.
    asked: the steps that are asked, all trials alike; None: every step.
    seed: of what is drawn.
    first: the number of the first trial.
    dtype: of all floats.
  """
  num_steps, batch, num_inputs, num_outputs = sizes
  rng = np.random.default_rng(seed)
  mask = np.zeros((num_steps, batch))
  asked = range(num_steps) if asked is None else asked
  mask[[*asked]] = 1 / len(asked)
  return interfaces.Trials(
    inputs=jnp.asarray(rng.normal(size=(num_steps, batch, num_inputs)), dtype),
    targets=jnp.asarray(
      rng.normal(size=(num_steps, batch, num_outputs)), dtype
    ),
    mask=jnp.asarray(mask, dtype),
    index=jnp.asarray(first + np.arange(batch)),
  )


def window(batch: interfaces.Trials, begin: int, end: int):
  """The steps from `begin` to before `end`."""
  return batch.replace(
    inputs=batch.inputs[begin:end],
    targets=batch.targets[begin:end],
    mask=batch.mask[begin:end],
  )


def stock(core: str, units: int = 3, num_outputs: int = 2) -> interfaces.Cell:
  """One of Haiku's cores, and a linear readout."""
  return cores.cell_from_core(
    lambda: CORES[core](units), lambda: hk.Linear(num_outputs)
  )


def leaky(
  num_inputs=2, units=3, num_outputs=2, *, leak=0.7, scale=0.6, dtype=None
) -> interfaces.Cell:
  """H <- leak h + tanh(x w + h r), read out by `out`; cheap to compile."""

  def init(key, inputs):
    shapes = {
      'w': (num_inputs, units),
      'r': (units, units),
      'out': (units, num_outputs),
    }
    keys = jax.random.split(key, len(shapes))
    return {
      name: scale * jax.random.normal(k, shape, inputs.dtype)
      for (name, shape), k in zip(shapes.items(), keys, strict=True)
    }, {}

  def initial_state(constants, keys):
    return jnp.zeros((keys.shape[0], units), dtype)

  def step(params, constants, state, keys, inputs):
    drive = inputs @ params['w'] + state @ params['r']
    state = (leak * state + jnp.tanh(drive)).astype(state.dtype)
    return state, state

  def readout(params, constants, emission):
    return emission @ params['out']

  return interfaces.Cell(init, initial_state, step, readout)


def in_windows(rule, params, constants, key, batch, lengths, forget=False):
  """Gradient and loss of a rule, summed over windows, the weights held fixed.

  To be compiled as a whole, `lengths` and `forget` static. A rule that is to
  `forget` loses its traces at each border: the mutant of all that carry them.
  """
  state = rule.init(key, params, constants, batch)
  total, loss, start = jax.tree.map(jnp.zeros_like, params), 0.0, 0
  for length in lengths:
    part = window(batch, start, start + length)
    found, state = rule.estimate(params, constants, state, key, part)
    if forget:
      at = state.per_trial
      nothing = jax.tree.map(jnp.zeros_like, at.traces)
      state = state._replace(per_trial=at._replace(traces=nothing))
    total = jax.tree.map(jnp.add, total, found.gradient)
    loss, start = loss + found.loss, start + length
  return total, loss


def errors(got, wanted, least=1e-4) -> dict[str, float]:
  """The relative error of each leaf, none of which may be too small."""
  found, leaves = {}, dict(jax.tree.leaves_with_path(got))
  for path, leaf in jax.tree.leaves_with_path(wanted):
    name = jax.tree_util.keystr(path)
    assert oracles.norm(leaf) > least, f'{name}: nothing to compare'
    found[name] = oracles.relative_error(leaves[path], leaf)
  return found


def bits(tree) -> list[bytes]:
  """Every leaf as bytes."""
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def temporary_memory(rule, params, constants, key, batch) -> int:
  """The bytes that a compiled estimate needs beside its arguments."""
  state = rule.init(key, params, constants, batch)
  lowered = jax.jit(rule.estimate).lower(params, constants, state, key, batch)
  return lowered.compile().memory_analysis().temp_size_in_bytes
