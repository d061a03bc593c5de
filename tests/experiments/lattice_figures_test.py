# SPDX-License-Identifier: Apache-2.0
"""Figures of tissues whose cells lie in several rows.

Truth: patterns and states written down here, and read back from the axes; the
function that a tissue was made of.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import figure

from bionet_core.cells import lattice, tissue
from bionet_tasks.population import cell_fate
from experiments.configs import cell_fate as configs
from experiments.figures import learned_rate, patterns, space_time
from experiments.judge import scoring


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were saved."""
  saved = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *_, **__: saved.append(self)
  )
  return saved


def images(axes):
  return [np.asarray(image.get_array()).tolist() for image in axes.images]


def test_frequent_patterns_are_drawn_as_they_lie(drawn, tmp_path):
  """Truth: two tissues of 2 x 3, by hand; their shares stand below.

  The heat map numbers the cells row by row, with a wide line between rows.
  """
  trained = jnp.array([[1.0, 0, 1, 0, 1, 0]] * 3 + [[1.0, 1, 1, 0, 0, 0]])
  frequent = {'101/010': 0.75, '111/000': 0.25}
  patterns.draw(1 - trained, trained, frequent, frequent, tmp_path / 'p.png')
  _, after, top, bottom = drawn[0].axes
  assert images(after)[0][0] == [1, 0, 1, 0, 1, 0]
  for axes in (top, bottom):
    assert images(axes) == [[[1, 0, 1], [0, 1, 0]], [[1, 1, 1], [0, 0, 0]]]
    assert [text.get_text() for text in axes.texts] == ['75.00%', '25.00%']
  widths = [line.get_linewidth() for line in after.lines]
  assert widths == [1.5, 1.5, 4, 1.5, 1.5]


def test_many_tissues_stand_in_lines_and_none_on_another(drawn, tmp_path):
  """Truth: ten places that do not meet."""
  frequent = {f'{n:04b}/0101': 0.1 for n in range(10)}
  states = jnp.zeros((10, 8))
  patterns.draw(states, states, frequent, frequent, tmp_path / 'p.png')
  boxes = [image.get_extent() for image in drawn[0].axes[2].images]
  assert len({(left, top) for left, _, _, top in boxes}) == 10
  for i, (left, right, low, top) in enumerate(boxes):
    assert low - top == 2 and right - left == 4
    for other_left, _, _, other_top in boxes[:i]:
      assert abs(left - other_left) > 4 or abs(top - other_top) > 2


def test_a_tissue_of_rows_is_shown_at_a_few_moments(drawn, tmp_path):
  """Truth: the states; fates last change at step 30 of 100.

  So five moments until twice that, the last one, and the fates.
  """
  states = np.full((100, 6), 0.25)
  states[30:, 0] = 0.75
  assert space_time.moments(states) == [0, 15, 30, 45, 60, 99]
  dts = np.full(100, 0.5)
  space_time.draw(dts, 1 - states, states, 7, 2, tmp_path / 's.png')
  panels = [axes for axes in drawn[0].axes if axes.images][:14]
  shown = [images(axes)[0] for axes in panels[7:13]]
  for step, picture in zip((0, 15, 30, 45, 60, 99), shown, strict=True):
    assert picture == states[step].reshape(2, 3).tolist()
  assert images(panels[13]) == [[[1, 0, 0], [0, 0, 0]]]
  assert images(panels[6]) == [[[0, 1, 1], [1, 1, 1]]]
  assert [panels[i].get_ylabel() for i in (0, 7)] == ['untrained', 'trained']
  assert [axes.get_title() for axes in panels[7:]] == [
    't = 0.5',
    't = 8',
    't = 15.5',
    't = 23',
    't = 30.5',
    't = 50',
    'fates',
  ]


@pytest.mark.parametrize('num_steps', [1, 2, 5, 7])
def test_moments_of_a_short_time_are_its_steps(num_steps):
  """Truth: no step twice, none beyond the end, and the last one."""
  steps = space_time.moments(np.zeros((num_steps, 4)))
  assert steps == sorted(set(steps)) and steps[-1] == num_steps - 1


def function(means):
  return 40 * jnp.sin(7 * means) - 3


@pytest.mark.parametrize(
  'means, pinned',
  [
    (lattice.torus(16, 4), ()),
    (lattice.grid(16, 4), lattice.border(16, 4)),
    (lattice.grid(16, 4), list(range(15))),
  ],
  ids=['torus', 'border', 'all but one'],
)
def test_the_rate_is_read_off_a_cell_that_is_free(means, pinned):
  """Truth: the function that the tissue was made of. Mutant: cell 1, pinned."""
  rate = tissue.fixed_rate(function)
  cell = tissue.cell_from_rate(rate, 16, pinned=pinned, means=means)
  at = np.linspace(0, 1, 11, dtype=np.float32)
  found = learned_rate.rate(cell, {}, {}, 16, at)
  np.testing.assert_allclose(found, function(at), rtol=1e-5, atol=1e-4)


def test_the_figures_know_the_rows_from_the_patterns():
  """Truth: the task's rows; all figures of a tissue apply."""
  task = cell_fate.cell_fate(
    num_cells=6, rows=2, duration=0.04, held_out_duration=0.04
  )
  cell = tissue.tissue(task.spec, rows=2, geometry='torus')
  trials = task.sample(jax.random.key(0), jnp.arange(4))
  params, constants = cell.init(jax.random.key(0), trials.inputs[0])
  outputs = jnp.ones((4, 4, 6)).at[-1, :, 0].set(0.0)
  described = task.describe(outputs, trials)
  assert described[cell_fate.PATTERNS] == {'011/111': 1.0}
  state = SimpleNamespace(params=params, constants=constants)
  judged = scoring.Judged(
    run=SimpleNamespace(first=SimpleNamespace(task=task, dynamics=cell)),
    state=state,
    untrained=state,
    update=0,
    rows=[],
    evaluations={
      'held_out': {'described': {'trained': described, 'untrained': described}}
    },
    trials=trials,
    outputs=outputs,
    untrained_outputs=outputs,
  )
  assert patterns.arguments(judged) is not None
  *_, replicate, rows = space_time.arguments(judged)
  assert (replicate, rows) == (0, 2)
  assert learned_rate.arguments(judged) is not None


def test_the_rows_of_the_task_are_those_of_the_tissue():
  """Truth: the variant; one key of the config changes both."""
  config = configs.get_config('torus')
  assert (config.task.num_cells, config.task.rows) == (16, 4)
  assert (config.network.rows, config.network.geometry) == (4, 'torus')
  config.task.rows = 2
  assert config.network.rows == 2
