# SPDX-License-Identifier: Apache-2.0
"""Adding two marked numbers in a stream of 50.

  python -m experiments.train --config=experiments/configs/adding.py \
    --workdir=runs/adding

Twenty CPU seconds. Held-out squared error (1,000 trials, seed 10): .0001.

Variants:
  bptt    backpropagation through time on hk.GRU(64) (the default).
  smoke   a small cell for a few updates, to see that everything runs.
"""

from ml_collections import config_dict

from experiments.configs import base


def get_config(variant: str = 'bptt') -> config_dict.ConfigDict:
  """The config of a variant."""
  config = base.base_config()
  config.batch_size = 64
  config.num_steps = 1000
  config.log_every = 50
  config.eval_every = 100

  config.task.name = 'adding'
  # Numbers in the stream, at most.
  config.task.length = 50
  # And at least: uniform between the two.
  config.task.min_length = 25
  # Fresh trials to be judged by.
  config.task.num_held_out = 1000

  # The cell: any of `experiments.train --list`.
  config.network.name = 'gru'
  # Hidden units.
  config.network.hidden = 64

  config.learner.name = 'bptt'
  # Recompute each step in the backward pass: less memory, more time.
  config.learner.remat = False

  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-2
  config.optimizer.clip_norm = 1.0
  return base.apply_variant(config, variant, _VARIANTS)


_VARIANTS = {
  'bptt': {},
  'smoke': {
    'num_steps': 6,
    'batch_size': 8,
    'task.length': 4,
    'task.min_length': 3,
    'task.num_held_out': 20,
    'network.hidden': 8,
    'log_every': 2,
    'eval_every': 3,
  },
}
