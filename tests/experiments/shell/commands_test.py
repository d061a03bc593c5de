# SPDX-License-Identifier: Apache-2.0
"""The commands on files, names and paths that are wrong, and on requests.

Truth: the words that a reader of the line needs, written out here by hand. What
is wrong ends in one line with status 2; nothing is written. All cases run as a
user would start them, in forks of one process.
"""

import json
import pathlib

import pytest

from experiments.configs import copying as copying_config
from experiments.runs import factories, optimizer_settings
from experiments.shell import workdirs
from tests.experiments import smoke

COPYING = '--config=experiments/configs/copying.py:smoke'
SEED = '--config.seed=3'  # an override: a config file is read before it
WORKDIR = '--workdir=TMP/run'

# name: the text of a config file
CONFIGS = {
  'divides': 'def get_config(variant=""):\n  return 1 / 0\n',
  'refuses': 'def get_config(variant=""):\n  raise ValueError("no, not so")\n',
  'looks_up': 'def get_config(variant=""):\n  return {}["key"]\n',
  'misspells': (
    'from experiments.configs import base\n\n\n'
    'def get_config():\n'
    '  config = base.base_config()\n'
    '  config.optimzer.name = "sgd"\n'
    '  return config\n'
  ),
  'unparsed': 'def get_config(:\n',
  'unnamed': 'def get_config():\n  return nothing_of_this_name\n',
  'unimported': 'import not_there_at_all\n',
  'empty': 'def get_config(variant=""):\n  pass\n',
  'bare': 'x = 3\n',
}

# name: (arguments of train beside --workdir, words that the line must contain)
TRAIN = {
  'a file that is not there': (
    ['--config=missing.py', SEED],
    ["--config=missing.py: there is no file 'missing.py'"],
  ),
  'a file of nearly that name': (
    ['--config=experiments/configs/copyin.py', SEED],
    ["configs/copying.py'?"],
  ),
  'a folder': (
    ['--config=experiments/configs', SEED],
    ['--config=', 'is a folder; name a file in it'],
  ),
  'a file that divides by zero': (
    ['--config=TMP/divides.py', SEED],
    ['--config=TMP/divides.py, line 2: ZeroDivisionError: division by zero'],
  ),
  'the same without an override': (
    ['--config=TMP/divides.py'],
    ['--config=TMP/divides.py, line 2: ZeroDivisionError: division by zero'],
  ),
  'a file that refuses': (
    ['--config=TMP/refuses.py:variant', SEED],
    ['error: --config=TMP/refuses.py:variant: no, not so\n'],
  ),
  'a file that looks up what is not there': (
    ['--config=TMP/looks_up.py', SEED],
    ["--config=TMP/looks_up.py, line 2: KeyError: there is no key 'key'."],
  ),
  'a file that misspells a section': (
    ['--config=TMP/misspells.py', SEED],
    ["line 6: AttributeError: the config has no key 'optimzer'", 'optimizer'],
  ),
  'a file that is no Python': (
    ['--config=TMP/unparsed.py', SEED],
    ['--config=TMP/unparsed.py: invalid syntax', 'line 1'],
  ),
  'a file with an unknown name': (
    ['--config=TMP/unnamed.py', SEED],
    ["line 2: NameError: name 'nothing_of_this_name' is not defined"],
  ),
  'a file that imports what is not there': (
    ['--config=TMP/unimported.py', SEED],
    ["line 1: ModuleNotFoundError: No module named 'not_there_at_all'"],
  ),
  'a file that makes no config': (
    ['--config=TMP/empty.py', SEED],
    ['get_config returned a NoneType; it must return a', 'ConfigDict'],
  ),
  'a file without get_config': (
    ['--config=TMP/bare.py', SEED],
    ['--config=TMP/bare.py: the file must have a get_config(variant)'],
  ),
  'a variant where there are none': (
    ['--config=TMP/misspells.py:smoke', SEED],
    ['misspells.py:smoke: get_config() takes 0 positional arguments'],
  ),
  'an unknown variant': (
    ['--config=experiments/configs/copying.py:smok', SEED],
    ["no variant 'smok'", "Did you mean 'smoke'?"],
  ),
  'an unknown variant of compose': (
    ['--config=experiments/configs/compose.py:copying,gruu,bptt', SEED],
    ["network.name='gruu': no network named 'gruu'", "'gru'?"],
  ),
  'two configs': (
    [COPYING, '--config=other.py'],
    ['--config=other.py: --config is ', 'copying.py:smoke already'],
  ),
  'a config without a value': (['--config='], ['must name a file']),
  'a config at the end of the line': (['--config'], ['must name a file']),
  'an override before the config': (
    ['--config.seed=3', COPYING],
    ['--config.seed=3 stands before --config=FILE'],
  ),
  'a config of another machine': (
    ['--config=gs://bucket/config.py', SEED],
    ['--config=gs://bucket/config.py: must be a path on this machine'],
  ),
  'a key with no near one': (
    [COPYING, '--config.zzz=3'],
    ["config has no key 'zzz'.", 'There are: batch_size, checkpoint_every,'],
  ),
  'a key of a section with no near one': (
    [COPYING, '--config.restarts.zzz=3'],
    [
      "config.restarts has no key 'zzz'.",
      'There are: active, count, evaluations, num_trials, validate_every.',
    ],
  ),
  'a key of an empty section': (
    [COPYING, '--config.stages.b_few.num_updates=3'],
    ["config.stages has no key 'b_few'. There is none."],
  ),
  'a section that is none': (
    [COPYING, '--config.seed.x=3'],
    ['seed'],
  ),
  'an optimizer that searches along a line': (
    [COPYING, '--config.optimizer.name=lbfgs'],
    ["error: optimizer.name='lbfgs': its line search needs", 'There are: '],
  ),
  'an optimizer that needs the loss': (
    [COPYING, '--config.optimizer.name=polyak_sgd'],
    ["optimizer.name='polyak_sgd': its update needs the value of the loss"],
  ),
  'an optimizer judged elsewhere': (
    [COPYING, '--config.optimizer.name=schedule_free_adamw'],
    ["optimizer.name='schedule_free_adamw': it is judged at other"],
  ),
  'an optimizer of another name': (
    [COPYING, '--config.optimizer.name', 'rmspro'],
    ["optimizer.name='rmspro': ", "Did you mean 'rmsprop'?"],
  ),
  'no optimizer': (
    [COPYING, '--config.optimizer.name='],
    ["optimizer.name='': optax has no such optimizer. There are: "],
  ),
  'a setting of another optimizer': (
    [COPYING, '--config.optimizer.name=sgd', '--config.optimizer.b2=.9'],
    ["config.optimizer has no key 'b2'.", 'momentum, name, nesterov'],
  ),
  "a setting of the config's own optimizer, after another": (
    [
      '--config=experiments/configs/cell_fate.py:gradient_smoke',
      '--config.optimizer.name=sgd',
      '--config.optimizer.b2=.9',
    ],
    ["config.optimizer has no key 'b2'."],
  ),
  'a word for a number of an optimizer': (
    [COPYING, '--config.optimizer.b1=many'],
    ['--config.optimizer.b1=many', 'float'],
  ),
  'a type that is none': (
    [COPYING, '--config.optimizer.mu_dtype=bfloat17'],
    ["optimizer.mu_dtype='bfloat17': must be a type such as 'bfloat16'"],
  ),
  'the rate of a module that is not there': (
    [COPYING, '--config.optimizer.rate_factors.grru=.1'],
    ['optimizer.rate_factors.grru=0.1: ', "'gru'?", 'gru, linear'],
  ),
  'a schedule of a constant rate': (
    [
      COPYING,
      '--config.optimizer.name=rprop',
      '--config.optimizer.schedule=linear',
    ],
    ["optimizer.schedule='linear', ", "'rprop' has one rate"],
  ),
  'parameters of another machine': (
    [COPYING, '--config.init_from=s3://bucket/run'],
    ['init_from=s3://bucket/run: must be a path on this machine'],
  ),
  'parameters of nobody': (
    [COPYING, '--config.init_from=~nobody_at_all/run'],
    ["init_from=~nobody_at_all/run: no home folder of '~nobody_at_all'"],
  ),
}

# name: (module and all its arguments, words that the line must contain)
OTHERS = {
  'a workdir in a bucket': (
    ['experiments.train', COPYING, '--workdir=gs://bucket/a'],
    ['--workdir=gs://bucket/a: must be a path on this machine'],
  ),
  'a workdir by its address': (
    ['experiments.train', COPYING, '--workdir=file:///tmp/a'],
    ['--workdir=file:///tmp/a: must be a path on this machine'],
  ),
  'a workdir in a variable that is not set': (
    ['experiments.train', COPYING, '--workdir=$NOT_SET_AT_ALL/a'],
    ['the variable $NOT_SET_AT_ALL is not set'],
  ),
  'a workdir of nobody': (
    ['experiments.train', COPYING, '--workdir=~nobody_at_all/a'],
    ["--workdir=~nobody_at_all/a: no home folder of '~nobody_at_all'"],
  ),
  'evaluate in a bucket': (
    ['experiments.evaluate', '--workdir=gs://bucket/a'],
    ['--workdir=gs://bucket/a: must be'],
  ),
  'a figure of a bucket': (
    ['experiments.figures.forecast', '--workdir=gs://bucket/a'],
    ['--workdir=gs://bucket/a: must be'],
  ),
  'another figure of a bucket': (
    ['experiments.figures.psychometric', '--workdir=gs://bucket/a'],
    ['--workdir=gs://bucket/a: must be'],
  ),
  'rows in a bucket': (
    ['experiments.bench', '--suite=copying', '--output=gs://bucket/a.json'],
    ['--output=gs://bucket/a.json: must be'],
  ),
  'compare in a bucket': (
    ['experiments.compare', '--workdirs=gs://b/a', '--output=TMP/c.png'],
    ['--workdirs=gs://b/a: must be'],
  ),
  'compare into a bucket': (
    ['experiments.compare', '--workdirs=TMP/lag_2', '--output=gs://b/c.png'],
    ['--output=gs://b/c.png: must be'],
  ),
  'compare two tasks': (
    [
      'experiments.compare',
      '--workdirs=TMP/lag_2,TMP/lag_3',
      '--output=TMP/c.png',
    ],
    ['TMP/lag_2,TMP/lag_3: must be runs of one task', 'task.time_lag is 2 in'],
  ),
  'compare by what is not measured': (
    [
      'experiments.compare',
      '--workdirs=TMP/lag_2',
      '--output=TMP/c.png',
      '--metric=utility',
    ],
    ['--metric=utility: TMP/lag_2 has no eval row with it', 'accuracy'],
  ),
  'print no config': (
    ['experiments.train', '--print_config'],
    ['--print_config: give --config=FILE, too'],
  ),
  'print a config of what is not installed': (
    [
      'experiments.train',
      COPYING,
      '--config.task.name=copyin',
      '--print_config',
    ],
    ["task.name='copyin': no bionet.tasks named 'copyin'", "'copying'?"],
  ),
  'print a config with a wrong key': (
    ['experiments.train', COPYING, '--config.zzz=3', '--print_config'],
    ["config has no key 'zzz'."],
  ),
  'a probe of a finished run that is not there': (
    ['experiments.train', COPYING, '--workdir=TMP/finished', '--probe=20'],
    ["--probe: '20' is no held-out trial"],
  ),
  'a probe of a finished run without a checkpoint': (
    ['experiments.train', COPYING, '--workdir=TMP/finished', '--probe=0'],
    ['TMP/finished has no checkpoint'],
  ),
  'an optimizer and no config': (
    ['experiments.train', '--config.optimizer.name=sgd'],
    ['stands before --config=FILE'],
  ),
}

WRONG = {
  **{
    name: (['experiments.train', WORKDIR, *args], words)
    for name, (args, words) in TRAIN.items()
  },
  **OTHERS,
}

# name: (module and all its arguments, words that are printed)
ANSWERED = {
  'help of train': (
    ['experiments.train', '--help'],
    ['--config: FILE or FILE:VARIANT', '--config.KEY=VALUE', 'debug'],
  ),
  'what there is': (
    ['experiments.train', '--list'],
    [
      'tasks: adding, ',
      'optimizers: ',
      'copying.py: bptt, quickstart_bptt, ',
      'compose.py: TASK,NETWORK,LEARNER',
      'memory.py: TASK or TASK,RULE',
      'experiments.bench --suite=NAME',
      'evidence: evidence accumulation by spiking units',
    ],
  ),
  'a config, printed': (
    [
      'experiments.train',
      '--config',
      'experiments/configs/copying.py:d_rtrl',
      '--config.optimizer.name',
      'adamw',
      '--config.optimizer.weight_decay=.5',
      '--config.seed',
      '7',
      '--print_config',
    ],
    [
      '# Seed of everything random in the run.\nseed = 7\n',
      '# One of adding, cell_fate, copying,',
      "task.name = 'copying'\n",
      '# Symbols to remember.\ntask.num_symbols = 10\n',
      "optimizer.name = 'adamw'\n",
      'optimizer.weight_decay = 0.5\n',
      'optimizer.mu_dtype = None  # or a str\n',
      "# 'constant', or 'cosine' or 'linear' to 0 at the end of the run.\n",
    ],
  ),
}


def _folder(path: pathlib.Path, **task: int) -> None:
  """What a run of copying has left that was evaluated once."""
  config = copying_config.get_config('smoke')
  config.task.update(task)
  workdirs.create(path, config, factories.make_task(config).spec)
  row = {'step': 3, 'split': 'eval', 'accuracy': 0.5, 'loss': 1.5}
  (path / 'metrics.jsonl').write_text(json.dumps(row) + '\n')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """What stands there before any case runs."""
  folder = tmp_path_factory.mktemp('commands')
  for name, text in CONFIGS.items():
    (folder / f'{name}.py').write_text(text)
  _folder(folder / 'lag_2', time_lag=2)
  _folder(folder / 'lag_3', time_lag=3)
  # As its config is when the command has read it.
  config = copying_config.get_config('smoke')
  optimizer_settings.complete(config, {})
  finished = folder / 'finished'
  workdirs.create(finished, config, factories.make_task(config).spec)
  (finished / 'result.json').write_text('{}\n')
  (finished / '.lock').touch()
  return folder


@pytest.fixture(scope='module')
def start(folder, command):
  """`arguments -> result` of a command that is started in the folder."""
  configs = 'experiments/configs'

  def start(arguments):
    case = [
      argument.replace('TMP', str(folder)).replace(
        configs, str(smoke.REPO / configs)
      )
      for argument in arguments
    ]
    return command(*case, cwd=folder)

  return start


def _content(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b''
    for path in sorted(folder.rglob('*'))
  }


@pytest.mark.parametrize('name', WRONG)
def test_what_is_wrong_ends_in_one_line(name, start, folder):
  """Truth: the words of the table; status 2; one line; nothing written.

  The folder, in which the case also runs, is compared before and after.
  """
  arguments, words = WRONG[name]
  before = _content(folder)
  result = start(arguments)
  error = result['stderr']
  assert error.startswith('error: ') and error.count('\n') == 1, error
  assert error.endswith('\n')
  assert result['status'] == 2
  assert result['stdout'] == ''
  for word in words:
    assert word.replace('TMP', str(folder)) in error, error
  assert _content(folder) == before


@pytest.mark.parametrize('name', ANSWERED)
def test_what_is_asked_is_answered(name, start, folder):
  """Truth: the words of the table; status 0; nothing written."""
  arguments, words = ANSWERED[name]
  before = _content(folder)
  result = start(arguments)
  assert (result['status'], result['stderr']) == (0, '')
  for word in words:
    assert word in result['stdout'], result['stdout']
  assert _content(folder) == before
