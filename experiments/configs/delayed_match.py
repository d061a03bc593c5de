# SPDX-License-Identifier: Apache-2.0
"""Delayed match to sample: the stimulus of before, or another?

  python -m experiments.train --config=experiments/configs/delayed_match.py \
    --workdir=runs/delayed_match

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

  config.task.name = 'delayed_match'
  # Stimuli there are.
  config.task.num_stimuli = 4
  # Silent steps between sample and test, at most.
  config.task.delay = 10
  # And at least: uniform between the two.
  config.task.min_delay = 5
  # Fresh trials to be judged by.
  config.task.num_held_out = 1000
  return base.apply_variant(config, variant, _VARIANTS)


_VARIANTS = base.gru_variants(
  smoke={
    'task.delay': 2,
    'task.min_delay': 1,
    'task.num_held_out': 20,
  }
)
