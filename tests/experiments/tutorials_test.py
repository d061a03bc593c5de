# SPDX-License-Identifier: Apache-2.0
"""Every tutorial runs, and reaches what it promises.

By default the first does; of the others, that what they name is there.
"""

import ast
import importlib
import pathlib
import pkgutil
import re

import pytest

_TUTORIALS = pathlib.Path(__file__).parents[2] / 'experiments' / 'tutorials'
_PROMISES = {
  # The reference configuration reads .95 (20 seeds: .940 at the least).
  '01_first_network.py': ('accuracy', 0.93),
  # Reads .99.
  '02_training_loop.py': ('accuracy', 0.95),
  # In its short form it learns nothing; the test that is slow runs the whole.
  '03_cell_fate.py': ('utility', 0.0),
  '04_online_learning.py': ('accuracy', 0.0),  # likewise
}
_SHORT = {'03_cell_fate.py', '04_online_learning.py'}
_SLOW = set(_PROMISES) - {'01_first_network.py'}  # even so


def test_every_tutorial_makes_a_promise():
  """Truth: the files of the folder."""
  assert {p.name for p in _TUTORIALS.glob('*.py')} == set(_PROMISES)


@pytest.mark.parametrize('name', _PROMISES)
def test_what_a_tutorial_names_is_there(name):
  """Truth: the packages that it imports; each `package.name` of its text."""
  tree = ast.parse((_TUTORIALS / name).read_text())
  modules = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        module = importlib.import_module(alias.name)
        if alias.asname or '.' not in alias.name:
          modules[alias.asname or alias.name] = module
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        path = f'{node.module}.{alias.name}'
        modules[alias.asname or alias.name] = pkgutil.resolve_name(path)
  assert modules
  named = [
    (node.value.id, node.attr)
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute)
    and isinstance(node.value, ast.Name)
    and node.value.id in modules
  ]
  assert named
  for module, attribute in named:
    assert hasattr(modules[module], attribute), (module, attribute)


@pytest.fixture(scope='module')
def run(command):
  """`(name, folder, *arguments) -> what it printed` of a tutorial."""

  def printed(name, folder, *arguments):
    done = command(_TUTORIALS / name, *arguments, cwd=folder)
    assert done['status'] == 0, done['stderr']
    return done['stdout']

  return printed


@pytest.fixture(scope='module')
def ran(tmp_path_factory, run):
  """`name -> (what it printed, the folder it ran in)`, each run once."""
  made = {}

  def once(name):
    if name not in made:
      folder = tmp_path_factory.mktemp('tutorial')
      short = ['--short'] if name in _SHORT else []
      made[name] = run(name, folder, *short), folder
    return made[name]

  return once


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else [])
    for name in _PROMISES
  ],
)
def test_a_tutorial_reaches_what_it_promises(name, ran):
  """Truth: the last metric it prints, against the floor above."""
  printed, _ = ran(name)
  metric, floor = _PROMISES[name]
  reached = re.findall(rf'held-out {metric} (-?[\d.]+)', printed)
  assert float(reached[-1]) >= floor


def test_the_first_describes_the_output_before_and_after(ran):
  """Truth: the untrained and the trained output, each on a line."""
  printed, _ = ran('01_first_network.py')
  described = re.findall(r'shape .*, range \[.*\], mean .*, std ', printed)
  assert len(described) == 2


@pytest.mark.slow
def test_the_second_resumes_exactly_and_draws(ran):
  """Truth: its own comparison of all bits; the checkpoints it keeps; a PNG."""
  printed, folder = ran('02_training_loop.py')
  assert 'end with the same bits: True' in printed
  [kept] = re.findall('checkpoints: (.*)', printed)
  assert 2 <= len(kept.split(', ')) <= 3  # the last two, and the best
  content = (folder / 'runs' / '02_training_loop.png').read_bytes()
  assert content[:8] == b'\x89PNG\r\n\x1a\n' and len(content) > 10_000


@pytest.mark.slow
def test_the_third_measures_the_bias_and_draws_the_rate(ran):
  """Truth: the closed form, two columns of one table; a PNG."""
  printed, folder = ran('03_cell_fate.py')
  rows = re.findall(r'^ +(\d+) +(0\.\d+) +(0\.\d+)$', printed, re.M)
  assert [int(row[0]) for row in rows] == [30, 1000]
  for _, measured, expected in rows:
    assert float(measured) == pytest.approx(float(expected), abs=0.02)
  content = (folder / 'runs' / '03_cell_fate_rate.png').read_bytes()
  assert content[:8] == b'\x89PNG\r\n\x1a\n' and len(content) > 10_000


@pytest.mark.slow
def test_the_whole_third_finds_the_pattern(tmp_path, run):
  """Truth: what it says of itself: nearly the ceiling, signs (+, -, +)."""
  printed = run('03_cell_fate.py', tmp_path)
  [reached] = re.findall(r'held-out utility ([\d.]+)', printed)
  assert float(reached) >= 0.8
  signs = re.findall(r'^f\((?:0.00|0.50|1.00)\) = +([+-])', printed, re.M)
  assert signs == ['+', '-', '+']


@pytest.mark.slow
def test_the_fourth_draws_what_it_trained(ran):
  """Truth: its table of credit, flat memory of the online rule; two PNGs."""
  printed, folder = ran('04_online_learning.py')
  assert re.search(r"^\['gru'\]\['w_h'\] +108 +72 +36 +0 +0 ", printed, re.M)
  assert len(re.findall(r'loss [\d.]+, accuracy [\d.]+$', printed, re.M)) == 3
  for name in ('04_online_learning', '04_spikes'):
    content = (folder / 'runs' / f'{name}.png').read_bytes()
    assert content[:8] == b'\x89PNG\r\n\x1a\n' and len(content) > 10_000


@pytest.mark.slow
def test_the_whole_fourth_learns_to_remember(tmp_path, run):
  """Truth: what it says: BPTT above D-RTRL, that far above no trace; e-prop."""
  printed = run('04_online_learning.py', tmp_path)
  found = re.findall(r', accuracy ([\d.]+)$', printed, re.M)
  offline, online, without = map(float, found)
  assert offline > 0.9 and online > 0.7 and without < 0.55
  [_, flat] = re.findall(r'MiB at a lag of .*: (.*)$', printed, re.M)
  assert len(set(flat.split(', '))) == 1
  spiking = re.findall(r'held-out accuracy ([\d.]+)', printed)
  assert float(spiking[-1]) > 0.9 and float(spiking[0]) < 0.7
