# SPDX-License-Identifier: Apache-2.0
"""Any task, any cell or network, any learner, from their own defaults.

  python -m experiments.train --workdir=runs/mine \
    --config=experiments/configs/compose.py:copying,lstm,bptt

The sections hold every argument of the three factories with its default, so
all of them can be overridden. Built-in names and those of installed plugins
(`--list` prints them) work alike; so does `my_module:my_rule`. A setting that
is a mapping is set whole:

  --config.learner.settings='{"std_init": 0.1}'
"""

import collections.abc
import inspect
import types
import typing

from ml_collections import config_dict

from experiments.configs import base
from experiments.runs import factories

CHOICES = 'TASK,NETWORK,LEARNER'
"""What may follow the colon."""


def get_config(choice: str = 'prototypes,asymmetric,local_plasticity'):
  """The config of `TASK,NETWORK,LEARNER`."""
  names = choice.split(',')
  if len(names) != 3:
    raise ValueError(
      'name a task, a network and a learner, e.g. compose.py:copying,gru,bptt.'
    )
  task, network, learner = names
  config = base.base_config()
  config.num_updates = 500
  chosen = {'task': task, 'network': network, 'learner': learner}
  for section, name in chosen.items():
    factory = factories.section_factory(section, name)
    config[section].name = name
    signature = inspect.signature(factory, eval_str=True)
    factories.check_factory(factory, name)
    for parameter in signature.parameters.values():
      handed = parameter.name in factories.HANDED
      if parameter.kind is parameter.KEYWORD_ONLY and not handed:
        config[section][parameter.name] = _default(parameter)
  if 'seed' in config.task:
    config.task.seed = config.get_oneway_ref('seed')
  return config


def _default(parameter: inspect.Parameter):
  """The parameter's default; a typed placeholder where there is none."""
  if parameter.default not in (inspect.Parameter.empty, None):
    return parameter.default
  kind = parameter.annotation
  if typing.get_origin(kind) in (types.UnionType, typing.Union):
    kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
  kind = typing.get_origin(kind) or kind
  if kind is collections.abc.Mapping:
    return config_dict.ConfigDict()
  known = isinstance(kind, type) and kind is not inspect.Parameter.empty
  # Not `required`: that would refuse the config before any override is read.
  return config_dict.placeholder(kind if known else object)
