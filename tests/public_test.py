# SPDX-License-Identifier: Apache-2.0
"""The public face: what the roots of the three packages export.

Truth: `__all__` of each root; the modules on the disk; and, for what is
installed, wheels built of the sources and the archive of the last commit.
"""

import ast
import importlib
import inspect
import itertools
import json
import os
import pathlib
import subprocess
import sys
import types
import zipfile
from importlib import metadata

import pytest

import bionet_core
import bionet_learners
import bionet_tasks
from bionet_core import version

REPO = pathlib.Path(__file__).parents[1]
ROOTS = {
  module.__name__: module
  for module in (bionet_core, bionet_tasks, bionet_learners)
}
NAMES = [(root, name) for root in ROOTS for name in ROOTS[root].__all__]
SOURCES = {root: REPO / root / 'src' for root in ROOTS}

# Imports the modules that it reads, and prints which names of the roots are
# modules, and which files the modules are of.
IMPORT = """
import importlib, json, sys, types
modules, roots = json.load(sys.stdin)
files = [importlib.import_module(name).__file__ for name in modules]
shadowed = [
  f'{root}.{name}' for root in roots
  for name in importlib.import_module(root).__all__
  if isinstance(getattr(sys.modules[root], name), types.ModuleType)
]
versions = [sys.modules[root].__version__ for root in roots]
json.dump({'shadowed': shadowed, 'files': files, 'versions': versions},
          sys.stdout)
"""


def modules(source: pathlib.Path, root: str) -> list[str]:
  """All modules of a package whose folder is in `source`, by name."""
  paths = (path.relative_to(source) for path in (source / root).rglob('*.py'))
  return sorted('.'.join(p.with_suffix('').parts) for p in paths)


def import_anew(names: list[str], paths: list[pathlib.Path], cwd) -> dict:
  """Imports modules in a process of their own, from these folders first."""
  answer = subprocess.run(
    [sys.executable, '-c', IMPORT],
    input=json.dumps([names, list(ROOTS)]),
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths))},
    cwd=cwd,
    capture_output=True,
    text=True,
    check=False,
  )
  assert answer.returncode == 0, answer.stderr
  report = json.loads(answer.stdout)
  for file in report['files']:
    assert any(pathlib.Path(file).is_relative_to(p) for p in paths), file
  return report


def documented_data(root: str) -> set[str]:
  """Names that a module of the package assigns and then documents."""
  found = set()
  for path in SOURCES[root].rglob('*.py'):
    body = ast.parse(path.read_text()).body
    for node, after in itertools.pairwise(body):
      if (
        isinstance(node, ast.Assign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
      ):
        found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
  return found


##############################################################################
# Names and docstrings


@pytest.mark.parametrize('root, name', NAMES)
def test_a_public_name_is_there_and_says_what_it_is(root, name):
  """Truth: `__all__`; a docstring of its own, and no module under the name."""
  thing = getattr(ROOTS[root], name)
  assert not isinstance(thing, types.ModuleType)
  made_here = getattr(thing, '__module__', '').partition('.')[0] == root
  if not (made_here and (inspect.isclass(thing) or inspect.isfunction(thing))):
    assert name in documented_data(root)
    return
  text = thing.__doc__ or ''
  assert text.strip() and not text.startswith(f'{name}('), 'made by Python'
  if getattr(thing, '_is_protocol', False) and '__call__' in vars(thing):
    assert (vars(thing)['__call__'].__doc__ or '').strip()


@pytest.mark.parametrize('root', ROOTS)
def test_a_root_lists_each_of_its_names_once(root):
  """Truth: what stands in the root beside modules and private names."""
  listed = ROOTS[root].__all__
  assert len(set(listed)) == len(listed)
  shown = {
    name
    for name, thing in vars(ROOTS[root]).items()
    if not name.startswith('_') and not isinstance(thing, types.ModuleType)
  }
  assert shown == {name for name in listed if not name.startswith('_')}


def test_every_public_function_of_a_module_has_a_docstring():
  """Truth: the modules' own functions, classes and methods."""
  silent = []
  for root, source in SOURCES.items():
    for name in modules(source, root):
      module = importlib.import_module(name.removesuffix('.__init__'))
      assert (module.__doc__ or '').strip(), name
      for key, thing in vars(module).items():
        if getattr(thing, '__module__', None) != module.__name__:
          continue
        if key.startswith('_') or not callable(thing):
          continue
        if not (inspect.getdoc(thing) or '').strip():
          silent.append(f'{name}.{key}')
  assert not silent


@pytest.mark.parametrize('root', ROOTS)
def test_a_factory_of_the_tables_is_a_public_name(root):
  """Truth: the tables of built-ins, `module:factory`."""
  tables = [
    value
    for name, value in vars(ROOTS[root]).items()
    if name.isupper() and isinstance(value, types.MappingProxyType)
  ]
  assert tables
  for table in tables:
    for path in table.values():
      module, _, factory = path.partition(':')
      assert module == root and factory in ROOTS[root].__all__


##############################################################################
# Imports


@pytest.mark.parametrize(
  'backward', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_no_public_name_becomes_a_module(backward, tmp_path):
  """Truth: every submodule imported, in both orders, each in a fresh process.

  Importing a submodule binds its name in its package: a function of that name
  would be gone.
  """
  names = [
    name.removesuffix('.__init__')
    for root, source in SOURCES.items()
    for name in modules(source, root)
  ]
  assert len(names) > 60
  names.sort(reverse=backward)
  report = import_anew(names, list(SOURCES.values()), tmp_path)
  assert report['shadowed'] == []


##############################################################################
# Versions and distributions


def test_the_version_is_that_of_the_distribution_that_is_installed(monkeypatch):
  """Truth: the metadata, of the package's own distribution or of `bionet`."""
  installed = {'bionet-core': '1.2', 'bionet': '3.4'}

  def look_up(name):
    if name not in installed:
      raise metadata.PackageNotFoundError(name)
    return installed[name]

  monkeypatch.setattr(metadata, 'version', look_up)
  assert version.installed_version('bionet-core') == '1.2'
  assert version.installed_version('bionet-tasks') == '3.4'
  installed.clear()
  assert version.installed_version('bionet-core') == '0+uninstalled'


@pytest.mark.parametrize('root', ROOTS)
def test_packages_say_that_they_are_typed(root):
  """Truth: the marker file of PEP 561, which type checkers look for."""
  assert (SOURCES[root] / root / 'py.typed').exists()


def test_the_last_commit_holds_every_module(tmp_path):
  """Truth: the modules on the disk but those that are new since.

  A file that a pattern of `.gitignore` hides is on the disk and in no commit.
  """

  def git(*arguments):
    return subprocess.run(
      ['git', *arguments], cwd=REPO, capture_output=True, check=True
    ).stdout

  archive = tmp_path / 'archive.zip'
  archive.write_bytes(git('archive', '--format=zip', 'HEAD'))
  with zipfile.ZipFile(archive) as file:
    file.extractall(tmp_path)
  new = {
    line[3:].rpartition(' -> ')[2]
    for line in git('status', '--porcelain', '-uall').decode().splitlines()
    if line[0] in '?AR'
  }
  folders = [REPO / 'experiments', *SOURCES.values()]
  on_disk = {
    str(path.relative_to(REPO)) for f in folders for path in f.rglob('*.py')
  }
  missing = {f for f in on_disk - new if not (tmp_path / f).exists()}
  assert not missing
  sources = [tmp_path / root / 'src' for root in ROOTS]
  names = [
    name.removesuffix('.__init__')
    for root, source in zip(ROOTS, sources, strict=True)
    for name in modules(source, root)
  ]
  report = import_anew(names, sources, tmp_path)
  assert report['shadowed'] == []  # forward; the test above goes backward


@pytest.mark.slow
def test_a_wheel_has_every_module_and_says_its_version(tmp_path):
  """Truth: the sources, file by file; pip builds as it does for a user."""
  command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps']
  folders = [str(REPO / root) for root in ROOTS]
  subprocess.run([*command, '-w', str(tmp_path), *folders], check=True)
  site = tmp_path / 'site'
  for wheel in tmp_path.glob('*.whl'):
    with zipfile.ZipFile(wheel) as file:
      file.extractall(site)
  names = []
  for root, source in SOURCES.items():
    assert modules(site, root) == modules(source, root)
    assert (site / root / 'py.typed').exists()
    names += [n.removesuffix('.__init__') for n in modules(site, root)]
  report = import_anew(names, [site], tmp_path)
  built = {wheel.name.split('-')[1] for wheel in tmp_path.glob('*.whl')}
  assert set(report['versions']) == built and len(built) == 1
  assert report['shadowed'] == []
