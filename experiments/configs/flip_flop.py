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
  config = base.gru_config(variant)

  config.task.name = 'flip_flop'
  # Channels.
  config.task.num_bits = 3
  # Steps of a trial.
  config.task.length = 50
  # Probability of a pulse, a channel and step.
  config.task.pulse_rate = 0.1
  # Fresh trials to be judged by.
  config.task.num_held_out = 500
  return base.apply_variant(config, variant, _VARIANTS)


_VARIANTS = base.gru_variants(
  smoke={
    'task.length': 6,
    'task.num_held_out': 20,
  }
)
