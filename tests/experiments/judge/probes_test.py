# SPDX-License-Identifier: Apache-2.0
"""Probes record what goes on inside, and what they say is so.

Truth: the cell in a Python loop, the learner's own predictions of all trials at
once, and the relaxation network settled in one go.
"""

import importlib
import struct

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import figure

from bionet_core import unroll
from bionet_learners import base
from experiments import figures
from experiments.figures import probes as probes_figure
from experiments.judge import probes
from experiments.runs import build, updates

CHOSEN = (7, 0, 3)


def _trained(name: str, *, batches: int = 2):
  """A run of a smoke variant, and its state after a few updates."""
  module = importlib.import_module(f'experiments.configs.{name}')
  run = build.build(module.get_config('smoke'))
  state = updates.place(run, updates.init(run))
  state, _ = updates.make_advance_between(run)(state, 0, batches)
  return run, state


@pytest.fixture(scope='module')
def copying():
  """`(run, state, recorded)` of a cell."""
  run, state = _trained('copying')
  return run, state, probes.record(run, state, CHOSEN)


@pytest.fixture(scope='module')
def prototypes():
  """`(run, state, recorded)` of a relaxation network."""
  run, state = _trained('prototypes')
  return run, state, probes.record(run, state, CHOSEN)


def _held_out(run):
  """All held-out trials, and the chosen ones by hand."""
  evaluation = run.first.task.evaluations['held_out']
  index = np.arange(evaluation.num_trials)
  trials = jax.jit(evaluation.sample)(run.first.keys.held_out, index)
  return jax.device_get(trials), np.array(CHOSEN)


def _with_rule(run, rule):
  return run._replace(stages=(run.first._replace(rule=rule),))


@pytest.mark.parametrize('name', ['copying', 'prototypes'])
def test_the_chosen_trials_are_those_of_the_evaluation(name, request):
  """Truth: all held-out trials, and the predictions of all at once."""
  run, state, recorded = request.getfixturevalue(name)
  trials, chosen = _held_out(run)
  assert recorded['number'].tolist() == [7, 0, 3]
  for field in ('inputs', 'targets', 'mask'):
    np.testing.assert_array_equal(
      recorded[field], getattr(trials, field)[:, chosen]
    )
  outputs = np.asarray(
    jax.jit(run.first.learner.predict)(
      state, run.first.keys.held_out_noise, trials
    )
  )
  np.testing.assert_allclose(
    recorded['outputs'], outputs[:, chosen], rtol=1e-5, atol=1e-6
  )


def test_states_of_a_cell_are_those_of_a_loop(copying):
  """Truth: a Python loop over the cell: 8 steps, 3 trials, 8 units."""
  run, state, recorded = copying
  inside = {k: v for k, v in recorded.items() if k.startswith('inside/')}
  assert inside.keys() == {'inside/state', 'inside/steps'}
  assert inside['inside/state'].shape == (8, 3, 8)
  assert inside['inside/steps'].tolist() == [[t] * 3 for t in range(1, 9)]
  trials, chosen = _held_out(run)
  cell, key = run.first.dynamics, run.first.keys.held_out_noise
  index = trials.index[chosen]
  now = unroll.initial_state(cell, state.constants, key, index)

  @jax.jit
  def step(now, t, inputs):
    keys = unroll.step_keys(unroll.trial_keys(key, index), jnp.full(3, t))
    emission, now = cell.step(state.params, state.constants, now, keys, inputs)
    return cell.readout(state.params, state.constants, emission), now

  for t in range(8):
    outputs, now = step(now, t, trials.inputs[t][chosen])
    np.testing.assert_allclose(
      inside['inside/state'][t], now, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
      recorded['outputs'][t], outputs, rtol=1e-5, atol=1e-6
    )
  assert np.std(inside['inside/state'][-1]) > 1e-3


def test_rows_of_a_network_are_those_of_its_sweeps(prototypes):
  """Truth: `settle` with 1, 2 and 20 sweeps in one go; the rows by size."""
  run, state, recorded = prototypes
  rows = sorted(k for k in recorded if k.startswith('inside/'))
  assert [recorded[row].shape for row in rows] == [
    (20, 3, 100),
    (20, 3, 32),
    (20, 3, 10),
  ]
  trials, chosen = _held_out(run)
  network = run.first.dynamics
  start = jax.jit(network.initial_state)(
    state.params, state.constants, trials.inputs[0][chosen], None
  )
  settle = jax.jit(network.settle, static_argnames=('messages', 'sweeps'))
  keys = unroll.trial_keys(run.first.keys.held_out_noise, trials.index[chosen])
  for sweeps in (1, 2, 20):
    settled, changed = settle(
      state.params,
      state.constants,
      start,
      keys,
      messages='free',
      sweeps=sweeps,
    )
    for row, states in zip(rows, jax.tree.leaves(settled), strict=True):
      np.testing.assert_array_equal(recorded[row][sweeps - 1], states)
  # It has come to rest, and so have the recorded rows.
  assert changed[-1] == 0
  for row in rows:
    np.testing.assert_array_equal(recorded[row][-2], recorded[row][-1])
  assert np.any(recorded[rows[1]][0] != recorded[rows[1]][-1])


def test_what_is_recorded_is_no_other_run(copying):
  """Truth: the same trials before the first update: other states."""
  run, _, recorded = copying
  early = probes.record(run, updates.init(run), CHOSEN)
  np.testing.assert_array_equal(early['inputs'], recorded['inputs'])
  assert np.any(early['inside/state'] != recorded['inside/state'])
  assert np.any(early['outputs'] != recorded['outputs'])


def test_a_learner_of_no_rule_shows_its_outputs(copying):
  """Truth: there is nothing else that is known of it."""
  run, state, recorded = copying
  found = probes.record(_with_rule(run, None), state, CHOSEN)
  assert found.keys() == {'number', 'inputs', 'targets', 'mask', 'outputs'}
  np.testing.assert_array_equal(found['outputs'], recorded['outputs'])


def test_what_a_rule_tells_units_is_recorded(copying):
  """Truth: a rule that tells each unit of a GRU its own state, if asked."""
  run, state, recorded = copying

  def learning_signal(params, constants, rule_state, emission, targets, mask):
    del params, constants, rule_state, targets
    return emission * mask[:, None]

  telling = run.first.rule._replace(learning_signal=learning_signal)
  found = probes.record(_with_rule(run, telling), state, CHOSEN)
  expected = recorded['inside/state'] * recorded['mask'][..., None]
  expected = expected * len(CHOSEN)  # of each trial, not of their mean
  np.testing.assert_allclose(found['signals'], expected, rtol=1e-5, atol=1e-7)
  assert 'signals' not in recorded and np.any(expected)


def test_what_a_rule_keeps_per_trial_is_named_by_its_place(copying):
  """Truth: a rule that keeps one array, and one that keeps a tree."""
  run, state, _ = copying

  def keeps(tree):
    def begin(params, constants, rule_state, key, trials):
      del params, constants, rule_state, key
      zeros = jnp.zeros(trials.index.shape)
      return base.RuleState((), jax.tree.map(lambda _: zeros, tree))

    def estimate(params, constants, rule_state, key, trials):
      del constants, key
      counted = jax.tree.map(lambda x: x + 1, rule_state.per_trial)
      estimate = base.Estimate(params, jnp.sum(trials.mask), {})
      return estimate, base.RuleState((), counted)

    return run.first.rule._replace(begin=begin, estimate=estimate)

  for tree, names in (
    (0, {'inside/state'}),
    ({'a': {'b': 0}, 'c': (0, 0)}, {'inside/a.b', 'inside/c.0', 'inside/c.1'}),
  ):
    found = probes.record(_with_rule(run, keeps(tree)), state, (1,))
    inside = {name for name in found if name.startswith('inside/')}
    assert inside == names
    for name in inside:
      assert found[name][:, 0].tolist() == list(range(1, 9))


@pytest.mark.parametrize('number', ['20', '-1', '1.5', 'all', '', ' 1'])
def test_what_is_no_held_out_trial_is_refused(number, copying):
  """Truth: 20 trials, numbered from 0 to 19."""
  assert probes.parse(['19', '0', '19'], copying[0]) == (19, 0, 19)
  with pytest.raises(ValueError) as error:
    probes.parse(['3', number], copying[0])
  assert f'{number!r} is no held-out trial' in str(error.value)
  assert 'from 0 to 19' in str(error.value)


def test_too_much_is_refused_before_the_run_begins(copying, monkeypatch):
  """Truth: the bytes of what is recorded in the end."""
  run, _, recorded = copying
  size = sum(x.nbytes for x in recorded.values())
  numbers = [str(number) for number in CHOSEN]
  monkeypatch.setattr(probes, '_MAX_BYTES', size - 1)
  with pytest.raises(ValueError, match=r'3 trials is .* GiB; name fewer'):
    probes.parse(numbers, run)
  monkeypatch.setattr(probes, '_MAX_BYTES', size)
  assert probes.parse(numbers, run) == CHOSEN


@pytest.mark.parametrize('name', ['copying', 'prototypes'])
def test_arrays_and_picture_are_written(name, request, tmp_path):
  """Truth: what `record` gives; the PNG format's signature and header."""
  run, state, recorded = request.getfixturevalue(name)
  (tmp_path / 'figures').mkdir()
  written = probes.write(run, state, CHOSEN, tmp_path)
  chex.assert_trees_all_equal(written, dict(recorded))
  with np.load(tmp_path / 'probes.npz') as found:
    chex.assert_trees_all_equal(dict(found), dict(recorded))
  figures.draw_probes(written, tmp_path / 'figures')
  content = (tmp_path / 'figures' / 'probes.png').read_bytes()
  assert content[:8] == b'\x89PNG\r\n\x1a\n'
  width, height = struct.unpack('>II', content[16:24])
  assert width >= 600 and height >= 400
  assert {p.name for p in tmp_path.rglob('*')} == {
    'probes.npz',
    'figures',
    'probes.png',
  }


def test_the_picture_shows_the_arrays(tmp_path, monkeypatch):
  """Truth: small arrays, read back from the axes before they are a picture.

  Counters, and what is never set, are left out; steps that are asked for are
  marked on the outputs.
  """
  saved = []
  save = figure.Figure.savefig
  monkeypatch.setattr(
    figure.Figure,
    'savefig',
    lambda self, *args, **kwargs: (
      saved.append(self),
      save(self, *args, **kwargs),
    ),
  )
  rng = np.random.default_rng(0)
  recorded = {
    'number': np.array([4, 1]),
    'inputs': rng.normal(size=(5, 2, 3)),
    'targets': np.zeros((5, 2), int),
    'mask': np.array([[0, 0], [0, 1], [0, 0], [1, 1], [1, 0]]) * 0.5,
    'outputs': rng.normal(size=(5, 2, 4)),
    'inside/trace': rng.normal(size=(5, 2, 3, 30)),
    'inside/never': np.zeros((5, 2, 3)),
    'inside/steps': np.ones((5, 2), int),
  }
  probes_figure.draw(recorded, tmp_path / 'probes.png')
  images = [axes for axes in saved[0].axes if axes.images]
  images = [axes for axes in images if axes.get_label() != '<colorbar>']
  assert len(images) == 6  # inputs, the trace and outputs, of two trials
  for row, name in enumerate(('inputs', 'inside/trace', 'outputs')):
    for column in range(2):
      values = recorded[name][:, column].reshape(5, -1)[:, :64]
      shown = images[2 * row + column].images[0].get_array()
      np.testing.assert_allclose(shown, values.T)
  assert [axes.get_title().splitlines()[0] for axes in images[:2]] == [
    'held-out trial 4',
    'held-out trial 1',
  ]
  assert 'first 64 of 90' in images[2].get_ylabel()
  asked = [axes.lines[0].get_xdata().tolist() for axes in images[4:]]
  assert asked == [[3, 4], [1, 3]]
