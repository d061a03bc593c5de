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
  config = base.base_config()
  config.batch_size = 64
  config.num_steps = 500
  config.log_every = 50
  config.eval_every = 100

  config.task.name = 'delayed_match'
  # Stimuli there are.
  config.task.num_stimuli = 4
  # Silent steps between sample and test, at most.
  config.task.delay = 10
  # And at least: uniform between the two.
  config.task.min_delay = 5
  # Fresh trials to be judged by.
  config.task.num_held_out = 1000

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
    'task.delay': 2,
    'task.min_delay': 1,
    'task.num_held_out': 20,
    'network.hidden': 8,
    'log_every': 3,
    'eval_every': 3,
  },
}
