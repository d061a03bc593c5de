# SPDX-License-Identifier: Apache-2.0
"""The parity of bits that come one by one.

  python -m experiments.train --config=experiments/configs/temporal_parity.py \
    --workdir=runs/temporal_parity

Held-out accuracy (1,000 trials; chance .5, ceiling 1), seeds 0, 1, 2, as the
variants stand:

  bptt    1.000 1.000 1.000
  d_rtrl  1.000  (seed 0)
  e_prop  1.000  (seed 0)

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

  config.task.name = 'temporal_parity'
  # Bits, at most.
  config.task.num_bits = 6
  # And at least: uniform between the two.
  config.task.min_bits = 2
  # Fresh trials to be judged by.
  config.task.num_held_out = 1000
  return base.apply_variant(config, variant, _VARIANTS)


_VARIANTS = base.gru_variants(
  smoke={
    'task.num_bits': 3,
    'task.min_bits': 1,
    'task.num_held_out': 20,
  }
)
