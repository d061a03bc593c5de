# SPDX-License-Identifier: Apache-2.0
"""What the figures of a run show.

Truth: the rows and answers that are drawn, counted by hand or in NumPy, and
read back from the axes just before they become a picture.
"""

import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces
from bionet_tasks import base
from experiments.figures import confusion_matrix, learning_curve

ROWS = [
  {'step': 5, 'split': 'train', 'loss': 9.0, 'changed': 0.5},
  {'step': 10, 'split': 'train', 'loss': 7.0, 'changed': 0.25},
  {'step': 10, 'split': 'eval', 'loss': 2.0, 'accuracy': 0.5},
  {'step': 12, 'split': 'train', 'loss': 6.0, 'changed': 0.0},
  {'step': 12, 'split': 'eval', 'loss': 1.5, 'accuracy': 0.75},
]


def _spec(chance, ceiling):
  return base.TaskSpec(
    name='a task',
    input_shape=(2,),
    num_outputs=3,
    num_steps=1,
    metric='accuracy',
    chance=chance,
    ceiling=ceiling,
  )


def _lines(axes) -> dict[str, list[tuple[float, float]]]:
  return {
    line.get_label(): list(
      zip(*np.asarray(line.get_data(), float).tolist(), strict=True)
    )
    for line in axes.lines
  }


def test_chance_and_ceiling_are_lines(drawn, tmp_path):
  """Truth: the spec's levels, each at one height from edge to edge."""
  spec = _spec({'accuracy': 0.25, 'loss': 1.1}, {'accuracy': 0.9, 'loss': 0.0})
  learning_curve.draw(ROWS, spec, [], tmp_path / 'curve.png')
  loss, metric = (_lines(axes) for axes in drawn[0].axes)
  assert loss['chance 1.1'] == [(0, 1.1), (1, 1.1)]
  assert loss['ceiling 0'] == [(0, 0.0), (1, 0.0)]
  assert metric['chance 0.25'] == [(0, 0.25), (1, 0.25)]
  assert metric['ceiling 0.9'] == [(0, 0.9), (1, 0.9)]
  for axes in drawn[0].axes:  # each is named where the reader looks
    named = {text.get_text() for text in axes.get_legend().get_texts()}
    assert named == set(_lines(axes))


def test_curves_are_the_rows(drawn, tmp_path):
  """Truth: the rows above. The losses are one quantity: both are drawn."""
  learning_curve.draw(
    ROWS, _spec({'loss': 1.1}, {}), [], tmp_path / 'curve.png'
  )
  loss, metric = (_lines(axes) for axes in drawn[0].axes)
  assert loss['training'] == [(5, 9.0), (10, 7.0), (12, 6.0)]
  assert loss['held out'] == [(10, 2.0), (12, 1.5)]
  assert metric == {'held out': [(10, 0.5), (12, 0.75)]}
  title = drawn[0].get_suptitle()
  assert title == 'a task: held-out accuracy 0.7500 after 12 updates'


def test_two_losses_are_not_drawn_as_one(drawn, tmp_path):
  """Truth: without a chance of the loss, a rule descends a loss of its own."""
  spec = _spec({'accuracy': 0.25}, {'accuracy': 0.9})
  learning_curve.draw(ROWS, spec, [], tmp_path / 'curve.png')
  assert list(_lines(drawn[0].axes[0])) == ['training']


def test_a_population_shows_its_best_and_its_mean(drawn, tmp_path):
  """Truth: the rows; the band is one standard deviation; stages are marked."""
  rows = [
    {**row, 'loss_mean': row['loss'] + 3, 'loss_std': 2.0}
    for row in ROWS
    if row['split'] == 'train'
  ]
  learning_curve.draw(rows, _spec({}, {}), [7, 11], tmp_path / 'curve.png')
  loss = _lines(drawn[0].axes[0])
  assert loss['best of the population'] == [(5, 9.0), (10, 7.0), (12, 6.0)]
  assert loss['mean of the population'] == [(5, 12.0), (10, 10.0), (12, 9.0)]
  [band] = drawn[0].axes[0].collections
  vertices = {tuple(v) for v in band.get_paths()[0].vertices.tolist()}
  assert {(5, 10.0), (5, 14.0), (12, 7.0), (12, 11.0)} <= vertices
  marks = [line.get_xdata()[0] for line in drawn[0].axes[1].lines[-2:]]
  assert marks == [7, 11]
  assert drawn[0].get_suptitle() == ''  # nothing was evaluated


def test_gradient_norms_have_a_panel(drawn, tmp_path):
  """Truth: the rows; decades need a logarithm, and zeros have none."""
  for scale, norms in (('log', (1e-4, 1e4, 1.0)), ('linear', (0.0, 0.0, 0.0))):
    train = [row for row in ROWS if row['split'] == 'train']
    rows = [
      {**row, 'gradient_norm': norm}
      for row, norm in zip(train, norms, strict=True)
    ]
    learning_curve.draw(rows, _spec({}, {}), [], tmp_path / 'curve.png')
    axes = drawn[-1].axes[2]
    assert _lines(axes)['training'] == list(
      zip((5, 10, 12), norms, strict=True)
    )
    assert axes.get_yscale() == scale


def test_levels_change_the_picture(tmp_path):
  """Truth: the same picture without them, pixel by pixel in the file."""
  pictures = []
  for chance in ({'accuracy': 0.25}, {}):
    path = tmp_path / f'{len(pictures)}.png'
    learning_curve.draw(ROWS, _spec(chance, {}), [], path)
    pictures.append(path.read_bytes())
  assert pictures[0] != pictures[1]
  assert all(picture[:8] == b'\x89PNG\r\n\x1a\n' for picture in pictures)


def test_confusions_are_shares_of_the_asked_steps(drawn, tmp_path):
  """Truth: a loop over answers in NumPy; class 3 never comes, and is zeros."""
  rng = np.random.default_rng(0)
  outputs = rng.normal(size=(5, 20, 4))
  targets = rng.integers(0, 3, (5, 20))
  mask = rng.integers(0, 2, (5, 20)) * 0.25
  counts = np.zeros((4, 4))
  for t, b in np.ndindex(targets.shape):
    if mask[t, b]:
      counts[targets[t, b], np.argmax(outputs[t, b])] += 1
  shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  trials = interfaces.Trials(
    inputs=jnp.zeros((5, 20, 1)),
    targets=jnp.asarray(targets),
    mask=jnp.asarray(mask, float),
    index=jnp.arange(20),
  )
  confusion_matrix.draw(jnp.asarray(outputs), trials, tmp_path / 'matrix.png')
  [image] = drawn[0].axes[0].images
  np.testing.assert_allclose(image.get_array(), shares, rtol=1e-12)
  assert image.get_clim() == (0, 1)
  assert drawn[0].axes[0].get_title() == f'{int(counts.sum())} held-out answers'
  # Rows are the truth: the first index of the matrix runs downwards.
  assert drawn[0].axes[0].get_ylabel() == 'true class'
  texts = {t.get_position(): t.get_text() for t in drawn[0].axes[0].texts}
  assert texts[2, 1] == f'{shares[1, 2]:.2f}'.lstrip('0')
