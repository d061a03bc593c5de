# SPDX-License-Identifier: Apache-2.0
"""What a user can choose: the lists of --list, a config with its comments."""

import ast
import importlib
import inspect
import pathlib
import re
import textwrap
from collections.abc import Callable, Iterator

import ml_collections

from bionet_core import plugins
from experiments.configs import base
from experiments.runs import factories, optimizer_settings

_FACTORIES = ('task', 'network', 'learner')  # sections that name a factory
# In which order sections are printed, after the keys in none.
_SECTIONS = (*_FACTORIES, 'optimizer', 'early_stopping', 'restarts', 'stages')
_WIDTH = 80


def installed() -> str:
  """Everything that a config may name, and every config with its variants."""
  lines = [
    f'{group.removeprefix("bionet.")}: '
    + ', '.join(plugins.names(group, builtin))
    for group, builtin in factories.BUILTIN.items()
  ]
  lines.append(f'optimizers: {", ".join(optimizer_settings.names())}')
  lines.append('configs: experiments/configs/FILE:VARIANT, of')
  configs = pathlib.Path(__file__).parent / 'configs'
  for path in sorted(configs.glob('[!_]*.py')):
    if path.stem != 'base':
      module = importlib.import_module(f'experiments.configs.{path.stem}')
      lines.append(f'{path.name}: {module.CHOICES}')
  return '\n'.join(_wrapped(line) for line in lines)


def _wrapped(line: str) -> str:
  return textwrap.fill(line, _WIDTH, subsequent_indent='  ')


def described(config: ml_collections.ConfigDict, file: pathlib.Path) -> str:
  """Every key of a config with its value, below what it means.

  What a key of `experiments/configs/base.py` means is said by the comment there
  and by one right above it in the config's file; of another, by that or else by
  the docstring of the factory that takes it.

  Args:
    config: the config.
    file: the file that has made it.

  Raises:
    KeyError: for the name of something that is not installed.
  """
  documented = _documented(config)
  shared = {
    key: text
    for key, text in comments(inspect.getsource(base)).items()
    if key not in documented
  }
  source = file.read_text(encoding='utf-8')
  beside = comments(source, below=False)
  texts = {**comments(source), **shared, **documented, **beside}
  for key in shared.keys() & beside.keys():
    texts[key] = f'{shared[key]} {beside[key]}'
  for section in (*_FACTORIES, 'optimizer'):
    texts[f'{section}.name'] = f'One of {", ".join(_names(section))}.'
  order = [*documented, *shared, *texts]

  def explained(key):
    """The key itself, or the mapping that it is in, where that is explained."""
    while key not in texts and key.count('.') > 1:
      key = key.rpartition('.')[0]
    return 'stages' if key.startswith('stages.') else key

  def rank(key):
    section, _, rest = key.partition('.')
    place = _SECTIONS.index(section) if section in _SECTIONS else -1
    by = explained(key)
    at = order.index(by) if by in order else len(order)
    return place, rest != 'name', at, key

  lines, text_before = [], ''
  for key in sorted(_keys(config), key=rank):
    text = texts.get(explained(key), '')
    if text and text != text_before:  # one comment may stand above several keys
      lines += ['', *_comment(text)]
    elif text_before and not text:
      lines.append('')
    text_before = text
    lines.append(f'{key} = {_shown(config, key)}')
  return '\n'.join(lines[1:])


def comments(source: str, below: bool = True) -> dict[str, str]:
  """The comments above assignments such as `config.task.lag = 3`.

  Where a key has several, the first counts.

  Args:
    source: Python.
    below: take a comment for that of the assignments in the next lines, too.

  Returns:
    `{key: comment}`.
  """
  lines, by_key = source.split('\n'), {}
  last_line, text = 0, ''
  nodes = [x for x in ast.walk(ast.parse(source)) if isinstance(x, ast.Assign)]
  for node in sorted(nodes, key=lambda node: node.lineno):
    key = _dotted(node.targets[0])
    above = _comment_above(lines, node.lineno - 1)
    if above or not below or node.lineno != last_line + 1:
      text = above
    if key and text:
      by_key.setdefault(key, text)
    last_line = node.end_lineno
  return by_key


def _dotted(target: ast.expr) -> str:
  """The path of an assignment's target, without the name before it."""
  parts = []
  while isinstance(target, (ast.Attribute, ast.Subscript)):
    if isinstance(target, ast.Attribute):
      parts.append(target.attr)
    elif isinstance(target.slice, ast.Constant):
      parts.append(str(target.slice.value))
    else:
      return ''
    target = target.value
  return '.'.join(reversed(parts)) if isinstance(target, ast.Name) else ''


def _comment_above(lines: list[str], number: int) -> str:
  """The lines of comment that end right above the line of this number."""
  first = number
  while first and lines[first - 1].lstrip().startswith('#'):
    first -= 1
  words = [line.lstrip().lstrip('#').strip() for line in lines[first:number]]
  return ' '.join(words)


def _documented(config: ml_collections.ConfigDict) -> dict[str, str]:
  """`{key: text}` of the docstrings of all that the config names."""
  documented = {}
  for section in (*_FACTORIES, 'optimizer'):
    name = config[section].name
    if section == 'optimizer':
      factory = optimizer_settings.factory(name)
    else:
      factory = factories.section_factory(section, name)
    for argument, text in arguments(factory).items():
      documented[f'{section}.{argument}'] = text
  # The project's own word for what every optimizer has.
  return {
    key: text
    for key, text in documented.items()
    if key not in {f'optimizer.{name}' for name in optimizer_settings.SHARED}
  }


def arguments(function: Callable) -> dict[str, str]:
  """`{argument: text}` of the section Args of a docstring, on one line each."""
  doc = inspect.getdoc(function) or ''
  section = re.search(r'^Args:\n((?:(?:[ \t]+.*)?\n?)+)', doc, re.MULTILINE)
  if not section:
    return {}
  entries = re.split(
    r'^(\w+)(?: \([^)]*\))?:', textwrap.dedent(section[1]), flags=re.MULTILINE
  )
  return {
    name: _sentence(text)
    for name, text in zip(entries[1::2], entries[2::2], strict=True)
  }


def _sentence(text: str) -> str:
  """Text on one line, without the marks of reStructuredText."""
  text = re.sub(r':\w+:`([^`]*)`', r'\1', text).replace('``', '`')
  text = ' '.join(text.split())
  return text[:1].upper() + text[1:]


def _names(section: str) -> list[str]:
  """What the key `name` of a section may be."""
  if section == 'optimizer':
    return optimizer_settings.names()
  groups = [f'bionet.{section}s']
  if section == 'network':
    groups = ['bionet.cells', 'bionet.networks']
  return sorted(
    name
    for group in groups
    for name in plugins.names(group, factories.BUILTIN[group])
  )


def _keys(config: ml_collections.ConfigDict, prefix: str = '') -> Iterator[str]:
  """Every key, by its dotted path; of a section without any, the section."""
  for key in config:
    value = config[key]
    if isinstance(value, ml_collections.ConfigDict) and value:
      yield from _keys(value, f'{prefix}{key}.')
    else:
      yield prefix + key


def _shown(config: ml_collections.ConfigDict, key: str) -> str:
  """A value as Python writes it; of one that is not set, what it may be."""
  *sections, last = key.split('.')
  for section in sections:
    config = config[section]
  value = config[last]
  if isinstance(value, ml_collections.ConfigDict):
    return '{}'
  kind = config.get_type(last)
  if value is None and kind not in (object, type(None)):
    return f'None  # or a {kind.__name__}'
  return repr(value)


def _comment(text: str) -> list[str]:
  return textwrap.wrap(
    text, _WIDTH, initial_indent='# ', subsequent_indent='# '
  )
