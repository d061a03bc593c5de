# SPDX-License-Identifier: Apache-2.0
"""The types that the packages of bionet meet in. Nothing else is here.

Letters: T steps, B trials, I inputs, O outputs, N units. Arrays are time-major,
`[T, B, ...]`. Arguments come in the order `params, constants, state, keys,
data` (those that apply), results as `(result, new_state)`.

`params` is what learns: a nested dict of float arrays. `constants` is what does
not (frozen weights, masks, margins): drawn once by `init`, kept and
checkpointed beside the parameters, never shown to an optimizer. `keys` are
typed PRNG keys `[B]`, one per trial (see `bionet_core.unroll`).

The function-valued fields of the records are Protocols, and their parameters
are positional-only: a function fits by the order of its parameters, whatever
their names, and so does a lambda.
"""

import dataclasses
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
    targets: `[T, B, ...]`: float, or int classes. Where the mask is 0 they may
      be anything: no loss and no metric reads them.
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


class InitFn(Protocol):
  """Draws what a cell or a network has before it learns."""

  def __call__(
    self, key: jax.Array, inputs: jax.Array, /
  ) -> tuple[ArrayTree, ArrayTree]:
    """Returns `(params, constants)`.

    Args:
      key: one typed key; the same key draws the same values.
      inputs: float `[B, *I]`, of one step; only the shape and dtype count.
    """
    ...


class InitialStateFn(Protocol):
  """Makes a cell's state before the first step of its trials."""

  def __call__(self, constants: ArrayTree, keys: jax.Array, /) -> ArrayTree:
    """Returns the state; every leaf leads with B and holds nothing learned.

    Args:
      constants: the cell's constants.
      keys: `[B]`, one per trial.
    """
    ...


class StepFn(Protocol):
  """Advances a cell by one step."""

  def __call__(
    self,
    params: ArrayTree,
    constants: ArrayTree,
    state: ArrayTree,
    keys: jax.Array,
    inputs: jax.Array,
    /,
  ) -> tuple[jax.Array, ArrayTree]:
    """Returns `(emission [B, N], state)`, the state like the one it got.

    Args:
      params: the cell's parameters.
      constants: the cell's constants.
      state: the state before the step; leaves lead with B.
      keys: `[B]`, of this step of each trial: all that the step may draw from.
      inputs: float `[B, *I]`.
    """
    ...


class ReadoutFn(Protocol):
  """Reads a cell's outputs from its emission."""

  def __call__(
    self, params: ArrayTree, constants: ArrayTree, emission: jax.Array, /
  ) -> jax.Array:
    """Returns the outputs float `[B, O]` of an emission `[B, N]`."""
    ...


class LogDensityFn(Protocol):
  """The density of what a noisy step draws."""

  def __call__(
    self,
    params: ArrayTree,
    constants: ArrayTree,
    state: ArrayTree,
    keys: jax.Array,
    inputs: jax.Array,
    /,
  ) -> jax.Array:
    """Returns the log density `[B]` of the draw, up to a constant.

    Takes what the step takes. The draw is held fixed, so that the result is a
    function of the parameters; a step may use the parameters through this draw
    alone.
    """
    ...


class PenaltyFn(Protocol):
  """What a state costs beside the loss."""

  def __call__(self, constants: ArrayTree, state: ArrayTree, /) -> jax.Array:
    """Returns the cost `[B]` of the state after a step."""
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
      the parameters.
    penalty: what a state costs beside the loss, else None: `(constants, state)
      -> [B]`. It is added where a trial is asked, with the mask's weight, and
      passes no readout. A training loss contains it, an evaluation does not.
  """

  init: InitFn
  initial_state: InitialStateFn
  step: StepFn
  readout: ReadoutFn
  log_density: LogDensityFn | None = None
  penalty: PenaltyFn | None = None


class NetworkStateFn(Protocol):
  """Makes the state that a relaxation network settles from."""

  def __call__(
    self,
    params: ArrayTree,
    constants: ArrayTree,
    inputs: jax.Array,
    targets: jax.Array | None,
    /,
  ) -> ArrayTree:
    """Returns the state; with targets its output row is clamped to the label.

    Args:
      params: the network's parameters.
      constants: the network's constants.
      inputs: float `[B, *I]`.
      targets: int classes `[B]`, float labels `[B, O]`, or None.
    """
    ...


class SettleFn(Protocol):
  """Sweeps over the units of a relaxation network."""

  def __call__(
    self,
    params: ArrayTree,
    constants: ArrayTree,
    state: ArrayTree,
    keys: jax.Array,
    /,
    *,
    messages: str,
    sweeps: int,
  ) -> tuple[ArrayTree, jax.Array]:
    """Returns `(state, changed [sweeps])`.

    `changed` is the fraction of hidden units that each sweep flipped.

    Args:
      params: the network's parameters.
      constants: the network's constants.
      state: the state to settle from.
      keys: `[B]`, one per trial.
      messages: the messages let through: 'all', 'forward', 'backward', or
        'free' (all but the output row's).
      sweeps: how many sweeps.
    """
    ...


class NetworkReadoutFn(Protocol):
  """Reads a relaxation network's scores from its state."""

  def __call__(
    self, params: ArrayTree, constants: ArrayTree, state: ArrayTree, /
  ) -> jax.Array:
    """Returns the scores float `[B, O]`."""
    ...


class LocalLossFn(Protocol):
  """The loss whose gradient is a relaxation network's plasticity rule."""

  def __call__(
    self,
    params: ArrayTree,
    constants: ArrayTree,
    state: ArrayTree,
    targets: jax.Array,
    gate: jax.Array | None = None,
    /,
  ) -> jax.Array:
    """Returns the mean `[]` over trials of the sum of the edges' losses.

    Args:
      params: the network's parameters.
      constants: the network's constants.
      state: a settled state; the loss has no gradient in it.
      targets: int classes `[B]` or float labels `[B, O]`.
      gate: float `[B, 1]`, the weight of each trial; None: 1.
    """
    ...


class RelaxationNetwork(NamedTuple):
  """A network that settles, and says what is local in it.

  Targets are int classes `[B]` or float labels `[B, O]`.

  Attributes:
    init: `(key, inputs [B, *I]) -> (params, constants)`.
    initial_state: `(params, constants, inputs, targets or None) -> state`;
      with targets the output row is clamped to the label.
    settle: `(params, constants, state, keys, *, messages, sweeps)
      -> (state, changed [sweeps])`.
    readout: `(params, constants, state) -> scores [B, O]`.
    local_loss: `(params, constants, state, targets, gate=None) -> []`. Its
      gradient, with the states frozen, is the plasticity rule.
  """

  init: InitFn
  initial_state: NetworkStateFn
  settle: SettleFn
  readout: NetworkReadoutFn
  local_loss: LocalLossFn


class ModelInitFn(Protocol):
  """Draws a model's parameters and constants."""

  def __call__(
    self, key: jax.Array, trials: Trials, /
  ) -> tuple[ArrayTree, ArrayTree]:
    """Returns `(params, constants)` for trials of these shapes."""
    ...


class PredictFn(Protocol):
  """Answers trials."""

  def __call__(
    self,
    params: ArrayTree,
    constants: ArrayTree,
    key: jax.Array,
    trials: Trials,
    /,
  ) -> jax.Array:
    """Returns the outputs `[T, B, O]`.

    Reads the inputs and the index of the trials, never targets or mask.

    Args:
      params: the model's parameters.
      constants: the model's constants.
      key: one typed key, from which the trials' keys follow.
      trials: whole trials.
    """
    ...


class Model(NamedTuple):
  """What makes parameters and gives answers: a cell or a network, closed.

  Attributes:
    init: `(key, trials) -> (params, constants)`.
    predict: `(params, constants, key, trials) -> outputs [T, B, O]`.
  """

  init: ModelInitFn
  predict: PredictFn


class SampleFn(Protocol):
  """Makes the training trials of a task by their numbers."""

  def __call__(
    self, key: jax.Array, index: jax.Array, batch_size: int | None = None, /
  ) -> Trials:
    """Returns the trials with these numbers in the run.

    Update s of a run with batches of B takes the trials `s * B + arange(B)`.
    The trials of a range of updates may be sampled in one call: they come out
    the same. What changes with the update (a schedule in the targets) reads it
    as `index // batch_size`; a stream continues in row `index % batch_size`,
    and may return the row as the trials' index.

    Args:
      key: the run's data key, one typed key.
      index: int `[n]`, ascending without gaps.
      batch_size: B; None: one batch, n.
    """
    ...


class StepLoss(Protocol):
  """The loss of one step over a batch; a trial's loss is the sum over steps."""

  def __call__(
    self, outputs: jax.Array, targets: jax.Array, mask: jax.Array, /
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Scores one step.

    Args:
      outputs: float `[B, O]`.
      targets: `[B, ...]`.
      mask: float `[B]`, the weights of this step. A trial of weight 0 does not
        count, in a statistic over trials neither: rules and metrics replace its
        outputs and its targets by zeros.

    Returns:
      The loss `[]`, and metrics `{name: []}`; both are weighted by the mask, so
      that their sum over the steps of whole trials is the trials' mean.
    """
    ...
