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

_MAX_TRIALS = 2**31 - 1  # trials are numbered by int32

# Settings of config.learner that belong to `descend`, not to the rule.
_SCHEDULE = ('every', 'carry')


class Keys(NamedTuple):
  """The run's PRNG keys, one a role; all follow from the seed.

  Attributes:
    init: parameters and what a rule draws once.
    data: training trials.
    noise: noise of trials, in dynamics and rules.
    evaluation: held-out trials and their noise.
  """

  init: jax.Array
  data: jax.Array
  noise: jax.Array
  evaluation: jax.Array


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
  """The run's keys of a seed."""
  return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def build(config: ml_collections.ConfigDict) -> Run:
  """Builds a run, and checks it by tracing one update and one prediction.

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
    task.sample, keys.data, jnp.arange(config.batch_size)
  )
  params, _ = jax.eval_shape(rule.model.init, keys.init, example)
  learner = learners.descend(
    rule,
    make_optimizer(config.optimizer, num_steps, params),
    every=config.learner.get('every') or None,
    carry=config.learner.get('carry', False),
  )
  state = jax.eval_shape(learner.init, keys.init, example)
  jax.eval_shape(learner.update, state, keys.noise, example)
  jax.eval_shape(learner.predict, state, keys.noise, example)
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
  keywords = {k: v for k, v in _plain(settings).items() if k != 'name'}
  _check_keywords(factory, section, settings['name'], keywords)
  return factory(*args, **keywords)


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
      `learning_rates` (`{module: rate}` in place of `learning_rate` for the
      parameters under that key of the tree; rate 0 freezes them), and the
      optimizer's own settings by their optax names.
    num_steps: updates of the run.
    params: the parameters, or their shapes.

  Raises:
    KeyError, ValueError: for what cannot be.
  """
  own = dict(_plain(settings))
  name, rate = own.pop('name'), own.pop('learning_rate')
  schedule, clip_norm = own.pop('schedule'), own.pop('clip_norm')
  rates = own.pop('learning_rates', {})
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
  for module, module_rate in rates.items():
    if module not in params:
      raise KeyError(
        f'optimizer.learning_rates: no parameters under {module!r}.'
        f'{_near(module, params)} There are: {", ".join(params)}.'
      )
    _check_rate(f'learning_rates.{module}', module_rate)
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
  if rates:
    labels = {
      module: jax.tree.map(lambda _, m=module: m if m in rates else '', tree)
      for module, tree in params.items()
    }
    optimizer = optax.multi_transform(
      {'': optimizer, **{m: one(r) for m, r in rates.items()}}, labels
    )
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
  if not 0 <= config.seed < 2**32:
    raise ValueError(
      f'seed is {config.seed}; it must be at least 0 and below 2**32.'
    )


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
  if config.num_steps > 0:
    return config.num_steps
  if config.num_epochs <= 0:
    raise ValueError('one of num_steps and num_epochs must be positive.')
  if num_data is None:
    raise ValueError(
      f'task {task.spec.name!r} draws its trials anew and has no epochs; set '
      'num_steps.'
    )
  return math.ceil(config.num_epochs * num_data / config.batch_size)


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
