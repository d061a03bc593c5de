# SPDX-License-Identifier: Apache-2.0
"""From a config to a task, dynamics and a learner: the only reader of names."""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax

import bionet_core
import bionet_learners
import bionet_tasks
from bionet_core import interfaces, plugins, unroll
from bionet_learners import base as learners
from bionet_learners.training import checkpoints, precision, stopping
from bionet_tasks import base as tasks
from experiments import optimizers, parallel, restarts
from experiments import settings as sections

BUILTIN: Mapping[str, Mapping[str, str]] = {
  'bionet.tasks': bionet_tasks.TASKS,
  'bionet.cells': bionet_core.CELLS,
  'bionet.networks': bionet_core.NETWORKS,
  'bionet.learners': bionet_learners.LEARNERS,
}
"""Built-in names of each plugin group."""

_RUN = 0x72756E  # what keys of a run are folded with: 'run'
_STAGE = 0x73746167  # what the keys of a later stage are folded with: 'stag'
_MAX_TRIALS = 2**31 - 1  # trials are numbered by int32

HANDED = ('devices', 'optimizer')
"""Parameters of a learner's factory that the run hands in, not the config."""

# Settings of config.learner that belong to `descend`, not to the rule.
_SCHEDULE = ('every', 'carry')


class Keys(NamedTuple):
  """The run's PRNG keys, one a role; all follow from the seed.

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


class Run(NamedTuple):
  """Everything a config stands for.

  Attributes:
    task: the task.
    dynamics: the cell or the relaxation network.
    rule: the rule; None where the learner is not made of one (evolution), or
      of many copies (restarts).
    learner: the learner, optimizer included, on `devices`.
    keys: the run's keys.
    batch_size: trials an update, over all devices.
    num_steps: updates, those of later stages included.
    own_steps: updates of this stage, the first of the run.
    devices: how many devices share an update.
    learning_rate: from an update's number to its learning rate; 0 where the
      learner has no optimizer.
    later: the stages after this one, each with its own task and learner.
  """

  task: tasks.Task
  dynamics: interfaces.Cell | interfaces.RelaxationNetwork
  rule: learners.GradientRule | None
  learner: learners.Learner
  keys: Keys
  batch_size: int
  num_steps: int
  own_steps: int
  devices: int
  learning_rate: Callable[[chex.Numeric], chex.Numeric]
  later: tuple['Run', ...] = ()


def make_keys(seed: int) -> Keys:
  """The run's keys of a seed; none is a key that a task makes of it."""
  root = jax.random.fold_in(jax.random.key(seed), _RUN)
  return Keys(*jax.random.split(root, len(Keys._fields)))


def build(config: ml_collections.ConfigDict) -> Run:
  """Builds a run, and checks it before it is compiled.

  An update and every evaluation are traced, and the first batch of every stage
  is drawn: each of its trials must be judged somewhere.

  Args:
    config: see `experiments/configs/base.py` for the keys that all share.

  Raises:
    KeyError, TypeError, ValueError: for a name, a setting or a combination that
      cannot be; the message says which and what is possible.
  """
  stages = stage_configs(config)
  plans = [_plan(stage) for stage in stages]
  num_steps = sum(own_steps for _, own_steps in plans)
  runs = [
    _build_stage(stage, number, task, own_steps, num_steps)
    for number, (stage, (task, own_steps)) in enumerate(
      zip(stages, plans, strict=True)
    )
  ]
  first, last = runs[0], runs[-1]
  restarts.check_validated(
    stages[-1].restarts, num_steps - last.own_steps, last.own_steps
  )
  shapes = [
    jax.eval_shape(run.learner.init, run.keys.init, _example(run.task, run))
    for run in runs
  ]
  for name, run, (before, shape) in zip(
    sorted(config.stages), runs[1:], itertools.pairwise(shapes), strict=True
  ):
    _check_goes_on(name, run, shape, before)
  return first._replace(num_steps=num_steps, later=tuple(runs[1:]))


def _check_goes_on(name: str, run: Run, shape, before) -> None:
  """Raises ValueError unless a stage can go on from the state of the last."""
  checkpoints.check_like(
    shape.params, before.params, f'stages.{name} has other parameters: '
  )
  try:
    shared = jax.eval_shape(run.learner.take_over, before.rule_state.shared)
  except ValueError as error:
    raise ValueError(f'stages.{name}: {error}') from error
  checkpoints.check_like(
    shape.rule_state.shared,
    shared,
    f'stages.{name}: what the learner remembers has another shape: ',
  )
  checkpoints.check_like(
    shape.opt_state,
    before.opt_state,
    f'stages.{name}: the optimizer keeps another state: ',
  )


def stage_configs(
  config: ml_collections.ConfigDict,
) -> list[ml_collections.ConfigDict]:
  """The config of each stage of a run: the first is the config itself.

  Every entry of `config.stages`, in the order of their names, holds what it
  changes of the stage before, in the config's own sections.

  Raises:
    KeyError, TypeError: if a stage changes what no config has.
  """
  stages = [config]
  for name in sorted(config.stages):
    stage = stages[-1].copy_and_resolve_references()
    with stage.unlocked():
      stage.stages = ml_collections.ConfigDict()
    stage.lock()  # only what is there can be changed
    try:
      stage.update(config.stages[name])
    except (KeyError, AttributeError, TypeError) as error:
      raise type(error)(f'stages.{name}: {error.args[0]}') from error
    stages.append(stage)
  return stages


def _plan(config) -> tuple[tasks.Task, int]:
  """The task of a stage and its number of updates."""
  _check_numbers(config)
  parallel.check(config.devices, config.batch_size)
  task = make('bionet.tasks', 'task', config.task)
  return task, count_updates(config, task)


def _example(task: tasks.Task, run) -> interfaces.Trials:
  """The shapes of a batch."""
  index = jnp.arange(run.batch_size)
  return jax.eval_shape(
    lambda key: task.sample(key, index, run.batch_size), jax.random.key(0)
  )


def _build_stage(config, number, task, own_steps, num_steps) -> Run:
  keys = make_keys(config.seed)
  if number:  # trials are numbered anew, and must not be those of before
    keys = keys._replace(
      data=jax.random.fold_in(keys.data, _STAGE + number),
      noise=jax.random.fold_in(keys.noise, _STAGE + number),
    )
  example = _example(task, config)
  dynamics = make_dynamics(config, task)
  # Traced on one device: outside of pmap the collectives of many mean nothing.
  make_optimizer = functools.partial(
    _optimizer, config, dynamics, num_steps, keys, example
  )
  optimizer = make_optimizer() if _takes_optimizer(config) else _NO_OPTIMIZER
  rule = make_rule(config, task, dynamics, optimizer=optimizer.transformation)
  if isinstance(rule, learners.GradientRule):
    optimizer = make_optimizer()
  learner = _make_learner(config, rule, optimizer)
  copied = functools.partial(
    restarts.with_restarts,
    config.restarts,
    task,
    data_key=keys.held_out,
    noise_key=keys.held_out_noise,
  )
  learner = copied(learner)
  state = jax.eval_shape(learner.init, keys.init, example)
  jax.eval_shape(learner.update, state, keys.noise, example)
  _check_evaluations(task, learner, keys, state)
  index = jnp.arange(config.batch_size)
  tasks.check_judged(
    task.spec.name, task.sample(keys.data, index, config.batch_size)
  )
  if config.devices > 1:
    devices = parallel.devices(config.devices)
    many = make_rule(
      config, task, dynamics, devices, optimizer=optimizer.transformation
    )
    learner = _make_learner(config, many, optimizer, devices)
    learner = copied(learner)
  one = config.restarts.count == 1
  return Run(
    task=task,
    dynamics=dynamics,
    rule=rule if one and isinstance(rule, learners.GradientRule) else None,
    learner=learner,
    keys=keys,
    batch_size=config.batch_size,
    num_steps=own_steps,
    own_steps=own_steps,
    devices=config.devices,
    learning_rate=optimizer.rate,
  )


class _Optimizer(NamedTuple):
  """A config's optimizer, and its learning rate by the update's number."""

  transformation: optax.GradientTransformation
  rate: Callable[[chex.Numeric], chex.Numeric]


_NO_OPTIMIZER = _Optimizer(optax.identity(), lambda update: 0.0)


def _optimizer(config, dynamics, num_steps, keys, example) -> _Optimizer:
  params, _ = jax.eval_shape(
    lambda key, trials: dynamics.init(key, trials.inputs[0]),
    keys.init,
    example,
  )
  every = config.learner.get('every') or None
  windows = math.ceil(example.mask.shape[0] / every) if every else 1
  optimizer, rate = optimizers.make_optimizer(
    config.optimizer, num_steps, params, windows
  )
  return _Optimizer(optimizer, rate)


def _make_learner(
  config, rule, optimizer: _Optimizer, devices=learners.ONE
) -> learners.Learner:
  """The learner of a rule."""
  if isinstance(rule, learners.Learner):
    for name in _SCHEDULE:
      if config.learner.get(name):
        raise ValueError(
          f'learner.{name} is {config.learner[name]}, which means something to '
          f'rules alone; {config.learner.name!r} is a learner of its own.'
        )
    return rule
  return learners.descend(
    rule,
    optimizer.transformation,
    every=config.learner.get('every') or None,
    carry=config.learner.get('carry', False),
    devices=devices,
  )


def _takes_optimizer(config) -> bool:
  """Whether the learner's factory is handed the run's optimizer."""
  factory = plugins.load(
    'bionet.learners', config.learner.name, BUILTIN['bionet.learners']
  )
  return 'optimizer' in inspect.signature(factory).parameters


def make(group: str, section: str, settings, *args, handed=sections.NOTHING):
  """Calls the factory that `settings.name` names with the other settings.

  Args:
    group: the plugin group.
    section: the config's section, for messages.
    settings: mapping with `name` and the factory's keyword arguments.
    *args: the factory's positional arguments.
    handed: keyword arguments that no config sets, for factories that take them.
  """
  factory = plugins.load(group, settings['name'], BUILTIN[group])
  check_factory(factory, settings['name'])
  keywords = {k: v for k, v in sections.plain(settings).items() if k != 'name'}
  taken = inspect.signature(factory).parameters
  handed = {k: v for k, v in handed.items() if k in taken}
  sections.check_keywords(factory, section, settings['name'], keywords, handed)
  return factory(*args, **keywords, **handed)


def check_factory(factory: Callable, name: str) -> None:
  """Raises TypeError if a factory's settings have names a config cannot."""
  parameters = inspect.signature(factory).parameters
  for taken in ('name', *_SCHEDULE):
    if taken in parameters:
      raise TypeError(
        f'{name!r} has a parameter {taken!r}, which means something else in a '
        'config; give it another name.'
      )


def make_dynamics(
  config: ml_collections.ConfigDict, task: tasks.Task
) -> interfaces.Cell | interfaces.RelaxationNetwork:
  """The dynamics of `config.network`, in the run's precision."""
  group = dynamics_group(config.network.name)
  dynamics = make(group, 'network', config.network, task.spec)
  _check_instance(
    dynamics,
    (interfaces.Cell, interfaces.RelaxationNetwork),
    f'network {config.network.name!r}',
  )
  if config.precision:
    dynamics = precision.with_policy(dynamics, config.precision)
  return dynamics


def make_rule(
  config: ml_collections.ConfigDict,
  task: tasks.Task,
  dynamics: interfaces.Cell | interfaces.RelaxationNetwork,
  devices: learners.Devices = learners.ONE,
  optimizer: optax.GradientTransformation | None = None,
) -> learners.GradientRule | learners.Learner:
  """What `config.learner` names, for these dynamics and the task's loss.

  Args:
    config: the run's config.
    task: gives the loss.
    dynamics: the cell or network.
    devices: for population losses, and for factories that take `devices`.
    optimizer: for factories of a Learner that take `optimizer`.

  Returns:
    A GradientRule, for `descend`; or a Learner that needs no more.
  """
  loss = task.loss
  settings = {
    k: v
    for k, v in sections.plain(config.learner).items()
    if k not in _SCHEDULE
  }

  def make_for(loss):
    rule = make(
      'bionet.learners',
      'learner',
      settings,
      dynamics,
      loss,
      handed={'devices': devices, 'optimizer': optimizer},
    )
    _check_instance(
      rule,
      (learners.GradientRule, learners.Learner),
      f'learner {config.learner.name!r}',
    )
    return rule

  rule = make_for(loss)
  # Where a population is split, each device has all trials, of other members.
  splits_population = (
    isinstance(rule, learners.Learner) and rule.partition == 'population'
  )
  judged_together = task.spec.loss_kind == 'population'
  if devices.count > 1 and judged_together and not splits_population:
    return make_for(unroll.gathered(loss, devices.gather))
  return rule


def dynamics_group(name: str) -> str:
  """The plugin group of a network's name: cells or relaxation networks.

  Raises:
    KeyError: if it is in neither.
  """
  if ':' in name:  # found by its path; what it makes tells what it is
    return 'bionet.cells'
  groups = {
    group: plugins.names(group, BUILTIN[group])
    for group in ('bionet.cells', 'bionet.networks')
  }
  for group, names in groups.items():
    if name in names:
      return group
  known = sorted(name for names in groups.values() for name in names)
  raise KeyError(
    f'no network named {name!r}.{sections.near(name, known)} '
    f'There are: {", ".join(known)}.'
  )


def count(tree: interfaces.ArrayTree) -> int:
  """Numbers in a tree of arrays."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _check_numbers(config) -> None:
  for name in ('batch_size', 'log_every', 'eval_every', 'keep_last'):
    if config[name] < 1:
      raise ValueError(f'{name} is {config[name]}; it must be at least 1.')
  if config.checkpoint_every < 0:
    raise ValueError(
      f'checkpoint_every is {config.checkpoint_every}; it must be 0 (only at '
      'the end) or more.'
    )
  every = config.learner.get('every') or 0
  if every < 0:
    raise ValueError(
      f'learner.every is {every}; it must be 0 (at the end of the trials) or '
      'more.'
    )
  stopping.EarlyStopping(
    'the main metric',
    patience=config.early_stopping.patience,
    min_delta=config.early_stopping.min_delta,
  ).check()
  _check_finite('', config.to_dict())
  if not 0 <= config.seed < 2**32:
    raise ValueError(
      f'seed is {config.seed}; it must be at least 0 and below 2**32.'
    )


def _check_finite(path: str, settings: dict) -> None:
  for name, value in settings.items():
    if isinstance(value, dict):
      _check_finite(f'{path}{name}.', value)
    elif isinstance(value, float) and not math.isfinite(value):
      raise ValueError(f'{path}{name} is {value}; it must be a finite number.')


def count_updates(config: ml_collections.ConfigDict, task: tasks.Task) -> int:
  """How many updates a stage has: `num_steps`, or what its epochs take."""
  num_steps = _asked_steps(config, task)
  if num_steps * config.batch_size > _MAX_TRIALS:
    raise ValueError(
      f'batch_size {config.batch_size} x {num_steps} updates is more than '
      f'{_MAX_TRIALS} trials, the last that a 32-bit number counts.'
    )
  return num_steps


def _asked_steps(config, task) -> int:
  num_data = task.spec.num_data
  if num_data is not None and config.batch_size > num_data:
    raise ValueError(
      f'batch_size is {config.batch_size}, larger than the {num_data} training '
      f'samples of task {task.spec.name!r}.'
    )
  asked = (config.num_steps, config.num_epochs)
  if min(asked) < 0 or sum(n > 0 for n in asked) != 1:
    raise ValueError(
      f'num_steps is {asked[0]} and num_epochs {asked[1]}; one of them must be '
      'positive and the other 0.'
    )
  if config.num_steps:
    return config.num_steps
  if num_data is None:
    raise ValueError(
      f'task {task.spec.name!r} draws its trials anew and has no epochs; set '
      'num_steps.'
    )
  return math.ceil(config.num_epochs * num_data / config.batch_size)


def _check_evaluations(task, learner, keys, state) -> None:
  """Traces every evaluation, so that a run does not fail after its end."""

  def judged(state, evaluation):
    index = jnp.arange(evaluation.num_trials)
    trials = evaluation.sample(keys.held_out, index)
    outputs = learner.predict(state, keys.held_out_noise, trials)
    return task.metrics(outputs, trials)

  for name, evaluation in task.evaluations.items():
    metrics = jax.eval_shape(lambda s, e=evaluation: judged(s, e), state)
    for metric in (task.spec.metric, *task.spec.chance, *task.spec.ceiling):
      if metric not in metrics:
        raise ValueError(
          f'task {task.spec.name!r} speaks of the metric {metric!r}, but its '
          f'evaluation {name!r} gives {", ".join(sorted(metrics))}.'
        )


def _check_instance(made: object, kinds: tuple[type, ...], what: str) -> None:
  if not isinstance(made, kinds):
    raise TypeError(
      f'{what} is a {type(made).__name__}; it must be a '
      f'{" or a ".join(kind.__name__ for kind in kinds)}.'
    )
