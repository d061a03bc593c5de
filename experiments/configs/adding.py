# SPDX-License-Identifier: Apache-2.0
"""Adding two marked numbers in a stream of 50.

  python -m experiments.train --config=experiments/configs/adding.py \
    --workdir=runs/adding

Held-out squared error (1,000 trials; chance 1/6, ceiling 0), seeds 0, 1, 2, as
the variants stand:

  bptt    .0003 .0001 .0001
  d_rtrl  .0004 .0003  (seeds 0, 1)
  e_prop  .0010 .0044  (seeds 0, 1)

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
  config.num_steps = 1000

  config.task.name = 'adding'
  # Numbers in the stream, at most.
  config.task.length = 50
  # And at least: uniform between the two.
  config.task.min_length = 25
  # Fresh trials to be judged by.
  config.task.num_held_out = 1000
  return base.apply_variant(config, variant, _VARIANTS)


_VARIANTS = base.gru_variants(
  smoke={
    'task.length': 4,
    'task.min_length': 3,
    'task.num_held_out': 20,
  }
)
