# SPDX-License-Identifier: Apache-2.0
"""What the figures of a tissue show, and to which runs they apply.

Truth: states and rates written down here, and read back from the axes.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import figure

from bionet_core.cells import cores as haiku_cells
from bionet_core.cells import tissue
from bionet_tasks.population import cell_fate
from bionet_tasks.temporal import copying
from experiments import figures
from experiments.figures import (
  confusion_matrix,
  evaluations,
  learned_rate,
  patterns,
  space_time,
)
from experiments.judge import scoring

KEY = jax.random.key(0)


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were saved."""
  saved = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *_, **__: saved.append(self)
  )
  return saved


################################################################################
# Bars


def test_bars_are_the_main_metric_before_and_after(drawn, tmp_path):
  """Truth: the numbers below; chance and ceiling are the spec's."""
  spec = cell_fate.cell_fate(num_cells=4, num_held_out=50).spec
  judged = {
    name: {
      'num_trials': 50,
      'trained': {'utility': trained, 's_pat': 9.0},
      'untrained': {'utility': untrained, 's_pat': 9.0},
    }
    for name, trained, untrained in (('a', 0.75, 0.25), ('b', 0.5, 0.125))
  }
  evaluations.draw(judged, spec, tmp_path / 'bars.png')
  [axes] = drawn[0].axes
  before, after = axes.containers[:2]
  assert [bar.get_height() for bar in before] == [0.25, 0.125]
  assert [bar.get_height() for bar in after] == [0.75, 0.5]
  assert before.get_label() == 'untrained' and after.get_label() == 'trained'
  levels = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
  assert levels == {
    f'ceiling {spec.ceiling["utility"]:.3g}': spec.ceiling['utility'],
    f'chance {spec.chance["utility"]:.3g}': spec.chance['utility'],
  }


################################################################################
# Patterns


def test_replicates_are_sorted_by_how_frequent_their_pattern_is():
  """Truth: by hand; equal patterns stand together even where counts tie."""
  fates = np.array([[1, 1], [0, 1], [1, 0], [0, 1], [1, 1], [1, 1], [1, 0]])
  rows = patterns.sort(fates).tolist()
  assert rows == [[1, 1]] * 3 + [[0, 1]] * 2 + [[1, 0]] * 2


def test_the_heat_map_and_the_table_are_the_patterns(drawn, tmp_path):
  """Truth: states by hand: .5 itself is fate 1."""
  trained = jnp.array([[0.5, 0.1], [0.9, 0.2], [0.4, 0.6]])
  untrained = jnp.array([[0.1, 0.1], [0.9, 0.9], [0.9, 0.9]])
  shares = {'10': 2 / 3, '01': 1 / 3}
  patterns.draw(
    untrained, trained, {'11': 2 / 3, '00': 1 / 3}, shares, tmp_path / 'p.png'
  )
  before, after, top, bottom = drawn[0].axes
  assert before.images[0].get_array().tolist() == [[1, 1], [1, 1], [0, 0]]
  assert after.images[0].get_array().tolist() == [[1, 0], [1, 0], [0, 1]]
  assert top.images[0].get_array().tolist() == [[1, 0], [0, 1]]
  assert bottom.images[0].get_array().tolist() == [[1, 1], [0, 0]]
  names = [text.get_text() for text in top.get_yticklabels()]
  assert names == ['10', '01']
  assert after.get_title() == 'trained: 2 patterns'


def test_many_replicates_are_thinned_from_first_to_last(drawn, tmp_path):
  """Truth: 3,000 of which the last third ends otherwise."""
  states = jnp.concatenate([jnp.ones((2000, 3)), jnp.zeros((1000, 3))])
  patterns.draw(states, states, {'111': 1.0}, {'111': 1.0}, tmp_path / 'p.png')
  image = np.asarray(drawn[0].axes[0].images[0].get_array())
  assert image.shape == (600, 3)
  assert image[0, 0] == 1 and image[-1, 0] == 0
  assert image[:, 0].mean() == pytest.approx(2 / 3, abs=2 / 600)


################################################################################
# Space and time


def test_space_time_shows_the_states_and_how_they_begin(drawn, tmp_path):
  """Truth: the states; fates last change at step 3 of 100: 10 are shown."""
  states = np.full((100, 2), 0.25)
  states[3:, 0] = 0.75
  assert space_time.settling(states) == 3
  dts = np.full(100, 0.5)
  space_time.draw(dts, np.zeros((100, 2)), states, 7, 1, tmp_path / 's.png')
  panels = drawn[0].axes[:3]
  np.testing.assert_array_equal(panels[1].images[0].get_array(), states.T)
  np.testing.assert_array_equal(panels[2].images[0].get_array(), states[:10].T)
  assert [p.images[0].get_extent()[1] for p in panels] == [50, 50, 5]
  assert panels[1].get_title() == 'trained: 10'
  assert 'replicate 7' in drawn[0].get_suptitle()


def test_no_second_look_where_fates_change_to_the_end(drawn, tmp_path):
  """Truth: one panel a tissue: fates that change at the last step."""
  states = np.tile(np.array([[0.25], [0.75]]), (50, 3))
  assert space_time.settling(states) == 99
  space_time.draw(np.ones(100), states, states, 0, 1, tmp_path / 's.png')
  assert (
    len([axes for axes in drawn[0].axes if axes.get_ylabel() == 'cell']) == 2
  )


################################################################################
# The rate


@pytest.mark.parametrize('pinned', [(), (0, 4)])
def test_the_rate_is_read_off_the_dynamics(pinned):
  """Truth: the function that the tissue was made of, faster than any step."""

  def function(means):
    return 40 * jnp.sin(7 * means) - 3

  cell = tissue.cell_from_rate(tissue.fixed_rate(function), 5, pinned=pinned)
  means = np.linspace(0, 1, 11, dtype=np.float32)
  found = learned_rate.rate(cell, {}, {}, 5, means)
  np.testing.assert_allclose(found, function(means), rtol=1e-5, atol=1e-4)


def test_the_rates_are_drawn_as_they_are_and_over_their_largest(
  drawn, tmp_path
):
  """Truth: the values below; the signs at the two ends and in the middle."""
  means = np.linspace(0, 1, 5)
  learned = np.array([-4.0, 0.0, 8.0, 0.0, -2.0])
  learned_rate.draw(means, learned, np.full(5, 0.5), tmp_path / 'r.png')
  absolute, relative = (
    {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    for axes in drawn[0].axes
  )
  np.testing.assert_array_equal(absolute['learned'], learned)
  np.testing.assert_array_equal(relative['learned'], learned / 8)
  np.testing.assert_array_equal(absolute['untrained'], np.full(5, 0.5))
  [inhibition] = [y for k, y in absolute.items() if 'tanh' in k]
  np.testing.assert_allclose(inhibition, -np.tanh(5 * (means - 0.5)))
  signs = '(\N{MINUS SIGN}, +, \N{MINUS SIGN})'
  assert signs in drawn[0].get_suptitle()


################################################################################
# Which figure applies to which run


def _judged(task, cell, *, evaluations=3):
  trials = jax.jit(task.sample)(KEY, jnp.arange(4))
  params, constants = jax.jit(cell.init)(KEY, trials.inputs[0])
  outputs = jnp.ones((*trials.mask.shape, task.spec.num_outputs))
  content = {'num_trials': 4}
  if task.describe is not None:
    described = task.describe(outputs, trials)
    content['described'] = {'trained': described, 'untrained': described}
  state = SimpleNamespace(params=params, constants=constants)
  names = ('held_out', 'half_dt', 'quarter_dt')[:evaluations]
  return scoring.Judged(
    run=SimpleNamespace(first=SimpleNamespace(task=task, dynamics=cell)),
    state=state,
    untrained=state,
    update=2,
    rows=[],
    evaluations=dict.fromkeys(names, content),
    trials=trials,
    outputs=outputs,
    untrained_outputs=outputs,
  )


def test_a_tissue_has_all_figures_but_that_of_classes():
  """Truth: what each figure is about."""
  task = cell_fate.cell_fate(duration=0.04, held_out_duration=0.04)
  judged = _judged(task, tissue.tissue(task.spec))
  modules = (evaluations, patterns, space_time, learned_rate)
  assert all(module.arguments(judged) is not None for module in modules)
  assert confusion_matrix.arguments(judged) is None


def test_other_dynamics_have_patterns_and_no_rate():
  """Truth: a GRU moves where dt and sigma are 0; it has no rate of its own.

  Its state has the very shape of the tissue's.
  """
  task = cell_fate.cell_fate(duration=0.04, held_out_duration=0.04)
  judged = _judged(task, haiku_cells.gru(task.spec, hidden=7))
  assert patterns.arguments(judged) is not None
  assert learned_rate.arguments(judged) is None


def test_classes_have_the_confusion_matrix_alone():
  """Truth: what each figure is about."""
  task = copying.copying(num_symbols=3, time_lag=2)
  cell = haiku_cells.gru(task.spec, hidden=4)
  judged = _judged(task, cell, evaluations=1)
  assert confusion_matrix.arguments(judged) is not None
  modules = (evaluations, patterns, space_time, learned_rate)
  assert all(module.arguments(judged) is None for module in modules)


def test_space_time_takes_a_replicate_of_the_most_frequent_pattern():
  """Truth: by hand: replicate 1 is the first of the two that end alike."""
  task = cell_fate.cell_fate(num_cells=3, duration=0.04, held_out_duration=0.04)
  judged = _judged(task, tissue.tissue(task.spec))
  ends = jnp.array([[0.0, 0, 0], [1, 0, 1], [1, 0, 1], [1, 1, 1]])
  outputs = judged.outputs.at[-1].set(ends)
  described = task.describe(outputs, judged.trials)
  content = {'described': {'trained': described, 'untrained': described}}
  judged = judged._replace(outputs=outputs, evaluations={'held_out': content})
  _, _, trained, replicate, rows = space_time.arguments(judged)
  assert replicate == 1 and rows == 1
  np.testing.assert_array_equal(trained[-1], [1, 0, 1])


def test_every_figure_of_the_table_is_a_module_that_can_be_asked():
  """Truth: the files of experiments/figures, and their two functions."""
  for name in figures.FIGURES:
    module = __import__(f'experiments.figures.{name}', fromlist=[name])
    assert callable(module.arguments) and callable(module.draw)
