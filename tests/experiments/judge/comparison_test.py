# SPDX-License-Identifier: Apache-2.0
"""Runs beside each other: what they took, counted by hand.

Truth: folders written here, with rows and seconds of which the answers follow.
"""

import json
import pathlib

import numpy as np
import pytest
from matplotlib import figure

from experiments.configs import cell_fate, copying
from experiments.figures import comparison as figures
from experiments.judge import comparison
from experiments.runs import factories
from experiments.shell import workdirs

REPO = pathlib.Path(__file__).parents[3]


def _folder(path, config, rows, result=None):
  """A run's folder as `experiments.train` leaves it."""
  spec = factories.make_task(config).spec
  workdirs.create(path, config, spec)
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (path / 'metrics.jsonl').write_text(lines)
  if result is not None:
    workdirs.write_json(path / 'result.json', result)
    held_out = {'untrained': {'utility': 0.125}}
    content = {'evaluations': {'held_out': held_out}}
    workdirs.write_json(path / 'evaluation.json', content)
  return str(path)


@pytest.fixture
def evolution(tmp_path):
  """Two, one and one generations of 4, 3 and 3 members, 12 replicates each.

  T is 40, 80 and 40 steps: dt .2 and .1 for a time of 4; then .1 and .05; then
  .025, too, for a time of 1.
  """
  rows = [
    {'step': 2, 'split': 'train', 'utility': 0.9},
    {'step': 2, 'split': 'eval', 'utility': 0.25},
    {'step': 4, 'split': 'eval', 'utility': 0.5},
  ]
  config = cell_fate.get_config('smoke')
  result = {'updates': 4, 'cpu_seconds': 60.0}
  return _folder(tmp_path / 'evolved', config, rows, result)


def _gradient(path, cpu_seconds=10.0):
  config = cell_fate.get_config('bptt')
  config.num_updates, config.batch_size = 10, 8
  judged = cell_fate.get_config('smoke').task
  for name in ('num_held_out', 'held_out_dt', 'held_out_duration'):
    config.task[name] = judged[name]
  rows = [
    {'step': step, 'split': 'eval', 'utility': step / 20} for step in (5, 10)
  ]
  result = {'updates': 10, 'cpu_seconds': cpu_seconds}
  return _folder(path, config, rows, result)


def _draw(paths, metrics, path):
  figures.draw(*comparison.compare(paths, metrics, 'eval'), path)


def test_every_member_of_a_population_costs_its_trials():
  """Truth: 4, 3, 3 members x 12 replicates; 40, 80 and 40 steps of each."""
  trials, steps = comparison.spent(cell_fate.get_config('smoke'))
  assert trials.tolist() == [0, 48, 96, 132, 168]
  assert steps.tolist() == [0, 1920, 3840, 3840 + 2880, 6720 + 1440]


def test_gradients_cost_their_batches():
  """Truth: batches of 8; 200 steps a trial."""
  config = cell_fate.get_config('bptt')
  config.num_updates, config.batch_size = 3, 8
  trials, steps = comparison.spent(config)
  assert trials.tolist() == [0, 8, 16, 24]
  assert steps.tolist() == [0, 1600, 3200, 4800]


def test_restarts_cost_the_draws_that_judge_them():
  """Truth: counted by hand.

  The first of four updates judges four copies and the pick, the second the two
  that learn and the pick, on 8 trials of 10 and 8 of 20 steps; in the second
  stage the fourth judges one and the pick, on 10 and 10. Two copies learn on 8
  trials of 20 steps, then one on 12.
  """
  trials, steps = comparison.spent(cell_fate.get_config('gradient_smoke'))
  spent = [16 + 5 * 16, 16 + 3 * 16, 12, 12 + 2 * 20]
  assert np.diff(trials).tolist() == spent
  simulated = [320 + 5 * 240, 320 + 3 * 240, 240, 240 + 2 * 300]
  assert np.diff(steps).tolist() == simulated


def test_a_curve_is_the_held_out_rows(evolution):
  """Truth: the rows; 60 s shared out by the steps above, 3,840 of 8,160.

  Before them stands the untrained network, which cost nothing.
  """
  [run] = comparison.load([evolution])
  curve = comparison.curve(run, 'utility', 'eval')
  assert curve.label == 'evolved (evolution)'
  assert curve.values.tolist() == [0.125, 0.25, 0.5]
  costs = {axis: values.tolist() for axis, values in curve.costs.items()}
  assert costs['updates'] == [0, 2, 4]
  assert costs['trials simulated'] == [0, 96, 168]
  np.testing.assert_allclose(
    costs['CPU seconds of training'], [0, 60 * 3840 / 8160, 60]
  )
  assert comparison.curve(run, 'utility', 'train').values.tolist() == [0.9]


def test_a_warm_start_is_no_untrained_network(evolution):
  """Truth: the rows alone, where another run had learned before."""
  [run] = comparison.load([evolution])
  run.config.init_from = 'runs/another'
  assert comparison.curve(run, 'utility', 'eval').values.tolist() == [0.25, 0.5]


def test_what_not_all_runs_know_is_not_drawn(evolution, tmp_path, monkeypatch):
  """Truth: seconds of a resumed run are unknown; chance and ceiling are not."""
  saved = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *_, **__: saved.append(self)
  )
  for cpu_seconds, panels in ((10.0, 3), (None, 2)):
    other = _gradient(tmp_path / f'gradient_{panels}', cpu_seconds)
    _draw([evolution, other], [], tmp_path / 'c.png')
    assert len(saved[-1].axes) == panels
  axes = saved[0].axes[1]
  drawn = {line.get_label(): line for line in axes.lines}
  assert drawn['gradient_3 (bptt)'].get_xdata().tolist() == [0, 40, 80]
  assert drawn['gradient_3 (bptt)'].get_ydata().tolist() == [0.125, 0.25, 0.5]
  assert {'ceiling 0.985', 'chance 0.242'} <= set(drawn)  # of 50 replicates
  assert axes.get_xlabel() == 'trials simulated'
  assert saved[0].axes[0].get_ylabel() == 'utility'


def test_every_metric_has_a_row_with_its_own_levels(tmp_path, monkeypatch):
  """Truth: the rows written here; chance is ln 8 nats and 1/8, ceiling 0, 1."""
  saved = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *_, **__: saved.append(self)
  )
  paths = [
    _folder(
      tmp_path / name,
      copying.get_config('smoke'),
      [{'step': 3, 'split': 'eval', 'loss': loss, 'accuracy': accuracy}],
    )
    for name, loss, accuracy in (
      ('offline', 1.0, 0.75),
      ('online', 1.5, 0.5),
    )
  ]
  _draw(paths, ['loss', 'accuracy'], tmp_path / 'c.png')
  panels = np.reshape(np.array(saved[0].axes), (2, 2))
  for row, name, values, levels in (
    (panels[0], 'loss', [1.0, 1.5], {'ceiling': 0, 'chance': np.log(8)}),
    (panels[1], 'accuracy', [0.75, 0.5], {'ceiling': 1, 'chance': 0.125}),
  ):
    assert row[0].get_ylabel() == name
    for axes in row:
      *curves, top, bottom = axes.lines
      assert [line.get_ydata().item() for line in curves] == values
      for line, level in ((top, 'ceiling'), (bottom, 'chance')):
        assert line.get_label().startswith(level)
        np.testing.assert_allclose(line.get_ydata(), levels[level])
  assert panels[1, 0].get_xlabel() == 'updates'


def test_a_wide_range_is_drawn_on_a_logarithm(tmp_path, monkeypatch):
  """Truth: 1 to 1,000 is more than thirtyfold, 1 to 10 is not; 0 is drawn."""
  saved = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *_, **__: saved.append(self)
  )
  for last, scale in ((10, 'linear'), (1000, 'symlog')):
    curve = comparison.Curve(
      'a', np.array([0.0, 0.5, 1.0]), {'updates': np.array([0, 1, last])}
    )
    one = comparison.Compared('utility', [curve], {})
    figures.draw('toy', [one], tmp_path / 'c.png')
    axes = saved[-1].axes[0]
    assert axes.get_xscale() == scale and axes.get_xlim()[0] == 0


def test_a_level_that_would_press_the_curves_flat_is_named(
  tmp_path, monkeypatch
):
  """Truth: .9 to .95 below a ceiling of 1; chance .8 is near, 0 is not."""
  saved = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *_, **__: saved.append(self)
  )
  curve = comparison.Curve(
    'a', np.array([0.9, 0.95]), {'updates': np.array([1, 2])}
  )
  for chance, drawn, said in (
    (0.8, {'ceiling 1', 'chance 0.8'}, 'chance\n0.8'),
    (0.0, {'ceiling 1'}, 'chance\n0\nbeyond'),
  ):
    one = comparison.Compared(
      'utility', [curve], {'ceiling': 1.0, 'chance': chance}
    )
    figures.draw('toy', [one], tmp_path / 'c.png')
    axes = saved[-1].axes[0]
    assert {line.get_label() for line in axes.lines} == {'a', *drawn}
    assert {text.get_text() for text in axes.texts} == {'ceiling\n1', said}
    low, high = axes.get_ylim()
    assert (0.7 if chance else 0.85) < low < 0.9 and 1 < high < 1.1


def test_what_cannot_be_compared_is_refused(evolution, tmp_path):
  """Truth: the words that say what is wrong, and what there is."""
  with pytest.raises(FileNotFoundError, match='holds no run'):
    comparison.load([str(tmp_path / 'nowhere')])
  with pytest.raises(ValueError, match='names no run'):
    comparison.load([])
  other = _folder(tmp_path / 'copying', copying.get_config('smoke'), [])
  with pytest.raises(ValueError, match="name is 'cell_fate' in the one"):
    comparison.load([evolution, other])
  config = cell_fate.get_config('smoke')
  config.task.num_held_out = 60
  other = _folder(tmp_path / 'other', config, [])
  with pytest.raises(ValueError, match='num_held_out is 50 in the one and 60'):
    comparison.load([evolution, other])
  [run] = comparison.load([evolution])
  with pytest.raises(ValueError, match=r'accuracy.*There are: utility'):
    comparison.curve(run, 'accuracy', 'eval')


def test_the_command_says_what_it_drew(evolution, tmp_path, command):
  """Truth: the last rows, and what was spent by then."""
  output = tmp_path / 'comparison.png'
  compare = 'experiments.compare', f'--workdirs={evolution}'
  answer = command(*compare, f'--output={output}')
  assert (answer['status'], answer['stderr']) == (0, '')
  assert answer['stdout'].splitlines() == [
    'evolved (evolution)  utility 0.5000 after 4 updates, 168 trials '
    'simulated, 60 CPU seconds of training',
    f'wrote {output}',
  ]
  assert output.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
  nowhere = tmp_path / 'no' / 'c.png'
  answer = command(*compare, f'--output={nowhere}')
  assert answer['status'] == 2
  assert 'name a .png file' in answer['stderr']
