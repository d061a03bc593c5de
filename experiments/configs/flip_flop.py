# SPDX-License-Identifier: Apache-2.0
"""Three flip-flops: hold the last pulse of each channel.

  python -m experiments.train --config=experiments/configs/flip_flop.py \
    --workdir=runs/flip_flop

Held-out squared error (500 trials; hold nothing 1, ceiling 0), seeds 0, 1, 2,
as the variants stand:

  bptt    .0005 .0006 .0006
  d_rtrl  .0176  (seed 0)
  e_prop  .0569  (seed 0)

Ten to thirty CPU seconds a run.

Variants:
  bptt    backpropagation through time on hk.GRU(64) (the default).
  d_rtrl  D-RTRL in windows of 10, its GRU's update gate nearly closed at first.
  e_prop  the same traces, errors coming back through fixed random weights.
  smoke   a small cell for a few updates, to see that everything runs.
"""

from ml_collections import config_dict

from experiments.configs import base


def get_config(variant: str = 'bptt') -> config_dict.ConfigDict:
  """The config of a variant."""
  config = base.base_config()
  config.batch_size = 64
  config.num_steps = 500
  config.log_every = 50
  config.eval_every = 100

  config.task.name = 'flip_flop'
  # Channels.
  config.task.num_bits = 3
  # Steps of a trial.
  config.task.length = 50
  # Probability of a pulse, a channel and step.
  config.task.pulse_rate = 0.1
  # Fresh trials to be judged by.
  config.task.num_held_out = 500

  # The cell: any of `experiments.train --list`.
  config.network.name = 'gru'
  # Hidden units.
  config.network.hidden = 64

  online = variant in ('d_rtrl', 'e_prop')
  base.choose_rule(config, variant if online else 'bptt')

  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-2
  config.optimizer.clip_norm = 1.0
  return base.apply_variant(config, variant, _VARIANTS)


# Credit by traces goes as far as a unit remembers, so that a GRU starts with
# update gates that are nearly closed.
_ONLINE = {'network.update_bias': -2.0, 'optimizer.schedule': 'cosine'}

_VARIANTS = {
  'bptt': {},
  'd_rtrl': _ONLINE,
  'e_prop': _ONLINE,
  'smoke': {
    'num_steps': 6,
    'batch_size': 8,
    'task.length': 6,
    'task.num_held_out': 20,
    'network.hidden': 8,
    'log_every': 3,
    'eval_every': 3,
  },
}
