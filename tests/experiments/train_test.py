# SPDX-License-Identifier: Apache-2.0
"""A run from its command line to its files, as a user sees it.

Truth: the table of files in the spec of a run, counts and borders worked out
here by hand, and laws: the same seed gives the same run, how the updates are
cut into compiled ranges changes nothing, and a prediction reads no label.
"""

import dataclasses
import importlib
import json
import math
import os
import pathlib
import re
import struct
import subprocess
import sys
from importlib import metadata
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_learners.training import checkpoints
from bionet_tasks import prototypes
from experiments import build, evaluate, train
from experiments import workdir as workdirs
from experiments.configs import compose
from experiments.configs import copying as copying_config
from experiments.configs import prototypes as prototypes_config
from experiments.figures import confusion_matrix, learning_curve

REPO = pathlib.Path(__file__).parents[2]
CONFIGS = REPO / 'experiments' / 'configs'
HEADS = []  # where git stood before each run
SHARED = ('__init__', 'base', 'compose')  # files that are no experiment
NAMES = sorted(p.stem for p in CONFIGS.glob('*.py') if p.stem not in SHARED)


def _command(compiled: str, module: str, *arguments: str) -> list[str]:
  answer = subprocess.run(
    [sys.executable, '-m', module, *arguments],
    cwd=REPO,
    env={
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': compiled,
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert answer.returncode == 0, answer.stderr
  assert answer.stderr == ''
  return answer.stdout.splitlines()


@pytest.fixture(scope='module')
def started(tmp_path_factory, compiled):
  """The workdir of prototypes:smoke, and what its command printed."""
  workdir = tmp_path_factory.mktemp('runs') / 'prototypes'
  lines = _command(
    compiled,
    'experiments.train',
    '--config=experiments/configs/prototypes.py:smoke',
    f'--workdir={workdir}',
  )
  return workdir, lines


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
  module = importlib.import_module(f'experiments.configs.{name}')
  return module.get_config('smoke')


def _run(config, workdir) -> dict:
  run = build.build(config)
  return train.train(config, run, workdirs.create(workdir, config))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """`name -> workdir` of a config's smoke variant, run once in this process."""
  made = {}

  def workdir(name):
    if name not in made:
      HEADS.append(_head())
      made[name] = tmp_path_factory.mktemp('runs') / name
      _run(_config(name), made[name])
    return made[name]

  return workdir


@pytest.fixture
def no_figures(monkeypatch):
  for figure in (learning_curve, confusion_matrix):
    monkeypatch.setattr(figure, 'draw', lambda *_: None)


def _json(path: pathlib.Path):
  return json.loads(path.read_text())


def _rows(workdir) -> list[dict]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _state(config, workdir):
  """The final state, restored from the run's checkpoint."""
  run = build.build(config)
  template = jax.eval_shape(lambda: train.init(run))
  [path] = (workdir / 'checkpoints').iterdir()
  return checkpoints.load_checkpoint(path, template)


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


def test_the_command_ends_with_the_result(started):
  """Truth: result.json, as printed."""
  workdir, lines = started
  result = _json(workdir / 'result.json')
  assert f'held-out accuracy {result["eval"]["accuracy"]:.4f}' in lines[-2]
  assert (
    f'on training trials {result["train"]["accuracy"]:.4f}'
    f'; {result["wall_seconds"]:.1f} s'
  ) in lines[-2]
  assert str(workdir / 'result.json') in lines[-1]


def test_evaluate_prints_the_held_out_metrics_of_the_result(started, compiled):
  """Truth: result.json; nothing of the run but its folder is known."""
  workdir, _ = started
  lines = _command(compiled, 'experiments.evaluate', f'--workdir={workdir}')
  metrics = _json(workdir / 'result.json')['eval']
  expected = '  '.join(f'{k} {v:.4f}' for k, v in metrics.items())
  assert lines[-1] == f'held_out: {expected}'
  assert lines[0].endswith('checkpoint_13: 13 updates')


def test_list_names_every_config_and_plugin():
  """Truth: the files of experiments/configs and the tables of names."""
  text = train.list_plugins()
  for name in (*NAMES, 'compose'):
    assert f'{name}.py' in text
  assert 'base.py' not in text
  for table in build.BUILTIN.values():
    assert all(name in text for name in table)


################################################################################
# The folder


def test_every_experiment_has_a_smoke_variant():
  """Truth: the files of experiments/configs."""
  assert {'prototypes', 'copying'} <= set(NAMES)
  for name in NAMES:
    assert _config(name).to_dict() != {}


@pytest.mark.parametrize('name', NAMES)
def test_config_json_keeps_what_ran(name, finished):
  """Truth: the config itself, the installed packages, git, JAX's devices."""
  kept = _json(finished(name) / 'config.json')
  config = _config(name)
  assert kept['config'] == json.loads(json.dumps(config.to_dict()))
  assert kept['seed'] == config.seed
  assert kept['versions']['python'] == sys.version.split()[0]
  for package in ('jax', 'dm-haiku', 'optax', 'numpy'):
    assert kept['versions'][package] == metadata.version(package)
  assert kept['device'] == {
    'kind': jax.devices()[0].device_kind,
    'count': len(jax.devices()),
  }
  # Someone may commit while the tests run.
  assert kept['git_revision'] in {*HEADS, _head()}


@pytest.mark.parametrize('name', NAMES)
def test_metrics_stand_at_every_border(name, finished):
  """Truth: the multiples of log_every and eval_every, and the last update."""
  config = _config(name)
  rows = _rows(finished(name))
  last = build.build(config).num_steps
  borders = {
    n
    for n in range(1, last + 1)
    if n % config.log_every == 0 or n % config.eval_every == 0 or n == last
  }
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
    assert 'loss' in scalars
    assert all(math.isfinite(value) for value in scalars.values())


@pytest.mark.parametrize('name', NAMES)
def test_result_is_the_last_word(name, finished):
  """Truth: the last held-out row; the checkpoint scored on training trials."""
  workdir, config = finished(name), _config(name)
  run = build.build(config)
  result = _json(workdir / 'result.json')
  assert list(result) == ['steps', 'wall_seconds', 'train', 'eval']
  assert result['steps'] == run.num_steps
  assert result['wall_seconds'] > 0
  held_out = [row for row in _rows(workdir) if row['split'] == 'eval'][-1]
  assert held_out == {
    'step': run.num_steps,
    'split': 'eval',
    **result['eval'],
  }
  state = _state(config, workdir)
  assert int(state.step) == run.num_steps
  fitted, _, _ = evaluate.score(
    run.learner,
    state,
    run.task,
    evaluate.on_training_trials(run.task),
    run.keys.data,
    run.keys.noise,
  )
  assert result['train'] == fitted


@pytest.mark.parametrize('name', NAMES)
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


@pytest.mark.parametrize('name', NAMES)
def test_figures_are_drawn(name, finished):
  """Truth: the PNG format's signature, header and end; a picture is no dot."""
  figures = finished(name) / 'figures'
  for figure in ('learning_curve.png', 'confusion_matrix.png'):
    content = (figures / figure).read_bytes()
    assert content[:8] == b'\x89PNG\r\n\x1a\n'
    width, height = struct.unpack('>II', content[16:24])
    assert width >= 600 and height >= 400
    assert content[-8:-4] == b'IEND'
    assert len(content) > 10_000


def test_a_folder_that_holds_a_run_is_refused(finished):
  """Truth: every file of the run stands as it stood."""
  workdir = finished('copying')
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  with pytest.raises(FileExistsError, match='holds a finished run'):
    workdirs.create(workdir, _config('copying'))
  assert {p: p.stat().st_mtime_ns for p in workdir.rglob('*')} == before


def test_the_count_of_parameters_is_that_of_a_gru(finished):
  """Truth: three gates of inputs 10, state 8 and bias; a readout to 10."""
  state = _state(_config('copying'), finished('copying'))
  assert build.count(state.params) == 3 * (10 * 8 + 8 * 8 + 8) + (8 * 10 + 10)
  assert build.count(state.constants) == 0


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
  _, metrics = train.advance_to(
    length, 0, train.init(run), train.make_advance(run), run
  )
  first = _rows(finished(name))[0]
  assert first['step'] == length
  assert metrics['loss'] != first['loss']


@pytest.mark.parametrize(
  'name', ['prototypes', pytest.param('copying', marks=pytest.mark.slow)]
)
def test_how_updates_are_cut_changes_nothing(name, monkeypatch):
  """Truth: bitwise the state, and the mean metrics, of one range of 6 updates.

  Cut where a log line stands after every 2, where memory holds 4 updates, and
  where it holds next to nothing.
  """
  run = build.build(_config(name))
  advance = train.make_advance(run)
  lengths = []

  def noted(state, first, count):
    lengths.append(count)
    return advance(state, first, count)

  def trained(*borders):
    state, step = train.init(run), 0
    for border in borders:
      state, metrics = train.advance_to(border, step, state, noted, run)
      step = border
    return state, metrics

  whole, mean = trained(6)
  assert _bits(trained(2, 4, 6)[0]) == _bits(whole)
  trials = run.task.sample(run.keys.data, jnp.arange(run.batch_size))
  size = sum(x.nbytes for x in jax.tree.leaves(trials))
  for room, cut in ((4 * size, [4, 2]), (1, [1] * 6)):
    monkeypatch.setattr(train, '_RANGE_BYTES', room)
    lengths.clear()
    state, metrics = trained(6)
    assert lengths == cut
    assert _bits(state) == _bits(whole)
    for key, value in mean.items():
      np.testing.assert_allclose(metrics[key], value, rtol=1e-5)


def test_where_log_lines_stand_changes_nothing(finished, tmp_path, no_figures):
  """Truth: bitwise the parameters of the run that logged at other updates."""
  config = _config('prototypes')
  config.log_every, config.eval_every = 2, 7
  _run(config, tmp_path)
  ours = _state(config, tmp_path)
  theirs = _state(_config('prototypes'), finished('prototypes'))
  assert _bits(ours) == _bits(theirs)


@pytest.mark.parametrize('name', ['copying', 'prototypes'])
def test_a_prediction_reads_no_label(name):
  """Truth: bitwise the outputs under the labels of other trials."""
  run = build.build(_config(name))
  state = train.init(run)
  state, _ = train.make_advance(run)(state, jnp.int32(0), 2)
  truthful = run.task.evaluations['held_out']

  def shuffled(key, index):
    trials = truthful.sample(key, index)
    targets = jnp.roll(trials.targets, 1, axis=1)
    return dataclasses.replace(trials, targets=targets)

  def score(evaluation):
    return evaluate.score(
      run.learner,
      state,
      run.task,
      evaluation,
      run.keys.held_out,
      run.keys.held_out_noise,
    )

  metrics, outputs, trials = score(truthful)
  other_metrics, other_outputs, other_trials = score(
    truthful._replace(sample=shuffled)
  )
  assert np.any(np.asarray(trials.targets) != other_trials.targets)
  assert _bits(outputs) == _bits(other_outputs)
  assert metrics['loss'] != other_metrics['loss']


def test_chunks_of_an_evaluation_change_nothing(monkeypatch):
  """Truth: one prediction of all 20 trials at once, measured by hand."""
  run = build.build(_config('copying'))
  state = train.init(run)
  held_out = run.task.evaluations['held_out']
  monkeypatch.setattr(evaluate, '_MAX_CHUNK', 7)  # 7 + 7 + 6, filled up
  metrics, outputs, trials = evaluate.score(
    run.learner,
    state,
    run.task,
    held_out,
    run.keys.held_out,
    run.keys.held_out_noise,
  )
  whole = run.learner.predict(state, run.keys.held_out_noise, trials)
  whole = np.asarray(whole)
  np.testing.assert_allclose(outputs, whole, rtol=1e-5, atol=1e-6)
  asked = np.asarray(trials.mask) > 0
  hits = np.argmax(whole, axis=-1) == np.asarray(trials.targets)
  assert metrics['accuracy'] == pytest.approx(np.mean(hits[asked]))


@pytest.mark.parametrize('split', ['train', 'eval'])
def test_a_loss_that_is_not_finite_stops_the_run(split, tmp_path, monkeypatch):
  """Truth: the updates, named by hand; no NaN enters a file."""
  config = _config('copying')

  def advance(state, first, count):
    found = first == 3 and split == 'train'
    return state, {'loss': math.nan if found else 1.0}

  def score(state):
    return {'loss': 1.0 if split == 'train' else math.inf}, None, None

  monkeypatch.setattr(train, 'make_advance', lambda _: advance)
  monkeypatch.setattr(evaluate, 'make_score', lambda *_: score)
  where = {'train': 'updates 3 to 4', 'eval': 'held out after 3'}[split]
  with pytest.raises(FloatingPointError, match=f'^{where}: a metric is not'):
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
  with pytest.raises(FloatingPointError, match='a metric is not finite'):
    _run(config, tmp_path)
  assert not (tmp_path / 'result.json').exists()


def test_schedules_and_streams_see_the_update_and_the_row():
  """Truth: update s and row b of every trial, counted by hand.

  A task that anneals something reads `index // batch_size`; a stream without
  end continues in row `index % batch_size`, which it returns as the index, so
  that its noise goes on where it stopped. Both through the compiled range.
  """
  run = build.build(_config('prototypes'))
  size, seen = run.batch_size, []

  def sample(key, index, batch_size=None):
    trials = run.task.sample(key, index)
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

  toy = run._replace(
    task=run.task._replace(sample=sample),
    learner=run.learner._replace(update=update),
  )
  jax.block_until_ready(
    train.make_advance(toy)(train.init(run), jnp.int32(3), 4)
  )
  jax.effects_barrier()
  assert len(seen) == 4
  for step, (targets, rows) in enumerate(seen, start=3):
    np.testing.assert_array_equal(targets, np.full(size, step))
    np.testing.assert_array_equal(rows, np.arange(size))


def test_a_run_that_diverges_ends_in_one_line(monkeypatch, capsys):
  """Truth: the words of the error; status 1, as it is no bad input."""

  def diverge(*_):
    raise FloatingPointError('updates 0 to 2: a metric is not finite.')

  monkeypatch.setattr(train, 'train', diverge)
  monkeypatch.setattr(train.build, 'build', lambda _: None)
  monkeypatch.setattr(train.workdirs, 'create', lambda *_: None)
  monkeypatch.setattr(train, '_LIST', mock.Mock(value=False), raising=False)
  monkeypatch.setattr(train, '_WORKDIR', mock.Mock(value='x'), raising=False)
  monkeypatch.setattr(train.flags, 'FLAGS', mock.Mock(config={}))
  with pytest.raises(SystemExit) as end:
    train._main([])
  assert end.value.code == 1
  expected = 'error: updates 0 to 2: a metric is not finite.\n'
  assert capsys.readouterr().err == expected


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
