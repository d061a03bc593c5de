# SPDX-License-Identifier: Apache-2.0
"""What a user gets wrong: command lines, and the words that answer them.

`TMP` stands for the folder of bad_input_test.py, where third.py lies, too.
"""

COPYING = '--config=experiments/configs/copying.py:smoke'
PROTOTYPES = '--config=experiments/configs/prototypes.py:smoke'
COMPOSE = '--config=experiments/configs/compose.py:'
WORKDIR = '--workdir=TMP/run'

# name: (arguments beside --workdir, words that the line must contain)
TRAIN = {
  'unknown key': (
    [COPYING, '--config.batch_sizes=3'],
    ["no key 'batch_sizes'.", "Did you mean 'batch_size'"],
  ),
  'unknown key in a section': (
    [COPYING, '--config.optimizer.learning_rat=3'],
    ["no key 'learning_rat'.", "Did you mean 'learning_rate'"],
  ),
  'unknown section': (
    [COPYING, '--config.optimiser.clip_norm=3'],
    ["no key 'optimiser'.", "Did you mean 'optimizer'"],
  ),
  'a word for a number': (
    [COPYING, '--config.batch_size=many'],
    ['--config.batch_size=many', 'int'],
  ),
  'a fraction for a whole number': (
    [COPYING, '--config.batch_size=1.5'],
    ['--config.batch_size=1.5', 'int'],
  ),
  'unknown variant': (
    ['--config=experiments/configs/copying.py:smok'],
    ["no variant 'smok'", "Did you mean 'smoke'?", 'bptt, quickstart_bptt'],
  ),
  'unknown config file': (
    ['--config=experiments/configs/copyin.py'],
    ["no file 'experiments/configs/copyin.py'", "configs/copying.py'?"],
  ),
  'config file that is no Python': (
    ['--config=TMP/broken_config.py'],
    ['invalid syntax', 'broken_config.py', 'line 1'],
  ),
  'compose without a learner': (
    [COMPOSE + 'copying,gru'],
    ['compose.py:copying,gru: name a task, a network and a learner'],
  ),
  'p_noise': (
    [PROTOTYPES, '--config.task.p_noise=.6'],
    ['task.p_noise=0.6: must be', 'below 0.5'],
  ),
  'batch larger than the data': (
    [PROTOTYPES, '--config.batch_size=201'],
    ['batch_size=201: must be at most 200', "'prototypes'"],
  ),
  'unknown task': (
    [COPYING, '--config.task.name=copyin'],
    ["bionet.tasks named 'copyin'", "Did you mean 'copying'?", 'prototypes'],
  ),
  'unknown network': (
    [COPYING, '--config.network.name=grru'],
    ["no network named 'grru'", "Did you mean 'gru'?", 'asymmetric'],
  ),
  'unknown learner': (
    [COPYING, '--config.learner.name=bpt'],
    ["bionet.learners named 'bpt'", "'bptt'?", 'local_plasticity'],
  ),
  'unknown optimizer': (
    [COPYING, '--config.optimizer.name=adm'],
    ["optimizer.name='adm': ", "Did you mean 'adam'?", 'adamw, adan'],
  ),
  'unknown task of compose': (
    [COMPOSE + 'copyin,gru,bptt'],
    ["bionet.tasks named 'copyin'", "Did you mean 'copying'?"],
  ),
  'unknown network of compose': (
    [COMPOSE + 'copying,grru,bptt'],
    ["no network named 'grru'", "Did you mean 'gru'?"],
  ),
  'setting of another factory': (
    [COPYING, '--config.learner.name=local_plasticity'],
    ["learner.remat=False: 'local_plasticity' has no such", 'compose.py'],
  ),
  'negative learning rate': (
    [COPYING, '--config.optimizer.learning_rate=-1.0'],
    ['optimizer.learning_rate=-1.0: must be 0 or more'],
  ),
  'learning rate that is no number': (
    [COPYING, '--config.optimizer.learning_rate=nan'],
    ['optimizer.learning_rate=nan: must be'],
  ),
  'negative clip': (
    [COPYING, '--config.optimizer.clip_norm=-1.0'],
    ['optimizer.clip_norm=-1.0: must be'],
  ),
  'clip that is no number': (
    [COPYING, '--config.optimizer.clip_norm=nan'],
    ['optimizer.clip_norm=nan: must be'],
  ),
  'unknown schedule': (
    [COPYING, '--config.optimizer.schedule=cosin'],
    ["optimizer.schedule='cosin': must be", 'constant, cosine, linear'],
  ),
  'negative warm-up': (
    [COPYING, '--config.optimizer.warmup=-1'],
    ['optimizer.warmup=-1: must be 0 or more'],
  ),
  'warm-up longer than the run': (
    [COPYING, '--config.optimizer.warmup=7'],
    ['optimizer.warmup=7: must', 'end before the 6 updates of the run do'],
  ),
  'accumulate': (
    [COPYING, '--config.optimizer.accumulate=0'],
    ['optimizer.accumulate=0: must be at least 1'],
  ),
  'accumulate more than all': (
    [COPYING, '--config.optimizer.accumulate=1000'],
    ['optimizer.accumulate is 1000', '6 times', 'nothing be learned'],
  ),
  'accumulate that leaves some': (
    [COPYING, '--config.optimizer.accumulate=4'],
    ['optimizer.accumulate is 4', '6 times', 'last 2', 'must divide'],
  ),
  'clip_norm of no float32': (
    [COPYING, '--config.optimizer.clip_norm=1e-45'],
    ['optimizer.clip_norm=1e-45: must be 1.2e-38 or more', 'counts as 0'],
  ),
  'no trace_dtype': (
    [COPYING.replace('smoke', 'd_rtrl'), '--config.learner.trace_dtype='],
    ["learner.trace_dtype='': ", 'float32, bfloat16'],
  ),
  'trace_dtype of 8 bits': (
    [
      COPYING.replace('smoke', 'd_rtrl'),
      '--config.learner.trace_dtype=float8_e4m3fn',
    ],
    ["learner.trace_dtype='float8_e4m3fn': ", 'float32, bfloat16'],
  ),
  'trace_dtype of 64 bits': (
    [
      COPYING.replace('smoke', 'd_rtrl'),
      '--config.learner.trace_dtype=float64',
    ],
    ["learner.trace_dtype='float64': ", 'JAX_ENABLE_X64=1'],
  ),
  'devices that do not divide the batch': (
    [COPYING, '--config.devices=3'],
    ['batch_size=8: must be a multiple of 3', '6 would do'],
  ),
  'too few devices': (
    [COPYING, '--config.devices=8'],
    [
      'devices=8: must be at most 4',
      'XLA_FLAGS=--xla_force_host_platform_device_count=8',
    ],
  ),
  'no devices': (
    [COPYING, '--config.devices=0'],
    ['devices=0: must be at least 1'],
  ),
  'negative patience': (
    [COPYING, '--config.early_stopping.patience=-1'],
    ['early_stopping.patience=-1: must be 0 or more'],
  ),
  'negative least improvement': (
    [COPYING, '--config.early_stopping.min_delta=-.5'],
    ['early_stopping.min_delta=-0.5: must be 0 or more'],
  ),
  'least improvement that is no number': (
    [COPYING, '--config.early_stopping.min_delta=nan'],
    ['early_stopping.min_delta=nan: must be 0 or more'],
  ),
  'checkpoint_every': (
    [COPYING, '--config.checkpoint_every=-1'],
    ['checkpoint_every=-1: must be 0 (only at the end) or more'],
  ),
  'keep_last': (
    [COPYING, '--config.keep_last=0'],
    ['keep_last=0: must be at least 1'],
  ),
  'keep_best that is no yes or no': (
    [COPYING, '--config.keep_best=perhaps'],
    ['keep_best', 'perhaps'],
  ),
  'precision that is no policy': (
    [COPYING, '--config.precision=bfloat17'],
    ["precision='bfloat17': must be a policy such as", 'compute=bfloat16'],
  ),
  'precision of no known type': (
    [COPYING, '--config.precision=params=float32,compute=float9,output=float9'],
    ["precision='params=float32,compute=float9,", 'must be a policy'],
  ),
  'precision that needs loss scaling': (
    [
      COPYING,
      '--config.precision=params=float32,compute=float16,output=float32',
    ],
    [
      "precision='params=float32,compute=float16,output=float32': must not",
      'loss scaling',
      'bfloat16',
    ],
  ),
  'init_from where nothing is': (
    [COPYING, '--config.init_from=TMP/nothing'],
    ['TMP/nothing holds no run', 'config.json'],
  ),
  'init_from a run without a checkpoint': (
    [COPYING, '--config.init_from=TMP/bare'],
    ['TMP/bare has no checkpoint'],
  ),
  'init_from a run of another shape': (
    [COPYING, '--config.init_from=TMP/narrow'],
    [
      'init_from=TMP/narrow: params gru/b is float32[12]',
      'float32[24] is needed',
    ],
  ),
  'probe of a trial that is not there': (
    [COPYING, '--probe=0,20'],
    ["--probe: '20' is no held-out trial", 'from 0 to 19'],
  ),
  'probe of no trial': (
    [COPYING, '--probe=first'],
    ["--probe: 'first' is no held-out trial", 'from 0 to 19'],
  ),
  'no length': (
    [COPYING, '--config.num_updates=0'],
    ['num_updates', 'num_epochs', 'positive'],
  ),
  'epochs of a task without any': (
    [COPYING, '--config.num_updates=0', '--config.num_epochs=2'],
    ["task 'copying'", 'no epochs', 'num_updates'],
  ),
  'more trials than numbers': (
    [COPYING, '--config.num_updates=1000000000'],
    ['batch_size=8, num_updates=1000000000: ', '2147483647'],
  ),
  'negative length': (
    [PROTOTYPES, '--config.num_updates=-5'],
    ['num_updates=-5, '],
  ),
  'two lengths': (
    [PROTOTYPES, '--config.num_updates=5'],
    ['num_updates=5, num_epochs=1: one', 'the other 0'],
  ),
  'number that is none': (
    [PROTOTYPES, '--config.network.strength_in=nan'],
    ['network.strength_in=nan: must be a finite'],
  ),
  'seed of the task': (
    [PROTOTYPES, '--config.task.seed=-1'],
    ['task.seed=-1: must be', '2**32'],
  ),
  'rule with another tree': (
    [COMPOSE + 'copying,gru,third:wrong_tree'],
    ['tree'],
  ),
  'rule that takes a reserved name': (
    [COMPOSE + 'copying,gru,third:reserved'],
    ["third:reserved' has a parameter 'every'"],
  ),
  'task whose metric is not measured': (
    [COMPOSE + 'third:unmeasured,gru,bptt'],
    ["speaks of the metric 'utility'", "'held_out' gives accuracy, loss"],
  ),
  'task of trials that nothing judges': (
    [COMPOSE + 'third:silent,gru,bptt'],
    ["task 'copying': 2 of 16 trials are judged at no step", 'row 5'],
  ),
  'restarts that are never judged': (
    [COPYING, '--config.restarts.count=2'],
    ['restarts.validate_every=100: must be 5 or less', 'updates 2 to 6'],
  ),
  'setting of a strategy': (
    [COMPOSE + 'copying,gru,evosax', '--config.learner.settings={"std": 1}'],
    ['learner.settings.std=1: must be a setting of CMA_ES', 'std_init'],
  ),
  'log_every': ([COPYING, '--config.log_every=0'], ['log_every=0: must be']),
  'eval_every': ([COPYING, '--config.eval_every=-1'], ['eval_every=-1: must']),
  'batch_size': ([COPYING, '--config.batch_size=0'], ['batch_size=0: must']),
  'batch of no whole groups': (
    [
      COMPOSE + 'cell_fate,tissue,bptt',
      '--config.task.num_groups=2',
      '--config.batch_size=5',
    ],
    ['error: batch_size=5: must be a multiple of'],
  ),
  'every': ([COPYING, '--config.learner.every=-1'], ['learner.every=-1: must']),
  'hidden': (
    [COPYING, '--config.network.hidden=0'],
    ['network.hidden=0: must be at least 1'],
  ),
  'a setting that does not fit the cell': (
    [
      COMPOSE + 'copying,third:projected,e_prop',
      '--config.learner.kappa=.5',
      '--config.learner.window=2',
    ],
    ['error: learner.kappa=0.5: ', 'Set kappa to 0'],
  ),
  'seed beyond 32 bits': (
    [COPYING, '--config.seed=99999999999999999999'],
    ['seed=99999999999999999999: must be', '2**32'],
  ),
  'negative seed': ([COPYING, '--config.seed=-1'], ['seed=-1: must be']),
  'local_plasticity on a cell': (
    [COMPOSE + 'copying,gru,local_plasticity'],
    ['local_plasticity takes a RelaxationNetwork', 'got a Cell'],
  ),
  'bptt on a network': (
    [COMPOSE + 'digits,asymmetric,bptt'],
    ['bptt takes a Cell', 'got a RelaxationNetwork'],
  ),
  'local_plasticity on copying': (
    [COMPOSE + 'copying,asymmetric,local_plasticity'],
    ['static trials (T = 1)', 'T = 30'],
  ),
  'missing --config': ([], ['--config and --workdir are needed']),
  'stray argument': ([COPYING, 'stray'], ["unknown argument 'stray'"]),
  'unknown flag': ([COPYING, '--cofnig=3'], ["flag 'cofnig'", 'config']),
  'override before the config': (
    ['--config.batch_size=3', COPYING],
    ['--config.batch_size=3', 'before'],
  ),
  'layer map without a diagonal': (
    [COMPOSE + 'digits,third:no_diagonal,local_plasticity'],
    ['edge (1, 1) is missing', 'row 1'],
  ),
  'sizes that do not fit': (
    [COMPOSE + 'digits,third:no_fit,local_plasticity'],
    ['edge (1, 0)', '(5,)', '(4,)'],
  ),
  'unknown message filter': (
    [COMPOSE + 'digits,asymmetric,third:misfiltered'],
    ["messages='forwards': must be", "Did you mean 'forward'?"],
  ),
  'credit that is wrong': (
    [COMPOSE + 'copying,miscredited:cell,bptt'],
    ['error: credit: 0.2 is not 0.3'],
  ),
  'credit that is not checked': (  # what comes behind the check is wrong
    [
      COMPOSE + 'copying,miscredited:cell,bptt',
      '--nocheck_credit',
      '--config.init_from=TMP/bare',
    ],
    ['TMP/bare has no checkpoint'],
  ),
  'factory that hides its settings': (
    [COMPOSE + 'copying,third:hiding,bptt'],
    ["'third:hiding'", '**kwargs'],
  ),
  'factory of something else': (
    [COMPOSE + 'copying,third:number,bptt'],
    ["'third:number'", 'int', 'Cell or a RelaxationNetwork'],
  ),
  'message of several lines': (
    [COMPOSE + 'copying,third:talkative,bptt'],
    ['error: one thing and another'],
  ),
  'setting without a default': (
    [COMPOSE + 'copying,third:needy,bptt'],
    ['network.size=None: must be set', "'third:needy'"],
  ),
  'factory that is not there': (
    [COMPOSE + 'copying,third:absent,bptt'],
    ["third has no 'absent'"],
  ),
  'module that is not there': (
    [COMPOSE + 'copying,absent:absent,bptt'],
    ["no module 'absent'"],
  ),
  'module that cannot be imported': (
    [COMPOSE + 'copying,unimportable:gru,bptt'],
    ["No module named 'not_there_at_all'"],
  ),
}

# name: (module and all its arguments, words that the line must contain)
OTHERS = {
  'missing --workdir': (
    ['experiments.train', COPYING],
    ['--config and --workdir are needed'],
  ),
  'empty --workdir': (
    ['experiments.train', COPYING, '--workdir='],
    ['--config and --workdir are needed'],
  ),
  'workdir without a value': (
    ['experiments.train', COPYING, '--workdir'],
    ['--workdir'],
  ),
  'workdir below a file': (
    ['experiments.train', COPYING, '--workdir=TMP/file/run'],
    ['TMP/file/run', 'Not a directory'],
  ),
  'workdir of an unfinished run of another config': (
    ['experiments.train', COPYING, '--workdir=TMP/narrow'],
    [
      '--workdir=TMP/narrow holds a run of another config',
      'network.hidden is 4 there and 8 here.',
      'Choose another folder',
      '--config.init_from=TMP/narrow',
    ],
  ),
  'workdir of a finished run of another config': (
    [
      'experiments.train',
      COPYING,
      '--workdir=TMP/finished',
      '--config.seed=3',
      '--config.network.hidden=5',
      '--config.task.time_lag=1',
    ],
    [
      '--workdir=TMP/finished holds a run of another config',
      'network.hidden is 8 there and 5 here, and 2 more.',
    ],
  ),
  'workdir of a run of another experiment': (
    ['experiments.train', PROTOTYPES, '--workdir=TMP/finished'],
    ['--workdir=TMP/finished holds a run of another config', 'more.'],
  ),
  'workdir that another process runs in': (
    ['experiments.train', COPYING, '--workdir=TMP/busy'],
    ['--workdir=TMP/busy: a process runs there now'],
  ),
  'workdir of a run whose config cannot be read': (
    ['experiments.train', COPYING, '--workdir=TMP/mangled'],
    ['TMP/mangled/config.json'],
  ),
  'only checkpoint is damaged': (
    ['experiments.train', COPYING, '--workdir=TMP/damaged'],
    ['none of the checkpoints [4] in', 'TMP/damaged/checkpoints', 'delete'],
  ),
  'evaluate a damaged checkpoint': (
    ['experiments.evaluate', '--workdir=TMP/damaged'],
    ['none of the checkpoints [4] in', 'TMP/damaged/checkpoints'],
  ),
  'evaluate where no checkpoint is': (
    ['experiments.evaluate', '--workdir=TMP/bare'],
    ['TMP/bare has no checkpoint'],
  ),
  'evaluate the best where none was evaluated': (
    ['experiments.evaluate', '--workdir=TMP/narrow', '--which=best'],
    ['TMP/narrow has no checkpoint that was evaluated'],
  ),
  'evaluate a checkpoint that has no name': (
    ['experiments.evaluate', '--workdir=TMP/narrow', '--which=wrost'],
    ['--which=wrost', 'last|best'],
  ),
  'evaluate with a probe that is not there': (
    ['experiments.evaluate', '--workdir=TMP/narrow', '--probe=20'],
    ["--probe: '20' is no held-out trial", 'from 0 to 19'],
  ),
  'evaluate without a workdir': (['experiments.evaluate'], ['--workdir']),
  'evaluate where nothing is': (
    ['experiments.evaluate', '--workdir=TMP/nothing'],
    ['TMP/nothing holds no run', 'config.json'],
  ),
  'bench without a suite': (['experiments.bench'], ['--suite']),
  'unknown suite': (
    ['experiments.bench', '--suite=copyin'],
    ['--suite=copyin', 'copying'],
  ),
  'seeds that are no numbers': (
    ['experiments.bench', '--suite=copying', '--seeds=a'],
    ['--seeds', "'a'"],
  ),
  'a range of seeds that is none': (
    ['experiments.bench', '--suite=copying', '--seeds=0,1,...,19'],
    ['--seeds', "'...'"],
  ),
  'rows where a folder stands': (
    ['experiments.bench', '--suite=copying', '--output=TMP/finished'],
    ['--output=TMP/finished'],
  ),
  'rows for a folder that is not there': (
    ['experiments.bench', '--suite=copying', '--output=TMP/nothing/rows.json'],
    ['--output=TMP/nothing/rows.json', 'TMP/nothing'],
  ),
}

CASES = {
  **{
    name: (['experiments.train', WORKDIR, *args], words)
    for name, (args, words) in TRAIN.items()
  },
  **OTHERS,
}
