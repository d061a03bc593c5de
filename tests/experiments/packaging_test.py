# SPDX-License-Identifier: Apache-2.0
"""What the repository promises of its packages, files and imports.

Truth: the layout of DESIGN.md, the pyproject files, and the files themselves.
"""

import ast
import importlib
import pathlib
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest

REPO = pathlib.Path(__file__).parents[2]
PACKAGES = ('bionet_core', 'bionet_tasks', 'bionet_learners')
TOP_LEVEL = {
  'CHANGELOG.md',
  'LICENSE',
  'README.md',
  'RESULTS.md',
  'WORKSPACE.md',
  'bionet_core',
  'bionet_learners',
  'bionet_tasks',
  'experiments',
  'findings',
  'pyproject.toml',
  'tests',
}
FORBIDDEN = {'torch', 'tensorflow', 'pickle', 'dill', 'cloudpickle'}


def _git_files(*arguments: str) -> list[str]:
  answer = subprocess.run(
    ['git', 'ls-files', *arguments],
    cwd=REPO,
    capture_output=True,
    text=True,
    check=True,
  )
  return [line for line in answer.stdout.splitlines() if (REPO / line).exists()]


def _python_files() -> list[str]:
  return _git_files('--cached', '--others', '--exclude-standard', '*.py')


def _project(folder: str) -> dict:
  text = (REPO / folder / 'pyproject.toml').read_text()
  return tomllib.loads(text)['project']


def _imports(file: str) -> set[str]:
  """The top-level modules that a file imports, wherever in it."""
  found = set()
  for node in ast.walk(ast.parse((REPO / file).read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name.partition('.')[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and not node.level:
      found.add(node.module.partition('.')[0])
  return found


@pytest.mark.parametrize('name', PACKAGES)
def test_a_package_is_no_folder_found_by_accident(name):
  """Truth: a namespace package has no file: src/ would be shadowed."""
  module = importlib.import_module(name)
  assert module.__file__ is not None
  assert pathlib.Path(module.__file__).parent.name == name


def test_the_dependency_law_holds():
  """Truth: import-linter's contracts in pyproject.toml; all are kept."""
  command = (
    'import sys; from importlinter.cli import lint_imports; '
    'sys.exit(lint_imports(no_cache=True))'
  )
  answer = subprocess.run(
    [sys.executable, '-c', command],
    cwd=REPO,
    capture_output=True,
    text=True,
    check=False,
  )
  assert answer.returncode == 0, answer.stdout + answer.stderr
  text = (REPO / 'pyproject.toml').read_text()
  contracts = tomllib.loads(text)['tool']['importlinter']['contracts']
  assert f'{len(contracts)} kept, 0 broken' in answer.stdout


def test_the_root_depends_on_what_its_packages_depend_on():
  """Truth: the packages' own pyproject files, requirement by requirement."""
  root = _project('.')
  assert root['dependencies'] == sorted(root['dependencies'], key=str.lower)
  for package in PACKAGES:
    project = _project(package)
    assert project['version'] == root['version']
    for requirement in project['dependencies']:
      if requirement.startswith('bionet-'):
        assert requirement.endswith(f'=={root["version"]}')
      else:
        assert requirement in root['dependencies']


@pytest.mark.parametrize('folder', (*PACKAGES, 'experiments'))
def test_every_import_is_a_declared_dependency(folder):
  """Truth: the imports in the files, by the distribution that ships each."""
  declared = {
    re.split(r'[<>=\[ ]', requirement)[0].lower()
    for requirement in _project('.' if folder == 'experiments' else folder)[
      'dependencies'
    ]
  }
  files = [f for f in _python_files() if f.startswith(f'{folder}/')]
  assert files
  shipped = metadata.packages_distributions()
  own = {*PACKAGES, 'experiments', *sys.stdlib_module_names}
  if folder in PACKAGES:  # a sibling is a dependency too
    own = {folder, *sys.stdlib_module_names}
  # The contracts that a package ships are run where pytest is installed.
  tools = {'pytest'}
  for file in files:
    given = own | tools if file.endswith('/testing.py') else own
    for module in _imports(file) - given:
      names = {name.lower() for name in shipped.get(module, [module])}
      names |= {module.replace('_', '-')}
      assert names & declared, f'{file} imports {module}'


def test_no_function_of_the_experiments_is_long():
  """Truth: 120 lines, the docstring not counted."""
  files = [f for f in _python_files() if f.startswith('experiments/')]
  for file in files:
    for node in ast.walk(ast.parse((REPO / file).read_text())):
      if not isinstance(node, ast.FunctionDef):
        continue
      lines = node.end_lineno - node.lineno + 1
      if ast.get_docstring(node) is not None:
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1
      assert lines <= 120, f'{file}: {node.name} has {lines} lines'


def test_the_top_level_holds_nothing_else():
  """Truth: the tree of DESIGN.md."""
  top = {file.partition('/')[0] for file in _git_files()}
  assert {name for name in top if not name.startswith('.')} <= TOP_LEVEL
  assert {*PACKAGES, 'experiments', 'pyproject.toml', 'README.md'} <= top


def test_every_file_says_its_licence():
  """Truth: the first line."""
  files = _python_files()
  assert len(files) > 40
  for file in files:
    first = (REPO / file).read_text().partition('\n')[0]
    assert first == '# SPDX-License-Identifier: Apache-2.0', file


def test_no_other_framework_and_no_pickle():
  """Truth: the imports in every file, tests among them."""
  for file in _python_files():
    assert not _imports(file) & FORBIDDEN, file


def test_tests_are_no_package():
  """Truth: the files; pytest imports them by path."""
  tests = [file for file in _python_files() if file.startswith('tests/')]
  assert tests
  assert not [file for file in tests if file.endswith('__init__.py')]
