# SPDX-License-Identifier: Apache-2.0
"""A run from its command line to its files, as a user sees it.

Truth: the table of files in the spec of a run, counts and borders worked out
here by hand, and laws: the same seed gives the same run, how the updates are
cut into compiled ranges changes nothing, and a prediction reads no label.
"""

import dataclasses
import errno
import functools
import importlib
import itertools
import json
import math
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
from importlib import metadata
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bionet_learners import testing
from bionet_learners.training import (
  checkpoints,
  learner,
  metrics,
  ranges,
  writers,
)
from bionet_learners.training import scoring as learner_scoring
from bionet_tasks.static import prototypes
from experiments import reference, session
from experiments.configs import compose, memory
from experiments.configs import copying as copying_config
from experiments.configs import prototypes as prototypes_config
from experiments.figures import confusion_matrix, learning_curve
from experiments.judge import scoring
from experiments.runs import build, factories, saved, updates
from experiments.shell import workdirs

REPO = pathlib.Path(__file__).parents[2]
CONFIGS = REPO / 'experiments' / 'configs'
SHARED = ('__init__', 'base', 'compose')  # files that are no experiment
FILES = sorted(p.stem for p in CONFIGS.glob('*.py') if p.stem not in SHARED)
# A config of many tasks has a small variant of each.
NAMES = [name for name in FILES if name != 'memory'] + [*memory.TASKS]
# The tasks of memory are one table: of each kind of answer one runs by default.
DRAWN = [
  name
  if name not in memory.TASKS or name in ('adding', 'delayed_xor')
  else pytest.param(name, marks=pytest.mark.slow)
  for name in NAMES
]
# One of every kind, looked at closely; the others run, too.
EXAMPLES = ('cell_fate', 'copying', 'digits', 'prototypes')
FLOATS = {'adding', 'cell_fate', 'flip_flop', 'lorenz'}
CLASSES = set(NAMES) - FLOATS  # experiments that answer in them
ALSO = {  # figures beside the learning curve
  **{name: {'confusion_matrix.png'} for name in CLASSES},
  'evidence': {'confusion_matrix.png', 'evaluations.png'},
  'cell_fate': {
    'evaluations.png',
    'patterns.png',
    'space_time.png',
    'learned_rate.png',
  },
}


def _command(environment: dict, module: str, *arguments: str) -> list[str]:
  answer = subprocess.run(
    [sys.executable, '-m', module, *arguments],
    cwd=REPO,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert answer.returncode == 0, answer.stderr
  assert answer.stderr == ''
  return answer.stdout.splitlines()


@pytest.fixture(scope='module')
def started(once, environment):
  """The workdir of prototypes:smoke, and what its command printed."""

  def make(folder):
    lines = _command(
      environment(),
      'experiments.train',
      '--config=experiments/configs/prototypes.py:smoke',
      f'--workdir={folder / "run"}',
    )
    (folder / 'lines.txt').write_text('\n'.join(lines))

  folder = once('started', make)
  return folder / 'run', (folder / 'lines.txt').read_text().splitlines()


def _head() -> str | None:
  answer = subprocess.run(
    ['git', 'rev-parse', 'HEAD'],
    cwd=REPO,
    capture_output=True,
    text=True,
    check=False,
  )
  return answer.stdout.strip() or None


def _config(name: str):
  if name in memory.TASKS:
    return memory.get_config(f'{name},smoke')
  module = importlib.import_module(f'experiments.configs.{name}')
  return module.get_config('smoke')


def _run(config, workdir, **kwargs) -> dict:
  run = build.build(config)
  workdirs.create(workdir, config, run.first.task.spec)
  state, first = saved.begin(config, run, workdir)
  return session.train_from(config, run, workdir, state, first, **kwargs)


@pytest.fixture(scope='module')
def finished(once):
  """`name -> workdir` of a config's smoke variant, run once."""

  def workdir(name):
    def make(folder):
      folder.mkdir()
      (folder / 'head').write_text(str(_head()))
      _run(_config(name), folder / 'run')

    return once(f'finished_{name}', make) / 'run'

  return workdir


@pytest.fixture
def no_figures(monkeypatch):
  for figure in (learning_curve, confusion_matrix):
    monkeypatch.setattr(figure, 'draw', lambda *_: None)


@pytest.fixture
def hollow(monkeypatch, no_figures):
  """Makes updates count and do nothing else: `{update: accuracy after it}`.

  An update that is not in the table has accuracy 0.5.
  """
  accuracies = {}

  def advance(state, first, last):
    state = state._replace(step=state.step + np.int32(last - first))
    return state, [metrics.Metrics({'loss': np.ones(last - first)})]

  def score(state):
    accuracy = accuracies.get(int(state.step), 0.5)
    trials = mock.Mock(targets=np.ones(1))
    return {'accuracy': accuracy, 'loss': 1.0}, None, trials

  monkeypatch.setattr(updates, 'make_advance_between', lambda _: advance)
  monkeypatch.setattr(learner_scoring, 'make_score', lambda *_: score)
  return accuracies


def _table(lines) -> dict[str, str]:
  """The numbers of the trained state in the first block of a judgement."""
  start = next(i for i, line in enumerate(lines) if 'untrained' in line) + 1
  block = itertools.takewhile(
    lambda line: re.match(r'  \w', line), lines[start:]
  )
  return {line.split()[0]: line.split()[1] for line in block}


def _json(path: pathlib.Path):
  return json.loads(path.read_text())


def _rows(workdir) -> list[dict]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _state(workdir):
  """The final state, restored from the run's last checkpoint."""
  return saved.restore(workdir)[1]


def _saved(workdir) -> list[int]:
  """The updates whose checkpoints stayed."""
  return checkpoints.all_steps(workdir / 'checkpoints')


@pytest.fixture
def start():
  """The command's work, in this process."""
  return functools.partial(session.train)


def _bits(tree) -> list[bytes]:
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


################################################################################
# As a user


def test_the_command_says_what_runs(started):
  """Truth: sizes 100 -> 32 -> 10 counted by hand; the task's own levels.

  Parameters: 100 x 32 inputs, 32 x 32 couplings, 32 x 10 readout. Constants:
  10 x 32 feedback weights, three margins and the self-coupling.
  """
  text = '\n'.join(started[1])
  assert 'prototypes: local_plasticity on asymmetric' in text
  assert '13 updates of 16 trials' in text  # ceil(200 / 16)
  assert 'parameters 4,544  constants 324' in text
  task = prototypes.prototypes(num_data=200, num_held_out=200)
  ceiling = task.spec.ceiling['accuracy']
  assert 'chance: accuracy 0.1000' in text
  assert f'ceiling: accuracy {ceiling:.4f}' in text


def test_the_command_reports_progress(started):
  """Truth: the borders of log_every 5, eval_every 10 and the 13 updates."""
  progress = [line for line in started[1] if line.startswith('update ')]
  assert [line.split()[1] for line in progress] == ['5/13', '10/13', '13/13']
  # The second range has a length that is compiled already: a pace is known.
  assert re.search(r'  \d+\.\d\d ms/update  ETA \d+ s$', progress[1])
  held_out = [line for line in started[1] if line.startswith('held out after')]
  assert [line.split()[3] for line in held_out] == ['10:', '13:']
  assert all('accuracy ' in line and 'loss ' in line for line in held_out)
  # What is for the files alone would make the lines too long.
  assert not re.search('norm|rate', '\n'.join(progress))


def test_the_command_ends_with_the_result(started):
  """Truth: result.json, as printed."""
  workdir, lines = started
  result = _json(workdir / 'result.json')
  [line] = [line for line in lines if line.startswith('held-out accuracy')]
  assert f'held-out accuracy {result["eval"]["accuracy"]:.4f}' in line
  assert (
    f'on training trials {result["train"]["accuracy"]:.4f}'
    f'; {result["wall_seconds"]:.1f} s'
  ) in line
  assert lines[-1] == f'wrote {workdir / "result.json"}'


def test_evaluate_prints_the_metrics_of_the_result(started, environment):
  """Truth: result.json; nothing of the run but its folder is known."""
  workdir, _ = started
  lines = _command(
    environment(), 'experiments.evaluate', f'--workdir={workdir}'
  )
  scores = _json(workdir / 'result.json')['eval']
  assert lines[:2] == [f'{workdir}: 13 updates', 'held_out: 200 trials']
  assert _table(lines) == {k: f'{v:.4f}' for k, v in scores.items()}
  assert f'wrote {workdir / "evaluation.json"}' in lines


def test_list_names_every_config_and_plugin():
  """Truth: the files of experiments/configs and the tables of names."""
  text = reference.installed()
  for name in (*FILES, 'compose'):
    assert f'{name}.py' in text
  assert 'base.py' not in text
  for table in factories.BUILTIN.values():
    assert all(name in text for name in table)


################################################################################
# The folder


def test_every_experiment_has_a_smoke_variant():
  """Truth: the files of experiments/configs."""
  assert {'prototypes', 'copying', 'memory'} <= set(FILES)
  for name in NAMES:
    assert _config(name).to_dict() != {}


@pytest.mark.parametrize('name', EXAMPLES)
def test_config_json_keeps_what_ran(name, finished):
  """Truth: the config, the task, the installed packages, git, JAX's devices."""
  kept = _json(finished(name) / 'config.json')
  config = _config(name)
  assert kept['config'] == json.loads(json.dumps(config.to_dict()))
  assert kept['seed'] == config.seed
  spec = build.build(config).first.task.spec
  assert kept['chance'] == dict(spec.chance) != {}
  assert kept['ceiling'] == dict(spec.ceiling) != {}
  assert kept['versions']['python'] == sys.version.split()[0]
  for package in ('jax', 'dm-haiku', 'optax', 'numpy'):
    assert kept['versions'][package] == metadata.version(package)
  assert kept['device'] == {
    'kind': jax.devices()[0].device_kind,
    'count': len(jax.devices()),
  }
  # Someone may commit while the tests run.
  before = (finished(name).parent / 'head').read_text()
  assert str(kept['git_revision']) in {before, str(_head())}


@pytest.mark.parametrize('name', EXAMPLES)
def test_metrics_stand_at_every_border(name, finished):
  """Truth: the multiples of the three intervals, and the ends of stages."""
  config = _config(name)
  rows = _rows(finished(name))
  run = build.build(config)
  last = run.num_updates
  every = (config.log_every, config.eval_every, config.checkpoint_every)
  borders = {
    n
    for n in range(1, last + 1)
    if n == last or any(n % interval == 0 for interval in every)
  } | set(run.borders)
  evaluated = {n for n in borders if n % config.eval_every == 0 or n == last}
  steps = {
    split: [row['step'] for row in rows if row['split'] == split]
    for split in ('train', 'eval')
  }
  assert len(rows) == len(steps['train']) + len(steps['eval'])
  assert steps['train'] == sorted(borders)  # each once, ascending
  assert steps['eval'] == sorted(evaluated)
  for row in rows:
    scalars = {k: v for k, v in row.items() if k not in ('step', 'split')}
    descended = run.first.rule.objective if run.first.rule else 'loss'
    assert {'train': descended, 'eval': run.first.task.spec.metric}[
      row['split']
    ] in scalars
    assert all(math.isfinite(value) for value in scalars.values())
    assert list(row) == ['step', 'split', *sorted(scalars)]


@pytest.mark.parametrize('name', EXAMPLES)
def test_training_rows_say_how_far_it_goes(name, finished):
  """Truth: the rates of the config's schedule, averaged over the row by hand.

  The norms are those of a real step: above zero, and finite. A learner that is
  made of no rule has no optimizer: no norms, and a rate of zero.
  """
  config, workdir = _config(name), finished(name)
  run = build.build(config)
  if run.first.rule is None:
    trained = [row for row in _rows(workdir) if row['split'] == 'train']
    assert [row['learning_rate'] for row in trained] == [0.0] * len(trained)
    assert not [row for row in trained if 'gradient_norm' in row]
    return
  last = run.num_updates
  rates = np.full(last, config.optimizer.learning_rate)
  if config.optimizer.schedule == 'cosine':
    rates *= (1 + np.cos(np.pi * np.arange(last) / last)) / 2
  first = 0
  for row in _rows(workdir):
    if row['split'] == 'train':
      mean = np.mean(rates[first : row['step']])
      assert row['learning_rate'] == pytest.approx(mean, rel=1e-5)
      assert 0 < row['gradient_norm'] < math.inf
      assert 0 < row['update_norm'] < math.inf
      first = row['step']


@pytest.mark.parametrize('name', EXAMPLES)
def test_result_is_the_last_word(name, finished):
  """Truth: the last held-out row; the checkpoint scored on training trials."""
  workdir, config = finished(name), _config(name)
  run = build.build(config)
  result = _json(workdir / 'result.json')
  assert workdirs.read_result(workdir) == result
  assert list(result) == [
    'updates',
    'wall_seconds',
    'cpu_seconds',
    'train',
    'eval',
  ]
  assert result['updates'] == run.num_updates
  assert result['wall_seconds'] > 0 and result['cpu_seconds'] > 0
  held_out = [row for row in _rows(workdir) if row['split'] == 'eval'][-1]
  assert held_out == {
    'step': run.num_updates,
    'split': 'eval',
    **result['eval'],
  }
  state = _state(workdir)
  assert int(state.step) == run.num_updates == _saved(workdir)[-1]
  last = run.last
  fitted, _, _ = scoring.score(
    last.learner,
    state,
    last.task,
    scoring.on_training_trials(last.task, last.batch_size),
    last.keys.data,
    last.keys.noise,
  )
  assert result['train'] == fitted


@pytest.mark.parametrize('name', EXAMPLES)
def test_what_is_saved_gives_the_very_numbers(name, finished):
  """Truth: result.json, bit for bit, from the folder alone; the differences.

  The untrained state is that of the seed, scored on the same trials.
  """
  workdir = finished(name)
  written = _json(workdir / 'evaluation.json')
  run, state, step = saved.restore(workdir)
  again = scoring.judge(run, state, step, [])
  assert written == {'updates': step, 'evaluations': again.evaluations}
  assert set(written['evaluations']) == set(run.first.task.evaluations)
  for content in written['evaluations'].values():
    for metric, gain in content['gain'].items():
      after, before = content['trained'][metric], content['untrained'][metric]
      assert gain == after - before
  held_out = written['evaluations']['held_out']
  assert held_out['trained'] == _json(workdir / 'result.json')['eval']
  untrained, _, _ = scoring.score_run(run, updates.init(run))
  assert held_out['untrained'] == untrained


@pytest.mark.parametrize('name', EXAMPLES)
def test_the_event_file_holds_every_scalar(name, finished):
  """Truth: metrics.jsonl. The file's framing and floats are read by hand.

  A record is: length uint64, checksum uint32, content, checksum uint32; a
  scalar stands in its content as its tag and a little-endian float32.
  """
  workdir = finished(name)
  [path] = workdir.glob('events.out.tfevents.*')
  content, records = path.read_bytes(), []
  while content:
    (size,) = struct.unpack('<Q', content[:8])
    records.append(content[12 : 12 + size])
    content = content[12 + size + 4 :]
  for row in _rows(workdir):
    for key in row.keys() - {'step', 'split'}:
      tag = f'{row["split"]}/{key}'.encode()
      value = struct.pack('<f', row[key])
      assert any(tag in record and value in record for record in records)


@pytest.mark.parametrize('name', DRAWN)
def test_figures_are_drawn(name, finished):
  """Truth: the PNG format's signature, header and end; a picture is no dot.

  Of every experiment: this is what runs its smoke variant.
  """
  figures = finished(name) / 'figures'
  drawn = {'learning_curve.png'} | ALSO.get(name, set())
  assert {path.name for path in figures.iterdir()} == drawn
  for figure in drawn:
    content = (figures / figure).read_bytes()
    assert content[:8] == b'\x89PNG\r\n\x1a\n'
    width, height = struct.unpack('>II', content[16:24])
    assert width >= 600 and height >= 400
    assert content[-8:-4] == b'IEND'
    assert len(content) > 10_000


def test_a_finished_run_says_so_and_stands(finished, tmp_path, start, capsys):
  """Truth: every file of the run as it stood; its result, printed again."""
  workdir = shutil.copytree(finished('copying'), tmp_path / 'run')

  def files():
    return {
      path: path.stat().st_mtime_ns
      for path in workdir.rglob('*')
      if path.is_file() and path.name != '.lock'
    }

  before = files()
  capsys.readouterr()  # the run itself may have been made just now
  start(_config('copying'), workdir)  # ends, and not by SystemExit: status 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == f'{workdir} is finished already; nothing to do.'
  accuracy = _json(workdir / 'result.json')['eval']['accuracy']
  assert lines[1].startswith(f'held-out accuracy {accuracy:.4f}')
  assert files() == before


def test_a_finished_run_of_another_config_is_refused(
  finished, tmp_path, start, capsys
):
  """Truth: the difference, by hand; every file as it stood."""
  workdir = shutil.copytree(finished('copying'), tmp_path / 'run')
  config = _config('copying')
  config.num_updates = 7
  before = {path: path.read_bytes() for path in workdir.rglob('*.json*')}
  with pytest.raises(SystemExit) as end:
    start(config, workdir)
  assert end.value.code == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert 'num_updates is 6 there and 7 here' in error
  assert {p: p.read_bytes() for p in workdir.rglob('*.json*')} == before


def test_the_count_of_parameters_is_that_of_a_gru(finished):
  """Truth: three gates of inputs 10, state 8 and bias; a readout to 10."""
  state = _state(finished('copying'))
  assert optax.tree.size(state.params) == 3 * (10 * 8 + 8 * 8 + 8) + (
    8 * 10 + 10
  )
  assert optax.tree.size(state.constants) == 0


################################################################################
# Laws


@pytest.mark.parametrize('name', ['copying', 'prototypes'])
def test_a_seed_gives_one_run(name, finished, tmp_path, no_figures):
  """Truth: the run before it, row by row."""
  _run(_config(name), tmp_path)
  assert _rows(tmp_path) == _rows(finished(name))


@pytest.mark.parametrize('name', ['copying', 'prototypes'])
def test_another_seed_gives_another_run(name, finished):
  """Truth: the first row of the run of seed 0."""
  config = _config(name)
  config.seed = 1
  run, length = build.build(config), config.log_every
  state = updates.place(run, updates.init(run))
  _, parts = updates.make_advance_between(run)(state, 0, length)
  mean = metrics.average_metrics(parts)
  first = _rows(finished(name))[0]
  assert first['step'] == length
  assert mean.keys() == first.keys() - {'step', 'split'}
  descended = run.first.rule.objective
  assert mean[descended] != first[descended]


@pytest.mark.parametrize(
  'name', ['prototypes', pytest.param('copying', marks=pytest.mark.slow)]
)
def test_how_updates_are_cut_changes_nothing(name, monkeypatch):
  """Truth: bitwise the state, and the mean metrics, of one range of 6 updates.

  Cut where a log line stands after every 2, where memory holds 4 updates, and
  where it holds next to nothing.
  """
  run = build.build(_config(name))
  advance = updates.make_advance(run.first)
  lengths = []

  def noted(state, first, count):
    lengths.append(count)
    return advance(state, first, count)

  monkeypatch.setattr(updates, 'make_advance', lambda *_: noted)

  def trained(*borders):
    between = updates.make_advance_between(run)
    state, step = updates.place(run, updates.init(run)), 0
    for border in borders:
      state, parts = between(state, step, border)
      step = border
    return state, metrics.average_metrics(parts)

  whole, mean = trained(6)
  assert _bits(trained(2, 4, 6)[0]) == _bits(whole)
  trials = run.first.task.sample(
    run.first.keys.data, jnp.arange(run.first.batch_size)
  )
  size = sum(x.nbytes for x in jax.tree.leaves(trials))
  for room, cut in ((4 * size, [4, 2]), (1, [1] * 6)):
    monkeypatch.setattr(learner, '_RANGE_BYTES', room)
    lengths.clear()
    state, again = trained(6)
    assert lengths == cut
    assert _bits(state) == _bits(whole)
    for key, value in mean.items():
      np.testing.assert_allclose(again[key], value, rtol=1e-5)


def test_where_borders_stand_changes_nothing(finished, tmp_path, no_figures):
  """Truth: bitwise the state of the run that stopped at other updates."""
  config = _config('prototypes')
  config.log_every, config.eval_every, config.checkpoint_every = 2, 7, 3
  _run(config, tmp_path)
  assert _bits(_state(tmp_path)) == _bits(_state(finished('prototypes')))


@pytest.mark.parametrize('name', ['copying', 'prototypes'])
def test_a_prediction_reads_no_label(name):
  """Truth: bitwise the outputs under the labels of other trials."""
  run = build.build(_config(name))
  state = updates.init(run)
  state, _ = updates.make_advance(run.first)(state, jnp.int32(0), 2)
  truthful = run.first.task.evaluations['held_out']

  def shuffled(key, index):
    trials = truthful.sample(key, index)
    targets = jnp.roll(trials.targets, 1, axis=1)
    return dataclasses.replace(trials, targets=targets)

  def score(evaluation):
    return scoring.score(
      run.first.learner,
      state,
      run.first.task,
      evaluation,
      run.first.keys.held_out,
      run.first.keys.held_out_noise,
    )

  scores, outputs, trials = score(truthful)
  other_scores, other_outputs, other_trials = score(
    truthful._replace(sample=shuffled)
  )
  assert np.any(np.asarray(trials.targets) != other_trials.targets)
  assert _bits(outputs) == _bits(other_outputs)
  assert scores['loss'] != other_scores['loss']


def test_chunks_of_an_evaluation_change_nothing(monkeypatch):
  """Truth: one prediction of all 20 trials at once, measured by hand."""
  run = build.build(_config('copying'))
  state = updates.init(run)
  held_out = run.first.task.evaluations['held_out']
  monkeypatch.setattr(learner_scoring, '_MAX_CHUNK', 7)  # 7 + 7 + 6, filled up
  scores, outputs, trials = scoring.score(
    run.first.learner,
    state,
    run.first.task,
    held_out,
    run.first.keys.held_out,
    run.first.keys.held_out_noise,
  )
  whole = run.first.learner.predict(
    state, run.first.keys.held_out_noise, trials
  )
  whole = np.asarray(whole)
  np.testing.assert_allclose(outputs, whole, rtol=1e-5, atol=1e-6)
  asked = np.asarray(trials.mask) > 0
  hits = np.argmax(whole, axis=-1) == np.asarray(trials.targets)
  assert scores['accuracy'] == pytest.approx(np.mean(hits[asked]))


@pytest.mark.parametrize('split', ['train', 'eval'])
def test_a_loss_that_is_not_finite_stops_the_run(split, tmp_path, monkeypatch):
  """Truth: the updates, named by hand; no NaN enters a file."""
  config = _config('copying')

  def advance(state, first, last):
    losses = np.ones(last - first)
    if split == 'train' and first <= 3 < last:
      losses[3 - first] = math.nan
    return state, [metrics.Metrics({'loss': losses})]

  def score(state):
    loss = 1.0 if split == 'train' else math.inf
    return {'accuracy': 0.5, 'loss': loss}, None, None

  monkeypatch.setattr(updates, 'make_advance_between', lambda _: advance)
  monkeypatch.setattr(learner_scoring, 'make_score', lambda *_: score)
  where = {
    'train': r'update 4 \(of the updates 4 to 4\): loss is nan',
    'eval': 'the evaluation after update 3: loss is inf',
  }[split]
  with pytest.raises(FloatingPointError, match=f'^{where}'):
    _run(config, tmp_path)
  assert not (tmp_path / 'result.json').exists()
  assert [row['loss'] for row in _rows(tmp_path)] == (
    [1.0] * (3 if split == 'train' else 2)
  )


@pytest.mark.parametrize('name', ['prototypes', 'copying'])
def test_a_rate_beyond_all_bounds_is_noticed(name, tmp_path):
  """Truth: steps of 1e38 leave no finite number; nothing here is mocked."""
  config = _config(name)
  config.optimizer.name, config.optimizer.learning_rate = 'sgd', 1e38
  config.optimizer.clip_norm = 0.0
  with pytest.raises(FloatingPointError, match=r'update \d.* is (nan|-?inf)\.'):
    _run(config, tmp_path)
  assert not (tmp_path / 'result.json').exists()


def test_schedules_and_streams_see_the_update_and_the_row():
  """Truth: update s and row b of every trial, counted by hand.

  A task that anneals something reads `index // batch_size`; a stream without
  end continues in row `index % batch_size`, which it returns as the index, so
  that its noise goes on where it stopped. Both through the compiled range.
  """
  run = build.build(_config('prototypes'))
  size, seen = run.first.batch_size, []

  def sample(key, index, batch_size=None):
    trials = run.first.task.sample(key, index)
    annealed = (index // batch_size)[None] * jnp.ones_like(trials.targets)
    return dataclasses.replace(
      trials, targets=annealed, index=index % batch_size
    )

  def update(state, key, trials):
    del key
    jax.debug.callback(
      lambda *x: seen.append([np.array(a) for a in x]),
      trials.targets[0],
      trials.index,
      ordered=True,
    )
    return state, {'loss': jnp.float32(0)}

  toy = run.first._replace(
    task=run.first.task._replace(sample=sample),
    learner=run.first.learner._replace(update=update),
  )
  jax.block_until_ready(
    updates.make_advance(toy)(updates.init(run), jnp.int32(3), 4)
  )
  jax.effects_barrier()
  assert len(seen) == 4
  for step, (targets, rows) in enumerate(seen, start=3):
    np.testing.assert_array_equal(targets, np.full(size, step))
    np.testing.assert_array_equal(rows, np.arange(size))
  # What is fitted is judged on these very trials.
  fitted = scoring.on_training_trials(toy.task, size)
  trials = fitted.sample(run.first.keys.data, jnp.arange(3 * size, 7 * size))
  np.testing.assert_array_equal(
    trials.targets[0], np.concatenate([targets for targets, _ in seen])
  )
  np.testing.assert_array_equal(trials.index, np.tile(np.arange(size), 4))


################################################################################
# How a run ends

THIRD = """\
import jax
import jax.numpy as jnp

from bionet_learners.reverse import bptt


def breaks(cell, loss, *, after: int = 6):
  # Gives NaN for a gradient from its update number `after` on.
  rule = bptt.bptt(cell, loss)

  def init(*args):
    return rule.init(*args)._replace(shared=jnp.int32(0))

  def estimate(params, constants, rule_state, key, trials):
    found, state = rule.estimate(params, constants, rule_state, key, trials)
    broken = rule_state.shared >= after
    updates = jax.tree.map(
      lambda x: jnp.where(broken, jnp.nan, x), found.gradient
    )
    return found._replace(gradient=updates), state._replace(
      shared=rule_state.shared + 1
    )

  return rule._replace(init=init, estimate=estimate)
"""


def test_a_run_that_diverges_ends_in_one_line(
  tmp_path, monkeypatch, start, capsys, no_figures
):
  """Truth: the first update without a gradient is the 7th; status 1.

  The last good checkpoint stays, and the run goes on from it: to the same end.
  """
  (tmp_path / 'third_of_train.py').write_text(THIRD)
  monkeypatch.syspath_prepend(tmp_path)
  config = compose.get_config('copying,gru,third_of_train:breaks')
  config.update_from_flattened_dict(copying_config._VARIANTS['smoke'])
  config.num_updates = 12
  config.log_every = config.eval_every = config.checkpoint_every = 4
  workdir = tmp_path / 'run'
  for _ in range(2):
    with pytest.raises(SystemExit) as end:
      start(config, workdir)
    assert end.value.code == 1
    out, error = capsys.readouterr()
    assert error == (
      'error: update 7 (of the updates 5 to 8): gradient_norm is nan. Try a '
      'smaller learning rate, or clip the gradient.\n'
    )
    assert _saved(workdir) == [4]
    assert {row['step'] for row in _rows(workdir)} == {4}
    assert not (workdir / 'result.json').exists()
  assert 'resuming after update 4/12' in out
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(_state(workdir)))


CELLS = """\
from bionet_core.cells import cores
from bionet_core.relaxation import asymmetric


def cell(spec, *, hidden: int = 4):
  return cores.gru(spec, hidden=hidden)


def network(spec, *, hidden: int = 4):
  return asymmetric.asymmetric(spec, hidden=hidden)
"""


@pytest.fixture
def credit(tmp_path, monkeypatch, hollow):
  """The calls of the check, which finds no fault; the module is CELLS."""
  (tmp_path / 'cells_of_train.py').write_text(CELLS)
  monkeypatch.syspath_prepend(tmp_path)
  calls = mock.Mock(return_value='credit checked')
  monkeypatch.setattr(testing, 'check_credit', calls, raising=False)
  return calls


def _composed(choice, **settings):
  config = compose.get_config(choice)
  variant = copying_config._VARIANTS['smoke']
  sizes = {k: v for k, v in variant.items() if '.' not in k}
  config.update_from_flattened_dict({**sizes, **settings})
  return config


@pytest.mark.parametrize(
  'settings',
  [{}, {'precision': 'bfloat16'}, {'restarts.count': 2}],
  ids=['plain', 'precision', 'restarts'],
)
def test_credit_is_checked_on_a_cell_of_others(
  settings, credit, tmp_path, start, capsys
):
  """Truth: the rule's kind, the shapes, float32; printed before the run.

  Mutants: the rule in bfloat16, and the rule hidden in copies.
  """
  config = _composed('copying,cells_of_train:cell,bptt', **settings)
  if 'restarts.count' in settings:
    config.restarts.validate_every = 2
  start(config, tmp_path / 'run')
  [((cell, loss, rule, trials), keywords)] = credit.call_args_list
  assert not keywords
  assert trials.inputs.shape[1] == 4
  params, constants = cell.init(jax.random.key(0), trials.inputs[0])
  state = rule.init(jax.random.key(0), params, constants, trials)
  estimate, _ = jax.eval_shape(
    rule.estimate, params, constants, state, jax.random.key(0), trials
  )
  assert jax.tree.structure(estimate.gradient) == jax.tree.structure(params)
  dtypes = {str(x.dtype) for x in jax.tree.leaves((params, estimate))}
  assert dtypes == {'float32'}
  outputs = jnp.zeros((*trials.targets.shape[1:], 8))
  value, _ = loss(outputs, trials.targets[0], jnp.ones(4))
  assert value == pytest.approx(math.log(8))  # of 8 classes, all alike
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'credit checked'
  assert lines[1].startswith('copying: bptt on cells_of_train:cell')


def test_wrong_credit_ends_in_one_line(credit, tmp_path, start, capsys):
  """Truth: the law's words, status 2, no folder; then a run without a check."""
  config = _composed('copying,cells_of_train:cell,bptt')
  credit.side_effect = AssertionError('gradient of w:\n  0.2 is not 0.3')
  with pytest.raises(SystemExit) as end:
    start(config, tmp_path / 'run')
  assert end.value.code == 2
  out, error = capsys.readouterr()
  assert error == 'error: gradient of w: 0.2 is not 0.3\n' and not out
  assert not (tmp_path / 'run').exists()
  start(config, tmp_path / 'run', check_credit=False)
  assert credit.call_count == 1
  start(config, tmp_path / 'run')  # it is finished
  assert credit.call_count == 1


def test_credit_of_what_is_built_in_is_not_checked(credit, tmp_path, start):
  """Truth: no call; the project's tests check its cells."""
  start(_config('copying'), tmp_path / 'copying')
  start(_config('prototypes'), tmp_path / 'prototypes')
  assert not credit.call_count


@pytest.mark.parametrize(
  'choice',
  [
    'copying,cells_of_train:cell,open_es',
    'prototypes,cells_of_train:network,local_plasticity',
  ],
)
def test_what_gives_no_credit_over_time_says_so(
  choice, credit, tmp_path, start, capsys
):
  """Truth: the words; a population and a network of others still train."""
  start(_composed(choice), tmp_path / 'run')
  assert not credit.call_count
  first, *_ = capsys.readouterr().out.splitlines()
  assert first.startswith('credit not checked: ')


def _short():
  """Copying with a checkpoint at every other of six borders."""
  config = _config('copying')
  config.num_updates, config.log_every = 12, 2
  config.eval_every = config.checkpoint_every = 4
  return config


@pytest.mark.parametrize(
  ('error', 'status', 'words'),
  [
    (
      OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
      1,
      'No space left on device',
    ),
    (KeyboardInterrupt(), 130, 'interrupted'),
  ],
)
def test_a_line_that_cannot_be_written_ends_the_run(
  error, status, words, tmp_path, monkeypatch, start, capsys, hollow
):
  """Truth: one line, its status, and the checkpoint from before.

  It ends in the row of update 6, behind the checkpoint of update 4.
  """
  write = writers.MetricsWriter.write

  def fails(self, step, split, scalars):
    if step == 6:
      raise error
    write(self, step, split, scalars)

  monkeypatch.setattr(writers.MetricsWriter, 'write', fails)
  with pytest.raises(SystemExit) as end:
    start(_short(), tmp_path)
  assert end.value.code == status
  text = capsys.readouterr().err
  assert text.startswith('error: ') and text.count('\n') == 1
  assert words in text and f'in {tmp_path}' in text
  assert _saved(tmp_path) == [4]
  checkpoints.verify(tmp_path / 'checkpoints' / 'checkpoint_4')


def test_a_full_disk_leaves_the_checkpoint_from_before(
  tmp_path, monkeypatch, start, capsys, no_figures
):
  """Truth: one line, status 1; then, with room again, the uninterrupted run."""
  usage, asked = checkpoints.shutil.disk_usage, []

  def full(path):
    asked.append(path)
    return usage(path)._replace(free=0 if len(asked) == 2 else 10**12)

  monkeypatch.setattr(checkpoints.shutil, 'disk_usage', full)
  with pytest.raises(SystemExit) as end:
    start(_short(), tmp_path / 'parts')
  assert end.value.code == 1
  text = capsys.readouterr().err
  assert text.startswith('error: ') and text.count('\n') == 1
  assert 'checkpoint_8 could not be written: No space left on device' in text
  assert _saved(tmp_path / 'parts') == [4]
  checkpoints.verify(tmp_path / 'parts' / 'checkpoints' / 'checkpoint_4')
  start(_short(), tmp_path / 'parts')
  assert 'resuming after update 4/12' in capsys.readouterr().out
  _run(_short(), tmp_path / 'whole')
  assert _rows(tmp_path / 'parts') == _rows(tmp_path / 'whole')
  assert _bits(_state(tmp_path / 'parts')) == _bits(_state(tmp_path / 'whole'))


def test_a_run_stops_early_where_nothing_improves(
  tmp_path, start, capsys, hollow
):
  """Truth: nothing improves at the evaluations after 3, 6 and 9.

  Killed just before its end, the run makes no further update.
  """
  config = _config('copying')
  config.num_updates, config.log_every, config.eval_every = 30, 3, 3
  config.early_stopping.patience = 2
  start(config, tmp_path)
  result = _json(tmp_path / 'result.json')
  assert result['updates'] == 9
  assert _saved(tmp_path) == [9]
  text = capsys.readouterr().out
  assert 'accuracy has not improved for 2 evaluations' in text
  rows = _rows(tmp_path)
  assert [row['step'] for row in rows] == [3, 3, 6, 6, 9, 9]
  (tmp_path / 'result.json').unlink()
  start(config, tmp_path)
  assert 'resuming after update 9/30' in capsys.readouterr().out
  again = _json(tmp_path / 'result.json')
  assert again['cpu_seconds'] is None  # of a part of the run they say nothing
  seconds = {'wall_seconds': 0, 'cpu_seconds': 0}
  assert {**again, **seconds} == {**result, **seconds}
  assert _rows(tmp_path) == rows


def test_an_improvement_is_waited_for(tmp_path, hollow):
  """Truth: accuracies by hand; 0.05 more is none where 0.1 is the least.

  The best is that of update 6; two more without improvement end at 12.
  """
  hollow.update({3: 0.1, 6: 0.4, 9: 0.45, 12: 0.3})
  config = _config('copying')
  config.num_updates, config.log_every, config.eval_every = 30, 3, 3
  config.early_stopping.patience, config.early_stopping.min_delta = 2, 0.1
  assert _run(config, tmp_path)['updates'] == 12


@pytest.fixture
def best(tmp_path, monkeypatch, no_figures):
  """A run of 12 updates that was best after 6; one checkpoint at its end."""
  config = _config('copying')
  config.num_updates, config.log_every, config.eval_every = 12, 3, 3
  config.checkpoint_every, config.keep_last, config.keep_best = 0, 1, True
  make_score = learner_scoring.make_score

  def made(*args):
    real = make_score(*args)

    def score(state):
      scores, outputs, trials = real(state)
      accuracy = {0: 0, 3: 0.1, 6: 0.9, 9: 0.3, 12: 0.2}[int(state.step)]
      return {**scores, 'accuracy': accuracy}, outputs, trials

    return score

  with monkeypatch.context() as patch:
    patch.setattr(learner_scoring, 'make_score', made)
    _run(config, tmp_path)
  return tmp_path


def test_the_best_checkpoint_stays(best, capsys):
  """Truth: bitwise the state of a run that ended after 6 updates.

  `evaluate --which=best` scores it, and `last` the one of update 12.
  """
  assert _saved(best) == [6, 12]
  run, state, step = saved.restore(best, 'best')
  assert step == 6
  advance = updates.make_advance_between(run)
  after, _ = advance(updates.place(run, updates.init(run)), 0, 3)
  after, _ = advance(after, 3, 6)
  assert _bits(state) == _bits(after)
  for which, step in (('best', 6), ('last', 12)):
    session.evaluate(str(best), which)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f'{best}: {step} updates'
    run, state, _ = saved.restore(best, which)
    scores, _, _ = scoring.score_run(run, state)
    assert _table(lines) == {k: f'{v:.4f}' for k, v in scores.items()}
    assert _json(best / 'evaluation.json')['updates'] == step


@pytest.mark.parametrize(
  ('every', 'keep_last', 'kept'),
  [(2, 2, [4, 6]), (2, 1, [6]), (4, 5, [4, 6]), (0, 2, [6])],
)
def test_checkpoints_stand_where_they_are_asked_for(
  every, keep_last, kept, tmp_path, hollow
):
  """Truth: the multiples up to 6 and the end; the last of them, by hand."""
  config = _config('copying')
  config.checkpoint_every, config.keep_last = every, keep_last
  _run(config, tmp_path)
  assert _saved(tmp_path) == kept


@pytest.mark.parametrize('name', ['copying', 'prototypes'])
def test_a_run_starts_from_what_another_one_learned(
  name, finished, tmp_path, capsys
):
  """Truth: bitwise the other's parameters and constants; all else is fresh.

  Another seed would draw others, and another optimizer keeps another state.
  """
  other, config = finished(name), _config(name)
  config.seed = 1
  config.optimizer.name = 'sgd'
  fresh = updates.init(build.build(config))
  config.init_from = str(other)
  capsys.readouterr()
  state, first = saved.begin(config, build.build(config), tmp_path)
  learned = _state(other)
  assert first == int(state.step) == 0
  for part in ('params', 'constants'):
    assert _bits(getattr(state, part)) == _bits(getattr(learned, part))
  assert _bits(state.params) != _bits(fresh.params)
  assert _bits(state.opt_state) == _bits(fresh.opt_state)
  assert _bits(state.rule_state) == _bits(fresh.rule_state)
  steps = int(learned.step)
  assert capsys.readouterr().out == (
    f'starting from the parameters of {other}, update {steps}\n'
  )
  assert list(tmp_path.iterdir()) == []


def test_its_own_checkpoint_comes_before_the_others_parameters(
  finished, tmp_path, no_figures
):
  """Truth: the run itself: what it has learned since is not thrown away."""
  config = _config('copying')
  config.init_from = str(finished('copying'))
  _run(config, tmp_path)
  state, first = saved.begin(config, build.build(config), tmp_path)
  assert first == 6
  assert _bits(state) == _bits(_state(tmp_path))
  assert _bits(state) != _bits(_state(finished('copying')))


def test_another_machine_is_noted(tmp_path, start, capsys, hollow):
  """Truth: a version that stands in config.json and was never installed."""
  config = _config('copying')
  workdirs.create(tmp_path, config, build.build(config).first.task.spec)
  content = _json(tmp_path / 'config.json')
  content['versions']['optax'] = '0.0.1'
  workdirs.write_json(tmp_path / 'config.json', content)
  start(config, tmp_path)
  optax = metadata.version('optax')
  assert capsys.readouterr().out.startswith(
    f'it may not go on bit for bit: optax was 0.0.1 and is {optax}.\n'
  )
  assert _json(tmp_path / 'result.json')['updates'] == 6


def test_a_profile_and_probes_where_asked_for(
  tmp_path, start, capsys, no_figures
):
  """Truth: the second of the ranges 0-2, 2-4, 4-6; the trials in their order.

  Bitwise the rows of a run without either.
  """
  config = _config('copying')
  config.eval_every = 6
  start(config, tmp_path / 'run', probe=['7', '0'], profile=True)
  text = capsys.readouterr().out
  folder = tmp_path / 'run' / 'profile'
  assert f'updates 2 to 4 are traced in {folder}/' in text
  traces = [path for path in folder.rglob('*.xplane.pb')]
  assert len(traces) == 1 and traces[0].stat().st_size > 1000
  recorded = np.load(tmp_path / 'run' / 'probes.npz')
  assert recorded['number'].tolist() == [7, 0]
  assert (tmp_path / 'run' / 'figures' / 'probes.png').exists()
  _run(config, tmp_path / 'plain')
  assert not (tmp_path / 'plain' / 'profile').exists()
  assert not (tmp_path / 'plain' / 'probes.npz').exists()
  assert _rows(tmp_path / 'plain') == _rows(tmp_path / 'run')


################################################################################
# What the host waits for


def _reads(monkeypatch) -> dict:
  """Counts reads of the device: those of `device_get`, and all others."""
  counts = {'device_get': 0, 'others': 0}
  kind = type(jnp.zeros(()))
  value, device_get = kind._value, jax.device_get
  inside = []

  def counted(self):
    counts['others'] += not inside
    return value.fget(self)

  def get(tree):
    counts['device_get'] += 1
    inside.append(True)
    try:
      return device_get(tree)
    finally:
      inside.pop()

  monkeypatch.setattr(kind, '_value', property(counted))
  monkeypatch.setattr(ranges.jax, 'device_get', get)
  return counts


@pytest.mark.parametrize('devices', [1, 2])
def test_the_host_reads_once_a_border(devices, monkeypatch):
  """Truth: the borders of 7 updates: 2 4 6 7; then 2 3 4 6 7.

  Nothing goes between host and device unseen; a read of a loss would count.
  """
  config = _config('copying')
  config.num_updates, config.devices = 7, devices
  run = build.build(config)
  advance = updates.make_advance_between(run)

  def borders(intervals):
    state, rows = updates.place(run, updates.init(run)), []
    with jax.transfer_guard('disallow'):
      ranges.train_ranges(
        state,
        advance,
        num_updates=run.num_updates,
        intervals=intervals,
        record=lambda step, split, values: rows.append(step),
        rows=rows,
      )
    return rows

  borders(ranges.Intervals(2))  # compiles both lengths, 2 and 1
  counts = _reads(monkeypatch)
  assert borders(ranges.Intervals(2)) == [2, 4, 6, 7]
  assert counts == {'device_get': 4, 'others': 0}
  assert borders(ranges.Intervals(3, checkpoint=2)) == [2, 3, 4, 6, 7]
  assert counts == {'device_get': 9, 'others': 0}
  float(jnp.zeros(()) + 1)
  assert counts['others'] == 1


################################################################################
# Overrides


@pytest.mark.parametrize('name', NAMES)
def test_an_override_changes_one_value(name):
  """Truth: the other values of the config, as they were.

  A rate, a seed or a size that follows another one must not lead it. What
  follows the overridden value may change with it: of the shared keys, the seed
  and the learning rate are such.
  """
  before = _flat(_config(name).to_dict())
  for path, value in before.items():
    if not isinstance(value, (int, float)) or path in _LED:
      continue
    config = _config(name)
    config.update_from_flattened_dict({path: type(value)(not value)})
    changed = {k for k, v in _flat(config.to_dict()).items() if v != before[k]}
    assert changed == {path}


def test_the_seed_leads_the_tasks():
  """Truth: the values themselves, in both directions."""
  for make in (prototypes_config.get_config, compose.get_config):
    config = make()
    config.seed = 7
    assert config.task.seed == 7
    config.task.seed = 3
    assert (config.seed, config.task.seed) == (7, 3)


def test_variants_say_what_they_change():
  """Truth: the tables of variants; the last of two values does not win all."""
  for module in (prototypes_config, copying_config):
    for variant, overrides in module._VARIANTS.items():
      flat = _flat(module.get_config(variant).to_dict())
      assert {path: flat[path] for path in overrides} == overrides


_LED = ('seed', 'optimizer.learning_rate')


def _flat(content: dict, prefix: str = '') -> dict:
  flat = {}
  for key, value in content.items():
    if isinstance(value, dict):
      flat.update(_flat(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat
