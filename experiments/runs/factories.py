# SPDX-License-Identifier: Apache-2.0
"""From the names in a config to what their factories make.

This is the only reader of names: everything else is handed tasks, dynamics and
rules.
"""

import inspect
from collections.abc import Callable, Mapping

import ml_collections
import optax

import bionet_core
import bionet_learners
import bionet_tasks
from bionet_core import interfaces, plugins, unroll
from bionet_learners import base as learners
from bionet_learners.training import precision
from bionet_tasks import base as tasks
from experiments.runs import sections

BUILTIN: Mapping[str, Mapping[str, str]] = {
  'bionet.tasks': bionet_tasks.TASKS,
  'bionet.cells': bionet_core.CELLS,
  'bionet.networks': bionet_core.NETWORKS,
  'bionet.learners': bionet_learners.LEARNERS,
}
"""Built-in names of each plugin group."""

HANDED = ('devices', 'optimizer')
"""Parameters of a learner's factory that the run hands in, not the config."""

SCHEDULE = ('every', 'carry')
"""Settings of config.learner that belong to `descend`, not to the rule."""


def make(
  group: str,
  section: str,
  settings: ml_collections.ConfigDict | Mapping,
  *args: object,
  handed: Mapping[str, object] = sections.NOTHING,
):
  """Calls the factory that `settings.name` names with the other settings.

  Args:
    group: the plugin group.
    section: the config's section, for messages.
    settings: mapping with `name` and the factory's keyword arguments.
    *args: the factory's positional arguments.
    handed: keyword arguments that no config sets, for factories that take them.

  Raises:
    KeyError, TypeError, ValueError: for a name that nobody announces, a setting
      that the factory lacks, or what the factory itself refuses.
  """
  factory = load(group, section, settings['name'])
  check_factory(factory, settings['name'])
  keywords = {k: v for k, v in sections.plain(settings).items() if k != 'name'}
  parameters = inspect.signature(factory).parameters
  handed = {k: v for k, v in handed.items() if k in parameters}
  sections.check_keywords(factory, section, settings['name'], keywords, handed)
  given = _settings(factory, len(args), handed)
  with sections.named_in(sections.keys_of(section, given)):
    return factory(*args, **keywords, **handed)


def load(group: str, section: str, name: str) -> Callable:
  """The factory of a name in a section.

  Raises:
    KeyError: for a name that nobody announces; says which there are.
    TypeError: for a factory that hides its settings.
  """
  try:
    return plugins.load(group, name, BUILTIN[group])
  except KeyError as error:
    raise KeyError(f'{section}.name={name!r}: {error.args[0]}') from error


def section_factory(section: str, name: str) -> Callable:
  """The factory of a name in the section 'task', 'network' or 'learner'."""
  group = f'bionet.{section}s'
  if section == 'network':
    group = dynamics_group(name)
  return load(group, section, name)


def _settings(factory, num_positional: int, handed) -> list[str]:
  """The arguments of a factory that a config may set."""
  parameters = [*inspect.signature(factory).parameters]
  return [name for name in parameters[num_positional:] if name not in handed]


def check_factory(factory: Callable, name: str) -> None:
  """Raises TypeError if a factory's settings have names a config cannot."""
  parameters = inspect.signature(factory).parameters
  for reserved in ('name', *SCHEDULE):
    if reserved in parameters:
      raise TypeError(
        f'{name!r} has a parameter {reserved!r}, which means something else in '
        'a config; give it another name.'
      )


def make_task(config: ml_collections.ConfigDict) -> tasks.Task:
  """The task that `config.task` names."""
  return make('bionet.tasks', 'task', config.task)


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
    with sections.named_in({'policy': 'precision'}):
      dynamics = precision.with_policy(dynamics, config.precision)
  return dynamics


def make_rule(
  config: ml_collections.ConfigDict,
  task: tasks.Task,
  dynamics: interfaces.Cell | interfaces.RelaxationNetwork,
  optimizer: optax.GradientTransformation | None = None,
) -> learners.GradientRule | learners.Learner:
  """What `config.learner` names, for these dynamics, on one device.

  Args:
    config: the config of the run, or of one of its stages.
    task: gives the loss.
    dynamics: the cell or network.
    optimizer: for factories that take `optimizer`.

  Returns:
    A GradientRule, for `descend`; or a Learner that needs no more.
  """
  loss = task.loss
  return _make_rule(config, dynamics, loss, learners.ONE, optimizer)


def make_rule_on(
  devices: learners.Devices,
  rule: learners.GradientRule | learners.Learner,
  config: ml_collections.ConfigDict,
  task: tasks.Task,
  dynamics: interfaces.Cell | interfaces.RelaxationNetwork,
  optimizer: optax.GradientTransformation,
) -> learners.GradientRule | learners.Learner:
  """The same rule on several devices.

  Args:
    devices: their collectives.
    rule: what `make_rule` has made of the other arguments.
    config: as there.
    task: likewise.
    dynamics: likewise.
    optimizer: likewise.

  Returns:
    `rule` itself where it needs no collective.
  """
  # A population loss judges all trials together, so the devices exchange their
  # parts of a batch. Where a population of members is split, each device has
  # all trials, and nothing is to be exchanged. Only the rule tells which of the
  # two is the case, so this loss can only be chosen once there is a rule.
  splits_population = (
    isinstance(rule, learners.Learner) and rule.partition == 'population'
  )
  gathers = task.spec.loss_kind == 'population' and not splits_population
  # A collective means something inside pmap alone. Checks and probes run
  # outside of it, by the rule on one device, so that a rule with collectives
  # is a second one.
  if devices.count == 1 or not (gathers or takes(config.learner, 'devices')):
    return rule
  loss = task.loss
  if gathers:
    loss = unroll.gathered(loss, devices.gather)
  return _make_rule(config, dynamics, loss, devices, optimizer)


def _make_rule(config, dynamics, loss, devices, optimizer):
  settings = {
    k: v for k, v in sections.plain(config.learner).items() if k not in SCHEDULE
  }
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


def make_learner(
  config: ml_collections.ConfigDict,
  rule: learners.GradientRule | learners.Learner,
  optimizer: optax.GradientTransformation,
  devices: learners.Devices,
) -> learners.Learner:
  """The learner of a rule: `rule` itself where it is one.

  Raises:
    ValueError: if the config sets `descend` for a learner that has none.
  """
  if isinstance(rule, learners.Learner):
    for name in SCHEDULE:
      if config.learner.get(name):
        raise ValueError(
          f'learner.{name}={config.learner[name]}: must not be set, for it '
          f'means something to rules alone, and {config.learner.name!r} is a '
          'learner of its own.'
        )
    return rule
  with sections.named_in(sections.keys_of('learner', SCHEDULE)):
    return learners.descend(
      rule,
      optimizer,
      every=config.learner.get('every') or None,
      carry=config.learner.get('carry', False),
      devices=devices,
    )


def learner_keys(config: ml_collections.ConfigDict) -> dict[str, str]:
  """`{argument: key}` of all that `config.learner` may set.

  For the errors that a learner raises after its factory has returned: that an
  argument does not fit a cell is known when the rule is traced.
  """
  factory = section_factory('learner', config.learner.name)
  dynamics_and_loss = 2
  settings = _settings(factory, dynamics_and_loss, HANDED)
  return sections.keys_of('learner', [*settings, *SCHEDULE])


def is_built_in(network: str) -> bool:
  """Whether the project itself has the cell or network of this name."""
  return any(
    network in BUILTIN[group] for group in ('bionet.cells', 'bionet.networks')
  )


def takes(learner: ml_collections.ConfigDict, parameter: str) -> bool:
  """Whether the factory that a learner's section names has a parameter."""
  factory = section_factory('learner', learner.name)
  return parameter in inspect.signature(factory).parameters


def dynamics_group(name: str) -> str:
  """The plugin group of a network's name: cells or relaxation networks.

  Raises:
    KeyError: if it is in neither.
  """
  if ':' in name:  # a path, `module:factory`: its result tells which it is
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
    f'network.name={name!r}: no network named {name!r}.'
    f'{plugins.near(name, known)} '
    f'There are: {", ".join(known)}.'
  )


def _check_instance(
  result: object, kinds: tuple[type, ...], source: str
) -> None:
  if not isinstance(result, kinds):
    raise TypeError(
      f'{source} is a {type(result).__name__}; it must be a '
      f'{" or a ".join(kind.__name__ for kind in kinds)}.'
    )
