# SPDX-License-Identifier: Apache-2.0
"""From a config to a task, dynamics and a learner: the only reader of names."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

import bionet_core
import bionet_learners
import bionet_tasks
from bionet_core import interfaces, plugins, unroll
from bionet_learners import base as learners
from bionet_tasks import base as tasks

BUILTIN: Mapping[str, Mapping[str, str]] = {
  'bionet.tasks': bionet_tasks.TASKS,
  'bionet.cells': bionet_core.CELLS,
  'bionet.networks': bionet_core.NETWORKS,
  'bionet.learners': bionet_learners.LEARNERS,
}
"""Built-in names of each plugin group."""

_OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
  'adam': optax.adam,
  'adamw': optax.adamw,
  'sgd': optax.sgd,
}

_RUN = 0x72756E  # what keys of a run are folded with: 'run'
_MAX_TRIALS = 2**31 - 1  # trials are numbered by int32

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
    learner: the learner, optimizer included.
    keys: the run's keys.
    batch_size: trials an update.
    num_steps: updates.
  """

  task: tasks.Task
  learner: learners.Learner
  keys: Keys
  batch_size: int
  num_steps: int


def make_keys(seed: int) -> Keys:
  """The run's keys of a seed; none is a key that a task makes of it."""
  root = jax.random.fold_in(jax.random.key(seed), _RUN)
  return Keys(*jax.random.split(root, len(Keys._fields)))


def build(config: ml_collections.ConfigDict) -> Run:
  """Builds a run, and checks it by tracing an update and every evaluation.

  Args:
    config: see `experiments/configs/base.py` for the keys that all share.

  Raises:
    KeyError, TypeError, ValueError: for a name, a setting or a combination that
      cannot be; the message says which and what is possible.
  """
  _check_numbers(config)
  task = make('bionet.tasks', 'task', config.task)
  num_steps = _num_steps(config, task)
  rule = make_rule(config, task)
  keys = make_keys(config.seed)
  example = jax.eval_shape(
    lambda key, index: task.sample(key, index, config.batch_size),
    keys.data,
    jnp.arange(config.batch_size),
  )
  params, _ = jax.eval_shape(rule.model.init, keys.init, example)
  every = config.learner.get('every') or None
  windows = math.ceil(example.mask.shape[0] / every) if every else 1
  learner = learners.descend(
    rule,
    make_optimizer(config.optimizer, num_steps * windows, params),
    every=every,
    carry=config.learner.get('carry', False),
  )
  state = jax.eval_shape(learner.init, keys.init, example)
  jax.eval_shape(learner.update, state, keys.noise, example)
  _check_evaluations(task, learner, keys, state)
  return Run(task, learner, keys, config.batch_size, num_steps)


def make(group: str, section: str, settings, *args):
  """Calls the factory that `settings.name` names with the other settings.

  Args:
    group: the plugin group.
    section: the config's section, for messages.
    settings: mapping with `name` and the factory's keyword arguments.
    *args: the factory's positional arguments.
  """
  factory = plugins.load(group, settings['name'], BUILTIN[group])
  check_factory(factory, settings['name'])
  keywords = {k: v for k, v in _plain(settings).items() if k != 'name'}
  _check_keywords(factory, section, settings['name'], keywords)
  return factory(*args, **keywords)


def check_factory(factory: Callable, name: str) -> None:
  """Raises TypeError if a factory's settings have names a config cannot."""
  parameters = inspect.signature(factory).parameters
  for taken in ('name', *_SCHEDULE):
    if taken in parameters:
      raise TypeError(
        f'{name!r} has a parameter {taken!r}, which means something else in a '
        'config; give it another name.'
      )


def make_rule(
  config: ml_collections.ConfigDict, task: tasks.Task
) -> learners.GradientRule:
  """The dynamics of `config.network` under the rule of `config.learner`."""
  group = dynamics_group(config.network.name)
  dynamics = make(group, 'network', config.network, task.spec)
  _check_instance(
    dynamics,
    (interfaces.Cell, interfaces.RelaxationNetwork),
    f'network {config.network.name!r}',
  )
  loss = task.losses[task.spec.loss]
  if task.spec.loss_kind == 'population':
    loss = unroll.gathered(loss, learners.ONE.gather)
  settings = {
    k: v for k, v in _plain(config.learner).items() if k not in _SCHEDULE
  }
  rule = make('bionet.learners', 'learner', settings, dynamics, loss)
  _check_instance(
    rule, (learners.GradientRule,), f'learner {config.learner.name!r}'
  )
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
    f'no network named {name!r}.{_near(name, known)} '
    f'There are: {", ".join(known)}.'
  )


def make_optimizer(
  settings: ml_collections.ConfigDict,
  num_steps: int,
  params: interfaces.ArrayTree,
) -> optax.GradientTransformation:
  """The optimizer of a config's section.

  Args:
    settings: `name`, `learning_rate`, `schedule` ('constant', or 'cosine' to 0
      at `num_steps`), `clip_norm` (of the whole tree; 0: none),
      `rate_factors` (`{module: factor}` on the learning rate of the parameters
      under that key of the tree; 0 freezes them), and the optimizer's own
      settings by their optax names.
    num_steps: steps of the optimizer in the run.
    params: the parameters, or their shapes.

  Raises:
    KeyError, ValueError: for what cannot be.
  """
  own = dict(_plain(settings))
  name, rate = own.pop('name'), own.pop('learning_rate')
  schedule, clip_norm = own.pop('schedule'), own.pop('clip_norm')
  factors = own.pop('rate_factors', {})
  if name not in _OPTIMIZERS:
    raise KeyError(
      f'no optimizer named {name!r}.{_near(name, _OPTIMIZERS)} '
      f'There are: {", ".join(_OPTIMIZERS)}.'
    )
  if schedule not in ('constant', 'cosine'):
    raise ValueError(
      f'optimizer.schedule is {schedule!r}; it may be constant or cosine.'
    )
  _check_keywords(_OPTIMIZERS[name], 'optimizer', name, own)
  for module, factor in factors.items():
    if module not in params:
      raise KeyError(
        f'optimizer.rate_factors: no parameters under {module!r}.'
        f'{_near(module, params)} There are: {", ".join(params)}.'
      )
    _check_rate(f'rate_factors.{module}', factor)
  _check_rate('learning_rate', rate)
  if not clip_norm >= 0:
    raise ValueError(f'optimizer.clip_norm is {clip_norm}; 0 means none.')

  def one(peak):
    if peak == 0:
      return optax.set_to_zero()
    if schedule == 'cosine':
      peak = optax.cosine_decay_schedule(peak, num_steps)
    return _OPTIMIZERS[name](peak, **own)

  optimizer = one(rate)
  if factors:
    labels = {
      module: jax.tree.map(lambda _, m=module: m if m in factors else '', tree)
      for module, tree in params.items()
    }
    scaled = {module: one(rate * factor) for module, factor in factors.items()}
    optimizer = optax.multi_transform({'': optimizer, **scaled}, labels)
  if clip_norm:
    optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
  return optimizer


def count(tree: interfaces.ArrayTree) -> int:
  """Numbers in a tree of arrays."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _check_numbers(config) -> None:
  for name in ('batch_size', 'log_every', 'eval_every'):
    if config[name] < 1:
      raise ValueError(f'{name} is {config[name]}; it must be at least 1.')
  every = config.learner.get('every') or 0
  if every < 0:
    raise ValueError(
      f'learner.every is {every}; it must be 0 (at the end of the trials) or '
      'more.'
    )
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


def _num_steps(config, task) -> int:
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


def _plain(settings) -> dict:
  is_config = isinstance(settings, ml_collections.ConfigDict)
  return settings.to_dict() if is_config else dict(settings)


def _check_rate(name: str, rate: float) -> None:
  if not 0 <= rate < math.inf:
    raise ValueError(f'optimizer.{name} is {rate}; it must be 0 or more.')


def _check_instance(made: object, kinds: tuple[type, ...], what: str) -> None:
  if not isinstance(made, kinds):
    raise TypeError(
      f'{what} is a {type(made).__name__}; it must be a '
      f'{" or a ".join(kind.__name__ for kind in kinds)}.'
    )


def _check_keywords(factory, section: str, name: str, keywords) -> None:
  parameters = inspect.signature(factory).parameters.values()
  known = [
    p.name
    for p in parameters
    if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
  ]
  for keyword in keywords:
    if keyword not in known:
      raise TypeError(
        f'{section}.{keyword} is no setting of {name!r}.'
        f'{_near(keyword, known)} To start from its own settings, use '
        '--config=experiments/configs/compose.py:TASK,NETWORK,LEARNER.'
      )
  for p in parameters:
    needed = p.kind is p.KEYWORD_ONLY and p.default is p.empty
    if needed and keywords.get(p.name) is None:
      raise TypeError(
        f'{section}.{p.name} has no default; {name!r} needs a value.'
      )


def _near(word: str, known) -> str:
  near = difflib.get_close_matches(word, list(known), n=1)
  return f' Did you mean {near[0]!r}?' if near else ''
