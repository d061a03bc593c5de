# SPDX-License-Identifier: Apache-2.0
"""What a task is, and what tasks of a kind share."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from bionet_core import class_labels, interfaces, unroll


class Measure(NamedTuple):
  """What a metric is, for a reader.

  Attributes:
    unit: what stands behind its number, such as 'nats'; '' where it has none.
    meaning: what it is, in words.
  """

  unit: str
  meaning: str


CROSS_ENTROPY: Mapping[str, Measure] = types.MappingProxyType(
  {
    'loss': Measure('nats', 'cross-entropy of an asked step'),
    'accuracy': Measure('', 'share of the asked steps that are answered right'),
  }
)
"""The metrics of `cross_entropy`."""

SQUARED_ERROR: Mapping[str, Measure] = types.MappingProxyType(
  {
    'loss': Measure('', 'squared error of an asked step, mean over outputs'),
    'mse': Measure('', 'squared error of an asked step, mean over outputs'),
  }
)
"""The metrics of `squared_error`."""


@dataclasses.dataclass(frozen=True)
class TaskSpec:
  """The plain facts of a task.

  Attributes:
    name: the task's name.
    input_shape: I, the shape of one trial's inputs at one step.
    num_outputs: O.
    num_steps: T; 1 for a static task.
    metric: the main metric.
    chance: `{metric: value}` of a learner that knows nothing of the inputs.
    ceiling: `{metric: value}` of the best there can be.
    loss_kind: 'per_trial' (a batch's is the mean of its trials') or
      'population' (a statistic over the trials).
    num_data: size of a finite training set; None where trials are drawn anew.
    measures: `{metric: Measure}`, what the metrics are, for a reader.
    data_digest: of recorded data, which may change while the settings do not.
  """

  name: str
  input_shape: tuple[int, ...]
  num_outputs: int
  num_steps: int
  metric: str
  chance: Mapping[str, float]
  ceiling: Mapping[str, float]
  loss_kind: str = 'per_trial'
  num_data: int | None = None
  measures: Mapping[str, Measure] = dataclasses.field(default_factory=dict)
  data_digest: str = ''


_TASK = 0x7461736B  # what keys of a task are folded with: 'task'


class EvaluationSampleFn(Protocol):
  """Makes the trials of an evaluation by their numbers."""

  def __call__(self, key: jax.Array, index: jax.Array, /) -> interfaces.Trials:
    """Returns the trials `index`, int `[B]` from 0 to num_trials - 1."""
    ...


class Evaluation(NamedTuple):
  """Trials that no training draw contains.

  Attributes:
    num_trials: how many make the evaluation.
    sample: `(key, index [B]) -> Trials`, index from 0 to num_trials - 1.
  """

  num_trials: int
  sample: EvaluationSampleFn


class MetricsFn(Protocol):
  """Scores the outputs of whole trials."""

  def __call__(
    self, outputs: jax.Array, trials: interfaces.Trials, /
  ) -> dict[str, jax.Array]:
    """Returns `{name: []}` of outputs `[T, B, O]`."""
    ...


class DescribeFn(Protocol):
  """Facts about the outputs of whole trials, for a reader."""

  def __call__(
    self, outputs: jax.Array, trials: interfaces.Trials, /
  ) -> dict[str, Any]:
    """Returns `{name: fact}`: a fact is a number, or `{label: share}`.

    Called on the host with concrete arrays, and never compiled.
    """
    ...


class Task(NamedTuple):
  """A task: trials to learn from, trials to be judged by, and the judgement.

  Attributes:
    spec: the plain facts.
    sample: `(key, index [n], batch_size=None) -> Trials`, the training trials
      with these numbers in the run. `index` ascends without gaps; update number
      s of a run with batches of B takes `s * B + arange(B)`, and a range of
      updates may be sampled in one call: the same trials come out. What changes
      with the update (a schedule in the targets) reads it as
      `index // batch_size`; a stream continues in row `index % batch_size`, and
      may return that as the trials' index. None means one batch: n.
    evaluations: `{name: Evaluation}`; always 'held_out'.
    loss: the loss of a step that rules descend.
    metrics: `(outputs [T, B, O], trials) -> {name: []}`.
    describe: `(outputs, trials) -> {name: fact}` for a reader, on the host and
      not compiled: a fact is a number, or `{label: share}`. None: nothing to
      add to the metrics.
  """

  spec: TaskSpec
  sample: interfaces.SampleFn
  evaluations: Mapping[str, Evaluation]
  loss: interfaces.StepLoss
  metrics: MetricsFn
  describe: DescribeFn | None = None


def cross_entropy(
  outputs: ArrayLike, targets: ArrayLike, mask: ArrayLike
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Softmax cross-entropy in nats, and accuracy.

    loss = mean_b mask_b (log sum_o exp(outputs_bo) - outputs_b,targets_b)

  A trial of mask 0 counts nothing, whatever its outputs and its target are. An
  asked target that is no class never counts as right, and makes the loss and
  its gradient NaN where it cannot be refused.

  Args:
    outputs: scores float `[B, O]`; lists and integers are taken as floats, as
      those of the mask are.
    targets: classes int `[B]`, from 0 to O - 1 where the mask is not 0.
    mask: float `[B]`.

  Returns:
    The loss `[]` and `{'accuracy': []}`, weighted by the mask.

  Raises:
    AssertionError: for other shapes of the outputs or of the mask.
    ValueError: for targets that are not numbers of classes, and for an asked
      one that is no class, where targets and mask are concrete; a compiled
      program cannot raise.
  """
  outputs, targets, mask = _arrays(outputs, targets, mask)
  if targets.ndim != 1 or not jnp.issubdtype(targets.dtype, jnp.integer):
    advice = 'of one-hot targets take jnp.argmax(targets, axis=-1)'
    raise ValueError(
      f'targets={_words(targets)}: must be class numbers, int [B]'
      + (f'; {advice}.' if targets.ndim == 2 else '.')
    )
  num_classes = outputs.shape[-1]
  class_labels.check_classes(targets, num_classes, mask)
  return _cross_entropy(outputs, targets, mask)


@jax.jit  # where it is not within a program, it is one
def _cross_entropy(outputs, targets, mask):
  num_classes = outputs.shape[-1]
  outputs, targets = (
    unroll.where_asked(mask, outputs),
    unroll.where_asked(mask, targets),
  )
  hits = jnp.argmax(outputs, axis=-1) == targets
  # Optax takes the class -1 for the last one. A factor makes the gradient NaN,
  # too; on the outputs it changes no bit where all are classes, while on the
  # loss it would change how what takes the loss further is rounded.
  are_classes = jnp.all((targets >= 0) & (targets < num_classes))
  outputs *= jnp.where(are_classes, 1.0, jnp.nan)
  losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
  return jnp.mean(losses * mask), {'accuracy': jnp.mean(hits * mask)}


def squared_error(
  outputs: ArrayLike, targets: ArrayLike, mask: ArrayLike
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Squared error, the mean over outputs.

    loss = mean_b mask_b mean_o (outputs_bo - targets_bo)^2

  A trial of mask 0 counts nothing, whatever its outputs and its target are.

  Args:
    outputs: float `[B, O]`.
    targets: float `[B, O]`.
    mask: float `[B]`.

  Returns:
    The loss `[]` and the same as `{'mse': []}`.

  Raises:
    AssertionError: for other shapes of the outputs or of the mask.
    ValueError: for targets of another shape than the outputs.
  """
  outputs, targets, mask = _arrays(outputs, targets, mask)
  if targets.shape != outputs.shape:
    raise ValueError(
      f'targets={_words(targets)}: must be {_words(outputs)}, as the outputs.'
    )
  outputs, targets = (
    unroll.where_asked(mask, outputs),
    unroll.where_asked(mask, targets),
  )
  errors = jnp.mean(jnp.square(outputs - targets), axis=-1)
  mse = jnp.mean(errors * mask)
  return mse, {'mse': mse}


def _arrays(outputs, targets, mask):
  """Outputs `[B, O]` and mask `[B]` as floats, targets `[B, ...]` as given.

  Raises:
    AssertionError: for other ranks, unequal numbers of trials, and complex
      outputs.
  """
  outputs, targets, mask = map(jnp.asarray, (outputs, targets, mask))
  chex.assert_rank([outputs, mask], [2, 1])
  chex.assert_equal_shape_prefix([outputs, targets, mask], 1)
  outputs, mask = _as_float(outputs), _as_float(mask)
  chex.assert_type([outputs, mask], float)
  return outputs, targets, mask


def _as_float(values):
  inexact = jnp.issubdtype(values.dtype, jnp.inexact)
  return values if inexact else values.astype(float)


def _words(values):
  return f'{values.dtype}{list(values.shape)}'


def sum_over_steps(
  loss: interfaces.StepLoss,
) -> MetricsFn:
  """A task's `metrics` from the loss of a step: 'loss' and the loss's own.

  Outputs and targets nobody asks for (mask 0) are not read: 0 * inf would be
  NaN.
  """

  @jax.jit
  def metrics(outputs, trials):
    chex.assert_equal_shape_prefix([outputs, trials.targets, trials.mask], 2)
    mask = trials.mask
    losses, others = jax.vmap(loss)(
      unroll.where_asked(mask, outputs),
      unroll.where_asked(mask, trials.targets),
      mask,
    )
    return jax.tree.map(jnp.sum, {'loss': losses, **others})

  return metrics


def at_last_asked(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Values `[T, B, ...]` at the last step that each trial is asked, `[B, ...]`.

  Args:
    values: of each step.
    mask: `[T, B]`; of a trial that is asked nowhere the first step is taken.
  """
  steps = jnp.arange(mask.shape[0])[:, None]
  last = jnp.max(jnp.where(mask != 0, steps, 0), axis=0)
  return values[last, jnp.arange(mask.shape[1])]


def instance_key(seed: int) -> jax.Array:
  """The key of a task's own draws; no run makes the same of its seed.

  Raises:
    ValueError: for a seed out of range.
  """
  if not 0 <= seed < 2**32:
    raise ValueError(f'seed={seed}: must be from 0 to 2**32 - 1.')
  return jax.random.fold_in(unroll.seed_key(seed), _TASK)


def epoch_order(key: jax.Array, index: jax.Array, num_data: int) -> jax.Array:
  """Which of `num_data` samples each trial of the run takes.

  Every epoch is a fresh permutation, so each sample comes exactly once an
  epoch; a batch may straddle the border of two. The state of the data is the
  trial's number alone. One permutation an epoch that `index` may touch: sample
  a long range in one call, outside the compiled loop over updates.

  Args:
    key: the run's data key.
    index: int `[B]`, ascending without gaps.
    num_data: the size of the data.

  Returns:
    int `[B]`, from 0 to num_data - 1.
  """
  unroll.check_key(key)
  chex.assert_rank(index, 1)
  epoch = index // num_data
  num_epochs = (index.shape[0] - 1) // num_data + 2
  orders = jax.vmap(
    lambda e: jax.random.permutation(jax.random.fold_in(key, e), num_data)
  )(epoch[0] + jnp.arange(num_epochs))
  return orders[epoch - epoch[0], index % num_data]


_HELD_OUT = np.uint32(2**32 - 1)  # no trial of a run has this number


def drawn_anew(
  trial: Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]],
) -> interfaces.SampleFn:
  """A `sample` of trials without end, each a function of its number.

  Args:
    trial: `key -> (inputs [T, *I], targets [T, ...], mask [T])`, one trial.

  Returns:
    `(key, index [B], batch_size=None) -> Trials`: trial b is that of
    `fold_in(key, index[b])`.
  """

  @jax.jit
  def draw(key, index):
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    return jax.vmap(trial, out_axes=1)(keys)

  def sample(key, index, batch_size=None):
    del batch_size
    unroll.check_key(key)
    inputs, targets, mask = draw(key, index)
    return interfaces.Trials(
      inputs=inputs, targets=targets, mask=mask, index=index
    )

  return sample


def held_out(sample: interfaces.SampleFn, num_trials: int) -> Evaluation:
  """Other trials than training's of the same `sample`, whatever the key."""
  return Evaluation(
    num_trials,
    lambda key, index: sample(jax.random.fold_in(key, _HELD_OUT), index),
  )


def drawn_length(
  key: jax.Array, name: str, shortest: int | None, longest: int
) -> jax.Array:
  """A length `[]` uniform from `shortest` to `longest`; None: the longest.

  Raises:
    ValueError: if the shortest, min_NAME, is out of range.
  """
  if shortest is None:
    return jnp.asarray(longest)
  if not 0 <= shortest <= longest:
    raise ValueError(f'min_{name}={shortest}: must be from 0 to {longest}.')
  return jax.random.randint(key, (), shortest, longest + 1)


def asked_at(step: chex.Numeric, num_steps: int) -> jax.Array:
  """A mask `[T]` that asks at one step: 1 there, else 0."""
  return jnp.where(jnp.arange(num_steps) == step, 1.0, 0.0)


def check_judged(name: str, trials: interfaces.Trials) -> None:
  """Raises ValueError if a trial is judged at no step: its mask is all zero.

  A rule gets nothing from such a trial, and under jit it cannot say so. So it
  is looked for where trials are concrete. A trial may have windows of steps
  that are not judged, but not be one.

  Args:
    name: the task's name.
    trials: whole trials, mask `[T, B]`; of a stream, one batch.
  """
  chex.assert_rank(trials.mask, 2)
  unjudged = ~np.any(np.asarray(trials.mask) != 0, axis=0)
  if np.any(unjudged):
    raise ValueError(
      f'task {name!r}: {np.sum(unjudged)} of {unjudged.size} trials are judged '
      f'at no step (the first in row {np.argmax(unjudged)}): their mask is 0 '
      'throughout, and nothing can be learned from them. Give every trial a '
      'step whose mask is above 0.'
    )


def check_labels(task: Task, trials: interfaces.Trials) -> None:
  """Raises ValueError if the task's loss refuses an asked label of trials.

  Under jit a loss cannot raise, so that labels are looked at where trials are
  concrete. Nothing is computed: the loss is traced, with the labels as they
  are. A loss that looks at no labels, and a statistic over trials, refuse none.

  Args:
    task: the task.
    trials: concrete trials of it.
  """
  if task.spec.loss_kind != 'per_trial':
    return
  targets, mask = jax.device_get((trials.targets, trials.mask))
  targets, mask = jax.device_put(
    (targets.reshape(-1, *targets.shape[2:]), mask.reshape(-1))
  )
  outputs = jax.ShapeDtypeStruct(
    (len(mask), task.spec.num_outputs), jnp.result_type(float)
  )
  try:
    jax.eval_shape(lambda outputs: task.loss(outputs, targets, mask), outputs)
  except ValueError as error:
    raise ValueError(f'task {task.spec.name!r}: {error}') from error


def static_trials(
  inputs: jax.Array, classes: jax.Array, index: jax.Array
) -> interfaces.Trials:
  """Trials of one step: inputs `[B, *I]`, classes int `[B]`."""
  return interfaces.Trials(
    inputs=inputs[None],
    targets=classes[None],
    mask=jnp.ones((1, index.shape[0])),
    index=index,
  )


def check_positive(**sizes: int) -> None:
  """Raises ValueError for the first size that is less than 1, by name."""
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f'{name}={size}: must be at least 1.')
