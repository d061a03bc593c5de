# SPDX-License-Identifier: Apache-2.0
"""Names of plugins, against tables and entry points written out here."""

import sys
import types
from importlib import metadata

import pytest

from bionet_core import plugins

GROUP = 'bionet.cells'
BUILTIN = types.MappingProxyType(
  {'gru': 'bionet_core.cells.cores:gru', 'absent': 'no_such_module_here:f'}
)


@pytest.fixture
def installed(monkeypatch):
  """Sets the entry points that a package of others has installed."""

  def install(**points):
    entries = [metadata.EntryPoint(n, v, GROUP) for n, v in points.items()]
    monkeypatch.setattr(
      metadata, 'entry_points', lambda group: entries if group == GROUP else []
    )

  install()
  return install


@pytest.fixture
def module(monkeypatch):
  """A module with factories, as an author would write one."""
  made = types.ModuleType('plugin_under_test')

  def named(spec, *, hidden=3):
    return spec, hidden

  def hiding(spec, **settings):
    return spec, settings

  made.named, made.hiding = named, hiding
  monkeypatch.setitem(sys.modules, made.__name__, made)
  return made


def test_names_are_sorted_and_nothing_is_imported(installed):
  """Truth: the tables; a module that does not exist would fail to import."""
  installed(mine='another_module_that_is_absent:cell')
  assert plugins.names(GROUP, BUILTIN) == ['absent', 'gru', 'mine']
  assert plugins.names('bionet.tasks', BUILTIN) == ['absent', 'gru']


def test_load_gives_the_factory_of_the_name(installed, module):
  """Truth: the function objects themselves."""
  installed(mine='plugin_under_test:named')
  assert plugins.load(GROUP, 'mine', BUILTIN) is module.named
  assert plugins.load(GROUP, 'gru', BUILTIN).__name__ == 'gru'


def test_module_and_factory_need_no_package(installed, module):
  """Truth: the function object itself."""
  name = 'plugin_under_test:named'
  assert plugins.load(GROUP, name, BUILTIN) is module.named
  with pytest.raises(KeyError, match="no module 'absent_module'"):
    plugins.load(GROUP, 'absent_module:named', BUILTIN)
  with pytest.raises(KeyError, match="plugin_under_test has no 'nmed'"):
    plugins.load(GROUP, 'plugin_under_test:nmed', BUILTIN)


def test_an_unknown_name_says_what_is_near_and_what_there_is(installed):
  """Truth: the message a user reads."""
  installed(mine='a:b')
  with pytest.raises(KeyError) as error:
    plugins.load(GROUP, 'gruu', BUILTIN)
  message = str(error.value)
  assert "no bionet.cells named 'gruu'" in message
  assert "Did you mean 'gru'?" in message
  assert 'absent, gru, mine' in message
  with pytest.raises(KeyError) as error:
    plugins.load(GROUP, 'zzzzzz', BUILTIN)
  assert 'Did you mean' not in str(error.value)


def test_two_owners_of_one_name_are_an_error(installed):
  """Truth: both owners are named; the same owner twice is no conflict."""
  installed(gru='somebody.else:gru')
  owners = r'cells\.cores:gru and somebody\.else:gru'
  with pytest.raises(ValueError, match=owners):
    plugins.names(GROUP, BUILTIN)
  with pytest.raises(ValueError, match=owners):
    plugins.load(GROUP, 'absent', BUILTIN)
  installed(gru=BUILTIN['gru'])
  assert plugins.names(GROUP, BUILTIN) == ['absent', 'gru']


def test_a_factory_must_name_its_parameters(installed, module):
  """Truth: a misspelt setting must not pass unseen."""
  del module
  with pytest.raises(TypeError, match='must name its parameters'):
    plugins.load(GROUP, 'plugin_under_test:hiding', BUILTIN)


def test_a_broken_import_inside_a_plugin_is_shown_as_it_is(
  installed, tmp_path, monkeypatch
):
  """Truth: the missing module is the plugin's own, not the plugin."""
  (tmp_path / 'broken_plugin.py').write_text('import absent_dependency\n')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ModuleNotFoundError, match='absent_dependency'):
    plugins.load(GROUP, 'broken_plugin:cell', BUILTIN)
