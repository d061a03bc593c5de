# SPDX-License-Identifier: Apache-2.0
"""A run from its command line to its files, as a user sees it.

Truth: the table of files in the spec of a run; counts and borders worked out
here by hand.
"""

import functools
import json
import math
import re
import shutil
import struct
import sys
from importlib import metadata

import jax
import numpy as np
import optax
import pytest

from bionet_tasks.static import prototypes
from experiments import reference
from experiments.configs import cell_fate, memory
from experiments.judge import scoring
from experiments.runs import build, factories, saved, updates
from experiments.shell import workdirs
from tests.experiments import smoke

# The tasks of memory are one table, and one of them runs by default.
DRAWN = [
  name
  if name not in memory.TASKS or name == 'delayed_xor'
  else pytest.param(name, marks=pytest.mark.slow)
  for name in smoke.NAMES
]
# One of every kind, looked at closely; the others run, too.
EXAMPLES = ('cell_fate', 'copying', 'digits', 'prototypes')
FLOATS = {'adding', 'cell_fate', 'flip_flop', 'lorenz'}
CLASSES = set(smoke.NAMES) - FLOATS  # experiments that answer in them
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


@pytest.fixture(scope='module')
def built():
  """`name -> run` of a config's smoke variant, built once."""
  return functools.cache(lambda name: build.build(smoke.config(name)))


@pytest.fixture(scope='module')
def started(once, command):
  """The workdir of prototypes:smoke, and what its command printed."""

  def make(folder):
    result = command(
      'experiments.train',
      '--config=experiments/configs/prototypes.py:smoke',
      f'--workdir={folder / "run"}',
    )
    assert (result['status'], result['stderr']) == (0, '')
    (folder / 'lines.txt').write_text(result['stdout'])

  folder = once('started', make)
  return folder / 'run', (folder / 'lines.txt').read_text().splitlines()


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
  result = smoke.read_json(workdir / 'result.json')
  [line] = [line for line in lines if line.startswith('held-out accuracy')]
  assert f'held-out accuracy {result["eval"]["accuracy"]:.4f}' in line
  assert (
    f'on training trials {result["train"]["accuracy"]:.4f}'
    f'; {result["wall_seconds"]:.1f} s'
  ) in line
  assert lines[-1] == f'wrote {workdir / "result.json"}'


def test_evaluate_prints_the_metrics_of_the_result(started, command):
  """Truth: result.json; nothing of the run but its folder is known."""
  workdir, _ = started
  result = command('experiments.evaluate', f'--workdir={workdir}')
  assert (result['status'], result['stderr']) == (0, '')
  lines = result['stdout'].splitlines()
  scores = smoke.read_json(workdir / 'result.json')['eval']
  assert lines[:2] == [f'{workdir}: 13 updates', 'held_out: 200 trials']
  assert smoke.table(lines) == {k: f'{v:.4f}' for k, v in scores.items()}
  assert f'wrote {workdir / "evaluation.json"}' in lines


def test_list_names_every_config_and_plugin():
  """Truth: the files of experiments/configs and the tables of names."""
  text = reference.installed()
  for name in (*smoke.FILES, 'compose'):
    assert f'{name}.py' in text
  assert 'base.py' not in text
  for table in factories.BUILTIN.values():
    assert all(name in text for name in table)


@pytest.mark.parametrize('name', EXAMPLES)
def test_config_json_keeps_what_ran(name, finished, built):
  """Truth: the config, the task, the installed packages, git, JAX's devices."""
  kept = smoke.read_json(finished(name) / 'config.json')
  config = smoke.config(name)
  assert kept['config'] == json.loads(json.dumps(config.to_dict()))
  assert kept['seed'] == config.seed
  spec = built(name).first.task.spec
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
  assert str(kept['git_revision']) in {before, str(smoke.head())}


@pytest.mark.parametrize('name', EXAMPLES)
def test_metrics_stand_at_every_border(name, finished, built):
  """Truth: the multiples of the three intervals, and the ends of stages."""
  config = smoke.config(name)
  rows = smoke.read_rows(finished(name))
  run = built(name)
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
def test_training_rows_say_how_far_it_goes(name, finished, built):
  """Truth: the rates of the config's schedule, averaged over the row by hand.

  The norms are those of a real step: above zero, and finite. A learner that is
  made of no rule has no optimizer: no norms, and a rate of zero.
  """
  config, workdir = smoke.config(name), finished(name)
  run = built(name)
  if run.first.rule is None:
    trained = [
      row for row in smoke.read_rows(workdir) if row['split'] == 'train'
    ]
    assert [row['learning_rate'] for row in trained] == [0.0] * len(trained)
    assert not [row for row in trained if 'gradient_norm' in row]
    return
  last = run.num_updates
  rates = np.full(last, config.optimizer.learning_rate)
  if config.optimizer.schedule == 'cosine':
    rates *= (1 + np.cos(np.pi * np.arange(last) / last)) / 2
  first = 0
  for row in smoke.read_rows(workdir):
    if row['split'] == 'train':
      mean = np.mean(rates[first : row['step']])
      assert row['learning_rate'] == pytest.approx(mean, rel=1e-5)
      assert 0 < row['gradient_norm'] < math.inf
      assert 0 < row['update_norm'] < math.inf
      first = row['step']


@pytest.mark.parametrize('name', EXAMPLES)
def test_result_is_the_last_word(name, finished, built):
  """Truth: the last held-out row; the checkpoint scored on training trials."""
  workdir, run = finished(name), built(name)
  result = smoke.read_json(workdir / 'result.json')
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
  held_out = [
    row for row in smoke.read_rows(workdir) if row['split'] == 'eval'
  ][-1]
  assert held_out == {
    'step': run.num_updates,
    'split': 'eval',
    **result['eval'],
  }
  state = smoke.final_state(workdir)
  assert int(state.step) == run.num_updates == smoke.saved_steps(workdir)[-1]
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
  written = smoke.read_json(workdir / 'evaluation.json')
  run, state, step = saved.restore(workdir)
  again = scoring.judge(run, state, step, [])
  assert written == {'updates': step, 'evaluations': again.evaluations}
  assert set(written['evaluations']) == set(run.first.task.evaluations)
  for content in written['evaluations'].values():
    for metric, gain in content['gain'].items():
      after, before = content['trained'][metric], content['untrained'][metric]
      assert gain == after - before
  held_out = written['evaluations']['held_out']
  assert held_out['trained'] == smoke.read_json(workdir / 'result.json')['eval']
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
  for row in smoke.read_rows(workdir):
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


@pytest.mark.slow
def test_the_smoke_variant_runs_in_all_its_stages(tmp_path):
  """Truth: 2 updates, 1 and 1; by default without the last stage."""
  config = cell_fate.get_config('smoke')
  assert smoke.run(config, tmp_path / 'run')['updates'] == 4
  assert (tmp_path / 'run' / 'figures' / 'learned_rate.png').exists()


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
  start(
    smoke.config('copying'), workdir
  )  # ends, and not by SystemExit: status 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == f'{workdir} is finished already; nothing to do.'
  accuracy = smoke.read_json(workdir / 'result.json')['eval']['accuracy']
  assert lines[1].startswith(f'held-out accuracy {accuracy:.4f}')
  assert files() == before


def test_a_finished_run_of_another_config_is_refused(
  finished, tmp_path, start, capsys
):
  """Truth: the difference, by hand; every file as it stood."""
  workdir = shutil.copytree(finished('copying'), tmp_path / 'run')
  config = smoke.config('copying')
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
  state = smoke.final_state(finished('copying'))
  assert optax.tree.size(state.params) == 3 * (10 * 8 + 8 * 8 + 8) + (
    8 * 10 + 10
  )
  assert optax.tree.size(state.constants) == 0


def test_a_profile_and_probes_where_asked_for(
  tmp_path, start, capsys, no_figures
):
  """Truth: the second of the ranges 0-2, 2-4, 4-6; the trials in their order.

  Bitwise the rows of a run without either.
  """
  config = smoke.config('copying')
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
  smoke.run(config, tmp_path / 'plain')
  assert not (tmp_path / 'plain' / 'profile').exists()
  assert not (tmp_path / 'plain' / 'probes.npz').exists()
  assert smoke.read_rows(tmp_path / 'plain') == smoke.read_rows(
    tmp_path / 'run'
  )
