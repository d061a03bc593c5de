# SPDX-License-Identifier: Apache-2.0
"""The picture of probes, as an audience reads it.

Truth: small arrays and words written down here, read back from the axes.
"""

import numpy as np
import pytest
from matplotlib import figure

from experiments.figures import probes

RNG = np.random.default_rng(0)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
  """`(recorded) -> axes` of the panels, row by row, and the figure."""
  saved = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *_, **__: saved.append(self)
  )

  def draw(recorded):
    probes.draw(recorded, tmp_path / 'p.png')
    axes = [a for a in saved[-1].axes if a.get_label() != '<colorbar>']
    return axes, saved[-1]

  return draw


def arrays(*, steps=5, targets=None, inputs=3, **more):
  """What is recorded of two trials, asked at the last two steps, or the one."""
  mask = np.zeros((steps, 2))
  mask[-2:] = 0.5
  if targets is None:
    targets = np.tile(np.array([[0], [1], [2], [3], [1]])[-steps:], 2)
  return {
    'number': np.array([4, 1]),
    'inputs': RNG.normal(size=(steps, 2, inputs)),
    'targets': targets,
    'mask': mask,
    'outputs': RNG.normal(size=(steps, 2, 4)),
    **more,
  }


def marks(axes):
  """`{label: [(x, y), ...]}` of what is plotted, where it has a label."""
  return {
    line.get_label(): list(
      zip(*np.asarray(line.get_data()).tolist(), strict=True)
    )
    for line in axes.lines
    if not line.get_label().startswith('_')
  }


def test_true_and_predicted_classes_are_marked_and_told(drawn):
  """Truth: the targets and the largest outputs at the steps that are asked.

  What is asked nowhere has no mark: class 2 at step 2.
  """
  recorded = arrays()
  recorded['outputs'][3:, 0] = [[0, 0, 0, 9], [0, 0, 9, 0]]
  recorded['outputs'][3:, 1] = [[0, 9, 0, 0], [0, 9, 0, 0]]
  axes, canvas = drawn(recorded)
  assert marks(axes[-2]) == {
    'true class': [(3, 3), (4, 1)],
    'predicted class': [(3, 3), (4, 2)],
  }
  assert [panel.get_title() for panel in axes[:2]] == [
    'held-out trial 4\ntrue 3 1, predicted 3 2',
    'held-out trial 1\ntrue 3 1, predicted 1 1',
  ]
  [legend] = canvas.legends
  assert [text.get_text() for text in legend.get_texts()] == [
    'true class',
    'predicted class',
  ]


def test_values_are_drawn_beside_their_targets(drawn):
  """Truth: the outputs at all steps, the targets where they are asked.

  The error is theirs, too. Pad targets that are NaN are not read.
  """
  targets = RNG.normal(size=(5, 2, 4))
  targets[:3] = np.nan
  recorded = arrays(targets=targets)
  axes, _ = drawn(recorded)
  assert not axes[-1].images
  lines = [line.get_data() for line in axes[-1].lines]
  for k in range(4):
    np.testing.assert_array_equal(lines[2 * k][1], recorded['outputs'][:, 1, k])
    steps, values = lines[2 * k + 1]
    assert steps.tolist() == [3, 4]
    np.testing.assert_array_equal(values, targets[3:, 1, k])
  errors = recorded['outputs'][3:, 1] - targets[3:, 1]
  said = f'rms error {np.sqrt(np.mean(errors**2)):.2g}'
  assert axes[1].get_title() == f'held-out trial 1\n{said}'
  low, high = axes[-1].get_ylim()
  assert low < min(recorded['outputs'].min(), targets[3:].min())
  assert high > max(recorded['outputs'].max(), targets[3:].max())


def test_a_static_trial_has_no_axis_of_time(drawn):
  """Truth: one step: a strip, a strip, and bars over classes.

  The largest bar is the predicted class; the true one is marked.
  """
  recorded = arrays(
    steps=1,
    targets=np.array([[2, 0]]),
    **{'inside/state': RNG.normal(size=(1, 2, 6))},
  )
  recorded['outputs'][0, 0] = [0.5, -1.0, 0.25, 0.0]
  axes, canvas = drawn(recorded)
  assert 'step' not in {panel.get_xlabel() for panel in canvas.axes}
  np.testing.assert_array_equal(
    axes[2].images[0].get_array(), recorded['inside/state'][:, 0]
  )
  bars = axes[-2].containers[0]
  assert [bar.get_height() for bar in bars] == [0.5, -1.0, 0.25, 0.0]
  faces = {tuple(bar.get_facecolor()) for bar in bars[1:]}
  assert len(faces) == 1 and tuple(bars[0].get_facecolor()) not in faces
  [(place, _)] = marks(axes[-2])['true class']
  assert place == 2 and axes[-2].get_xlabel() == 'class'
  assert axes[0].get_title() == 'held-out trial 4\ntrue class 2, predicted 0'


@pytest.mark.parametrize(
  'shape, picture', [((64,), (8, 8)), ((2, 5), (2, 5)), ((7,), None)]
)
def test_static_inputs_are_a_picture_where_they_make_one(drawn, shape, picture):
  """Truth: a square, or an array of two axes; else a strip."""
  recorded = arrays(steps=1, targets=np.array([[2, 0]]))
  recorded['inputs'] = RNG.normal(size=(1, 2, *shape))
  axes, _ = drawn(recorded)
  wanted = recorded['inputs'][0, 0].reshape(picture or (1, -1))
  np.testing.assert_array_equal(axes[0].images[0].get_array(), wanted)


def test_a_network_that_settles_is_drawn_over_its_sweeps(drawn):
  """Truth: the hidden row; the clamped one is the inputs, once more."""
  recorded = arrays(steps=1, targets=np.array([[2, 0]]))
  for row, size in enumerate((3, 5, 4)):
    recorded[f'inside/buffers.{row}'] = RNG.normal(size=(20, 2, size))
  recorded['inside/buffers.0'][:] = recorded['inputs']
  axes, _ = drawn(recorded)
  labels = [panel.get_ylabel() for panel in axes[::2]]
  assert labels == ['inputs', 'row 1', 'row 2, outputs', 'outputs']
  assert [panel.get_xlabel() for panel in axes[::2]] == [
    '',
    '',
    'sweep',
    'class',
  ]


def test_a_population_has_no_answer_to_be_right(drawn):
  """Truth: targets that are settings of the loss, of another shape."""
  axes, canvas = drawn(arrays(targets=np.full((5, 2, 1), 0.1)))
  assert not canvas.legends and not axes[-1].lines
  assert axes[0].get_title() == 'held-out trial 4'
  static = arrays(steps=1, targets=np.full((1, 2, 1), 0.1))
  axes, _ = drawn(static)
  assert axes[-1].get_xlabel() == 'output' and not marks(axes[-1])


def test_states_come_before_signals_and_traces_and_have_names(drawn):
  """Truth: words for the leaves of a spiking cell; four of them are drawn."""
  recorded = arrays()
  for name in (
    'inside/state.adaptation',
    'inside/state.voltage',
    'inside/traces.0.0',
    'inside/traces.1.0',
    'signals',
  ):
    recorded[name] = RNG.normal(size=(5, 2, 6))
  axes, _ = drawn(recorded)
  assert [panel.get_ylabel() for panel in axes[::2]] == [
    'inputs',
    'membrane potential',
    'adaptation',
    'learning signal',
    'traces 0',
    'outputs',
  ]
  # Only the last of the panels over steps says what is counted.
  said = [panel.get_xlabel() for panel in axes[::2]]
  assert said == ['', '', '', '', '', 'step']


@pytest.mark.parametrize(
  'name, wanted',
  [
    ('inside/state', 'state'),
    ('inside/state.hidden', 'hidden state'),
    ('inside/state.layer_1.real', 'layer 1, real part'),
    ('inside/state.slow_gate', 'slow gate'),
    ('inside/traces.2.0', 'traces 2'),
    ('inside/traces.3.1', 'traces 3, 1'),
    ('inside/buffers.x', 'buffers, x'),
  ],
)
def test_arrays_are_named_in_words(name, wanted):
  """Truth: the words of the field, written out; others as they are."""
  names = {name, 'inside/traces.3.0', 'inside/traces.3.1'}
  assert probes.words(name, dict.fromkeys(names)) == wanted


def test_many_answers_are_counted():
  """Truth: by hand: 12 steps, of which every third is right."""
  targets = np.tile([[0], [1], [2]], (4, 2))
  recorded = arrays(steps=12, targets=targets)
  recorded['mask'][:] = 1 / 12
  recorded['outputs'][:] = [0.0, 9.0, 0.0, 0.0]
  assert probes.answered(recorded, 0) == 'right at 4 of 12 steps'
  recorded['targets'][:] = 3
  assert probes.answered(recorded, 1) == 'true class 3, predicted 1'
