# SPDX-License-Identifier: Apache-2.0
"""What a user can choose, and every key of a config with what it means.

Truth: sources and docstrings written here, and the tables of names.
"""

import importlib
import inspect
import pathlib
import re

import pytest

from bionet_core import plugins
from experiments import reference
from experiments.configs import copying, memory
from experiments.runs import factories, optimizer_settings

CONFIGS = pathlib.Path(reference.__file__).parent / 'configs'
FILES = sorted(p.stem for p in CONFIGS.glob('[!_]*.py') if p.stem != 'base')

SOURCE = """\
def get_config():
  config = base()
  # How many
  #   of them.
  config.task.count = 3
  config.task.more = 4

  config.task.bare = 5
  # Above another statement.
  call(config)
  # By its name.
  config['learner'].window = 6
  for name in ('a', 'b'):
    # Of each.
    config.learner[name] = 7
  # Again.
  config.task.count = 8
  # No key.
  x = 9
"""


def thing(spec, *, size: int = 3, kind: str = 'a'):
  """A thing.

    y = size x

  Args:
    spec: sizes.
    size: how large, see :func:`optax.adam`, or
      ``None``: as it comes.
    kind (optional): 'a' or
      'b'.

  Returns:
    nothing: at all.
  """


def test_a_comment_belongs_to_the_keys_below_it():
  """Truth: by hand; the first of two comments on one key counts."""
  assert reference.comments(SOURCE, below=False) == {
    'task.count': 'How many of them.',
    'learner.window': 'By its name.',
  }
  assert reference.comments(SOURCE) == {
    'task.count': 'How many of them.',
    'task.more': 'How many of them.',
    'learner.window': 'By its name.',
  }


def test_a_docstring_says_what_arguments_are():
  """Truth: the docstring above, as sentences."""
  assert reference.arguments(thing) == {
    'spec': 'Sizes.',
    'size': 'How large, see optax.adam, or `None`: as it comes.',
    'kind': "'a' or 'b'.",
  }
  assert reference.arguments(lambda: None) == {}


@pytest.mark.parametrize(
  ('group', 'name'),
  [
    (group, name)
    for group, table in factories.BUILTIN.items()
    for name in table
  ],
)
def test_every_setting_of_a_factory_is_documented(group, name):
  """Truth: the factory's own parameters."""
  factory = plugins.load(group, name, factories.BUILTIN[group])
  settings = {
    p.name
    for p in inspect.signature(factory).parameters.values()
    if p.kind is p.KEYWORD_ONLY
  }
  documented = reference.arguments(factory)
  assert settings <= documented.keys()
  assert all(documented[setting] for setting in settings)


@pytest.mark.parametrize('name', FILES)
def test_every_key_of_a_config_is_explained(name):
  """Truth: the keys; each stands in a block that a comment begins."""
  variant = {'memory': ['adding,d_rtrl'], 'compose': ['copying,lru,e_prop']}
  module = importlib.import_module(f'experiments.configs.{name}')
  config = module.get_config(*variant.get(name, []))
  optimizer_settings.complete(config, {})
  text = reference.described(config, pathlib.Path(module.__file__))
  blocks, keys = text.split('\n\n'), []
  for block in blocks:
    lines = block.splitlines()
    found = [line for line in lines if not line.startswith('#')]
    assert lines[0].startswith('# ') and found, block
    assert all(len(line) <= 80 for line in lines if line.startswith('#'))
    keys += [line.split(' = ')[0] for line in found]
  assert sorted(keys) == sorted(reference._keys(config))
  assert len({*keys}) == len(keys)


def test_names_come_with_their_choices():
  """Truth: the names installed; the shared keys come first, stages last."""
  config = copying.get_config('smoke')
  optimizer_settings.complete(config, {})
  text = reference.described(config, pathlib.Path(copying.__file__))
  flat = re.sub(r'\n# ', ' ', text)
  for section, names in (
    ('task', factories.BUILTIN['bionet.tasks']),
    ('learner', factories.BUILTIN['bionet.learners']),
    ('optimizer', optimizer_settings.names()),
  ):
    named = f'One of {", ".join(sorted(names))}.\n{section}.name = '
    assert named in flat
  assert flat.index('seed = 0') < flat.index('task.name')
  assert text.endswith('stages = {}')


def test_the_list_names_variants():
  """Truth: the tables of the configs; all of them make a config."""
  text = ' '.join(reference.installed().split())
  for name in FILES:
    module = importlib.import_module(f'experiments.configs.{name}')
    assert f'{name}.py: {module.CHOICES}' in text
    for variant in getattr(module, '_VARIANTS', {}):
      assert re.search(rf'\b{variant}\b', module.CHOICES)
  for word in (*memory.TASKS, 'd_rtrl', 'e_prop', 'smoke'):
    assert word in memory.CHOICES
