# SPDX-License-Identifier: Apache-2.0
"""The types that the packages of bionet meet in. Nothing else is here.

Letters: T steps, B trials, I inputs, O outputs, N units. Arrays are time-major,
`[T, B, ...]`. Arguments come in the order `params, constants, state, keys,
data` (those that apply), results as `(result, new_state)`.

`params` is what learns: a nested dict of float arrays. `constants` is what does
not (frozen weights, masks, margins): drawn once by `init`, kept and
checkpointed beside the parameters, never shown to an optimizer. `keys` are
typed PRNG keys `[B]`, one a trial (see `bionet_core.unroll`).
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import chex
import jax

ArrayTree = Any
"""A tree of arrays: nested dicts, tuples and records."""

if TYPE_CHECKING:  # type checkers do not know that chex's is a dataclass
  _dataclass = dataclasses.dataclass
else:
  _dataclass = chex.dataclass


@_dataclass(frozen=True, kw_only=True)
class Trials:
  """A batch of trials.

  Attributes:
    inputs: float `[T, B, *I]`; T = 1 for a static task.
    targets: `[T, B, ...]`: float, or int classes.
    mask: float `[T, B]`, the weight of each step in the loss; it sums to 1
      over a whole trial, and is 0 where nothing is asked.
    index: int `[B]`, the trial's number in the run. A trial's data and noise
      are functions of it alone, so that batches, windows and devices change
      neither.
  """

  inputs: jax.Array
  targets: jax.Array
  mask: jax.Array
  index: jax.Array


class Sizes(Protocol):
  """What a cell's or network's factory may know of the task (its spec)."""

  @property
  def input_shape(self) -> tuple[int, ...]:
    """The shape I of one trial's inputs at one step."""
    ...

  @property
  def num_outputs(self) -> int:
    """O, the number of outputs."""
    ...


class Cell(NamedTuple):
  """A dynamical system that is advanced step by step.

  Attributes:
    init: `(key, inputs [B, *I]) -> (params, constants)`.
    initial_state: `(constants, keys [B]) -> state`; every leaf leads with B,
      and nothing in it is learned.
    step: `(params, constants, state, keys [B], inputs [B, *I])
      -> (emission [B, N], state)`.
    readout: `(params, constants, emission) -> outputs [B, O]`.
    log_density: for a step that draws from a density, else None: `(params,
      constants, state, keys [B], inputs [B, *I]) -> [B]`, the logarithm of the
      density of what that very step draws, up to a constant, as a function of
      the parameters: the draw is held fixed. All that a step does with the
      parameters it does through this draw.
    penalty: what a state costs beside the loss, else None: `(constants, state)
      -> [B]`. It is added where a trial is asked, with the mask's weight, and
      never sent through a readout or its feedback. The loss that a rule
      reports has it, that of an evaluation does not.
  """

  init: Callable[..., tuple[ArrayTree, ArrayTree]]
  initial_state: Callable[..., ArrayTree]
  step: Callable[..., tuple[jax.Array, ArrayTree]]
  readout: Callable[..., jax.Array]
  log_density: Callable[..., jax.Array] | None = None
  penalty: Callable[..., jax.Array] | None = None


class RelaxationNetwork(NamedTuple):
  """A network that settles, and says what is local in it.

  Targets are int classes `[B]` or float labels `[B, O]`.

  Attributes:
    init: `(key, inputs [B, *I]) -> (params, constants)`.
    initial_state: `(params, constants, inputs, targets or None) -> state`;
      with targets the output row is clamped to the label.
    settle: `(params, constants, state, keys, *, messages, sweeps)
      -> (state, changed [sweeps])`; `messages` names the messages let through
      ('all', 'forward', 'backward' or 'free': all but the output row's), and
      `changed` is the fraction of hidden units that each sweep flipped.
    readout: `(params, constants, state) -> scores [B, O]`.
    local_loss: `(params, constants, state, targets, gate=None) -> []`, the mean
      over trials of the sum of the edges' losses. Its gradient, with the states
      frozen, is the plasticity rule. `gate` `[B, 1]` weighs each trial.
  """

  init: Callable[..., tuple[ArrayTree, ArrayTree]]
  initial_state: Callable[..., ArrayTree]
  settle: Callable[..., tuple[ArrayTree, jax.Array]]
  readout: Callable[..., jax.Array]
  local_loss: Callable[..., jax.Array]


class Model(NamedTuple):
  """What makes parameters and gives answers: a cell or a network, closed.

  Attributes:
    init: `(key, trials) -> (params, constants)`.
    predict: `(params, constants, key, trials) -> outputs [T, B, O]`; it reads
      the inputs and the index of the trials, never targets or mask.
  """

  init: Callable[..., tuple[ArrayTree, ArrayTree]]
  predict: Callable[..., jax.Array]


class StepLoss(Protocol):
  """The loss of one step over a batch; a trial's loss is the sum over steps."""

  def __call__(
    self, outputs: jax.Array, targets: jax.Array, mask: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Scores one step.

    Args:
      outputs: float `[B, O]`.
      targets: `[B, ...]`.
      mask: float `[B]`, the weights of this step. A trial of weight 0 does not
        count, in a statistic over trials neither.

    Returns:
      The loss `[]`, and metrics `{name: []}`; both are weighted by the mask, so
      that their sum over the steps of whole trials is the trials' mean.
    """
    ...
