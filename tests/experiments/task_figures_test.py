# SPDX-License-Identifier: Apache-2.0
"""What the figures of single tasks and cells show.

Truth: values counted in NumPy, read back from the axes before they are drawn.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bionet_core import interfaces
from experiments.figures import forecast, psychometric, spikes

STEPS, BATCH = 6, 40


def evidence_trials():
  """Trial b has b % 4 left and (b // 4) % 4 right spikes, asked at the end."""
  inputs = np.zeros((STEPS, BATCH, 40), np.float32)
  for b in range(BATCH):
    inputs[0, b, : b % 4] = 1
    inputs[1, b, 10 : 10 + b // 4 % 4] = 1
    inputs[2, b, 20:] = 1  # recall and noise say nothing
  mask = np.zeros((STEPS, BATCH), np.float32)
  mask[-2:] = 0.5
  return interfaces.Trials(
    inputs=jnp.asarray(inputs),
    targets=jnp.zeros((STEPS, BATCH), int),
    mask=jnp.asarray(mask),
    index=jnp.arange(BATCH),
  )


def test_choices_are_counted_by_evidence():
  """Truth: counts by hand of a chooser that is right at every second trial."""
  trials = evidence_trials()
  b = np.arange(BATCH)
  difference = b // 4 % 4 - b % 4
  chosen = np.where(b % 2, difference > 0, 1)
  outputs = np.full((STEPS, BATCH, 2), np.nan)
  outputs[-2] = 0
  outputs[-1] = jax.nn.one_hot(chosen, 2)
  found = psychometric.curve(jnp.asarray(outputs), trials, num_bins=7)
  np.testing.assert_allclose(found.evidence, np.arange(-3, 4))
  for k, value in enumerate(range(-3, 4)):
    inside = difference == value
    assert found.count[k] == inside.sum()
    assert found.share[k] == pytest.approx(chosen[inside].mean())
    # Wilson: the p-values at the ends are those of a score test.
    for end in (found.low[k], found.high[k]):
      if 0 < end < 1 and found.share[k] != end:
        z = (found.share[k] - end) / np.sqrt(end * (1 - end) / inside.sum())
        assert abs(z) == pytest.approx(stats.norm.ppf(0.975), rel=1e-6)


def test_the_curve_of_each_evaluation_is_drawn(drawn, tmp_path):
  """Truth: `curve`."""
  trials = evidence_trials()
  outputs = jnp.zeros((STEPS, BATCH, 2))
  path = tmp_path / 'curve.png'
  psychometric.draw(
    {'held_out': (outputs, trials), 'narrow': (outputs, trials)}, path
  )
  (axes,) = drawn[0].axes
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert labels == ['held_out, 40 trials', 'narrow, 40 trials']
  expected = psychometric.curve(outputs, trials)
  line = next(x for x in axes.lines if len(x.get_xdata()) > 2)
  np.testing.assert_allclose(line.get_ydata(), expected.share)
  assert path.exists()


def test_a_forecast_shows_the_asked_steps(drawn, tmp_path):
  """Truth: targets and outputs of the trial, where the mask is not 0."""
  generator = np.random.default_rng(0)
  outputs, targets = generator.normal(size=(2, STEPS, 3, 3))
  mask = np.ones((STEPS, 3)) / 4
  mask[:2] = 0
  trials = interfaces.Trials(
    inputs=targets, targets=targets, mask=mask, index=np.arange(3)
  )
  forecast.draw(outputs, trials, tmp_path / 'f.png', trial=1)
  for k in range(3):
    lines = {x.get_label(): x for x in drawn[0].axes[k].lines}
    for name, values in (('true', targets), ('predicted', outputs)):
      np.testing.assert_array_equal(lines[name].get_xdata(), range(2, STEPS))
      np.testing.assert_allclose(lines[name].get_ydata(), values[2:, 1, k])
  error = np.sqrt(np.mean((outputs - targets)[2:, 1] ** 2))
  assert f'{error:.3f}' in drawn[0].get_suptitle()


def test_a_raster_shows_every_spike(drawn, tmp_path):
  """Truth: what was recorded; the membrane and spikes of the busiest unit."""
  generator = np.random.default_rng(0)
  fired = (generator.uniform(size=(STEPS, 2, 8)) < 0.4).astype(float)
  voltage = generator.normal(size=(STEPS, 2, 8))
  recorded = {
    'number': np.array([4, 7]),
    'inputs': (generator.uniform(size=(STEPS, 2, 3)) < 0.5).astype(float),
    'mask': np.tile(np.arange(STEPS)[:, None] > 3, (1, 2)).astype(float),
    'inside/state.spikes': fired,
    'inside/state.voltage': voltage,
    'inside/state.adaptation': np.zeros((STEPS, 2, 8)),
    'signals': generator.normal(size=(STEPS, 2, 8)),
  }
  assert spikes.has_spikes(recorded)
  assert not spikes.has_spikes({'inside/state': voltage})
  spikes.draw(recorded, tmp_path / 's.png')
  axes = np.reshape(drawn[0].axes, (4, 2))  # nothing adapts: no row of it
  count = fired.sum(axis=(0, 1)).reshape(4, 2)  # of quarters
  busiest = 2 * np.arange(4) + np.argmax(count, axis=1)
  names = [row.get_ylabel() for row in axes[:, 0]]
  assert names == ['input', 'unit', 'membrane, shifted', 'learning signal']
  for j in range(2):
    for row, values in ((0, recorded['inputs']), (1, fired)):
      (raster,) = axes[row, j].lines
      steps, units = np.nonzero(values[:, j])
      np.testing.assert_array_equal(raster.get_xdata(), steps)
      np.testing.assert_array_equal(raster.get_ydata(), units)
    for line, unit in zip(axes[3, j].lines, busiest, strict=True):
      told = recorded['signals'][:, j, unit]
      np.testing.assert_allclose(line.get_ydata(), told)
    first = int(busiest[0])
    trace, dots = axes[2, j].lines[:2]
    np.testing.assert_allclose(trace.get_ydata(), voltage[:, j, first])
    np.testing.assert_array_equal(
      dots.get_xdata(), np.flatnonzero(fired[:, j, first])
    )
