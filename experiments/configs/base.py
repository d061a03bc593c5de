# SPDX-License-Identifier: Apache-2.0
"""The keys that all runs share, and variants of a config."""

from collections.abc import Mapping

from ml_collections import config_dict

from bionet_core import plugins


def base_config() -> config_dict.ConfigDict:
  """A config with every shared key; experiments fill in the sections."""
  config = config_dict.ConfigDict()
  # Seed of everything random in the run.
  config.seed = 0
  # Devices that share each batch, on this machine; any number resumes a run.
  config.devices = 1
  # Trials per update, over all devices.
  config.batch_size = 16
  # Updates of the run; 0: as many as num_epochs takes. One of them is 0.
  config.num_updates = 0
  # Passes over a finite training set.
  config.num_epochs = 0
  # Updates between two log lines; the metrics logged are their mean.
  config.log_every = 100
  # Updates between two evaluations on held-out trials.
  config.eval_every = 500
  # Updates between two checkpoints; 0: only at the end.
  config.checkpoint_every = 500
  # How many of the latest checkpoints stay.
  config.keep_last = 2
  # Keep the checkpoint of the best held-out evaluation, too. What is chosen by
  # held-out trials scores too well on them: report it on others.
  config.keep_best = False
  config.early_stopping = config_dict.ConfigDict()
  # Evaluations without improvement after which to stop; 0: never.
  config.early_stopping.patience = 0
  # The least change of the task's main metric that counts as improvement.
  config.early_stopping.min_delta = 0.0
  # Folder of a run whose parameters to start from; '': from the seed.
  config.init_from = ''
  # jmp policy of the dynamics, e.g. 'params=float32,compute=bfloat16,
  # output=float32'; '': as it comes.
  config.precision = ''
  # Products of float32 on an accelerator: 'highest' in full, 'high' and
  # 'default' in fewer bits and less time. A CPU has but the first.
  config.matmul_precision = 'highest'
  # Choose programs of an accelerator that give the same bits at every start.
  config.deterministic = True
  # Stages after the first, in the order of their names: what each one changes
  # of the stage before, e.g. `config.stages.b_fine.task.dt = 0.01`.
  config.stages = config_dict.ConfigDict()
  # The task: its name, and the arguments of its factory.
  config.task = config_dict.ConfigDict()
  # The cell or relaxation network: its name, and its factory's arguments.
  config.network = config_dict.ConfigDict()
  # The learner: its name, and its factory's arguments.
  config.learner = config_dict.ConfigDict()
  # Change the weights at each border of this many steps; 0: at the trials' end.
  config.learner.every = 0
  # Keep states and traces from batch to batch (streams without end).
  config.learner.carry = False
  config.restarts = config_dict.ConfigDict()
  # Independent copies of the learner, of which the best by validation is kept.
  config.restarts.count = 1
  # How many of them go on: the best at the last validation; 0: all.
  config.restarts.active = 0
  # Updates between two validations. What is learned after the last one is not
  # picked; a run whose last stage has none is refused.
  config.restarts.validate_every = 100
  # Validation draws, fresh ones of these evaluations; the worst counts.
  config.restarts.num_trials = 256
  config.restarts.evaluations = ('held_out',)
  config.optimizer = config_dict.ConfigDict()
  # Any optimizer of optax whose update needs gradients and parameters alone;
  # its own settings, by their names in optax, stand beside the name.
  config.optimizer.name = 'adam'
  # Step size.
  config.optimizer.learning_rate = 1e-3
  # 'constant', or 'cosine' or 'linear' to 0 at the end of the run.
  config.optimizer.schedule = 'constant'
  # Updates in which the rate first rises from 0.
  config.optimizer.warmup = 0
  # Updates whose mean gradient makes one step of the optimizer; a divisor of
  # the updates (with learner.every: of the windows of all updates).
  config.optimizer.accumulate = 1
  # Largest norm of the whole gradient; 0: not clipped.
  config.optimizer.clip_norm = 0.0
  # Factors on the learning rate by module, e.g. {'gru': 0.1}; 0 freezes.
  config.optimizer.rate_factors = config_dict.ConfigDict()
  return config


def gru_config(variant: str) -> config_dict.ConfigDict:
  """A GRU of 64 units that learns by a rule: what the tasks of memory share.

  Args:
    variant: the rule that it names, as in `choose_rule`; else 'bptt'.
  """
  config = base_config()
  config.batch_size = 64
  config.num_updates = 500
  config.log_every = 50
  config.eval_every = 100
  # The cell: any of `experiments.train --list`.
  config.network.name = 'gru'
  # Hidden units.
  config.network.hidden = 64
  choose_rule(config, variant if variant in ('d_rtrl', 'e_prop') else 'bptt')
  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-2
  config.optimizer.clip_norm = 1.0
  return config


def gru_variants(
  smoke: Mapping[str, object],
) -> dict[str, dict[str, object]]:
  """Variants of `gru_config`: each rule by its name, and 'smoke'.

  Args:
    smoke: what makes the task small.
  """
  # Credit by traces goes as far as a unit remembers, so that a GRU starts with
  # update gates that are nearly closed.
  online = {'network.update_bias': -2.0, 'optimizer.schedule': 'cosine'}
  return {
    'bptt': {},
    'd_rtrl': online,
    'e_prop': online,
    'smoke': {
      'num_updates': 6,
      'batch_size': 8,
      'network.hidden': 8,
      'log_every': 3,
      'eval_every': 3,
      **smoke,
    },
  }


def choose_rule(config: config_dict.ConfigDict, rule: str) -> None:
  """Fills in the learner's section for a rule that experiments compare.

  Args:
    config: the config; its learner's own keys are set.
    rule: 'bptt' or any rule of its family that a config takes.
  """
  config.learner.name = rule
  if rule == 'bptt':
    # Recompute each step in the backward pass: less memory, more time.
    config.learner.remat = False
  if rule == 'snap':
    # Steps that influence may travel; the number of units makes it rtrl.
    config.learner.order = 1
  if rule == 'truncated_bptt':
    # Steps that credit may travel back; 1 drops all traces.
    config.learner.window = 1
  if rule in ('d_rtrl', 'e_prop', 'rflo', 'three_factor'):
    # Steps between updates of the traces; 1 is fully online.
    config.learner.window = 10
    # What traces are stored in: 'float32', or 'bfloat16' for half the memory.
    config.learner.trace_dtype = 'float32'
  if rule == 'd_rtrl':
    # Inside a window: 'cut', the rule itself, or 'exact', full reverse mode.
    config.learner.within = 'cut'
    # 'forward', 'reverse' (no traces, memory O(T)) or 'auto'.
    config.learner.execution = 'forward'
  if rule == 'pp_prop':
    # Factor per step of the filters of pre and post.
    config.learner.decay = 0.9
  if rule in ('e_prop', 'rflo'):
    # Feedback weights: 'symmetric', 'random' or 'adaptive'.
    config.learner.feedback = 'random'
    # Rate and weight decay of adaptive feedback, per update.
    config.learner.adaptation_rate = 1e-2
    config.learner.adaptation_decay = 1e-3
  if rule == 'e_prop':
    # Low-pass factor of the traces per step; 0: the readout does not leak.
    config.learner.kappa = 0.0
  if rule == 'rflo':
    # Time constant of the traces' leak, in steps.
    config.learner.tau = 10.0
  if rule == 'three_factor':
    # 'surprise' (the loss less its mean) or 'loss'.
    config.learner.modulator = 'surprise'
    # Rate of the running mean of the loss.
    config.learner.expectation_rate = 0.1


def apply_variant(
  config: config_dict.ConfigDict,
  variant: str,
  variants: Mapping[str, Mapping[str, object]],
) -> config_dict.ConfigDict:
  """Overrides of a named variant, by dotted path, on top of a config.

  Args:
    config: the reference configuration: the variant ''.
    variant: the name after the colon of `--config=FILE:VARIANT`.
    variants: `{name: {dotted path: value}}`.

  Raises:
    KeyError: for an unknown variant.
  """
  if not variant:
    return config
  if variant not in variants:
    hint = plugins.near(variant, variants)
    raise KeyError(
      f'no variant {variant!r} of this config.{hint} '
      f'There are: {", ".join(variants)}.'
    )
  for path, value in variants[variant].items():
    config.update_from_flattened_dict({path: value})
  return config
