# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits, read row by row.

  python -m experiments.train --workdir=runs/sequential_digits \
    --config=experiments/configs/sequential_digits.py

Fifteen CPU seconds. Test accuracy (500 images, splits 0-2): .983. By pixels
(`--config.task.by=pixels`) a trial has 65 steps; that was not measured.

Variants:
  bptt    backpropagation through time on hk.GRU(128) (the default).
  smoke   a small cell for a few updates, to see that everything runs.
"""

from ml_collections import config_dict

from experiments.configs import base


def get_config(variant: str = 'bptt') -> config_dict.ConfigDict:
  """The config of a variant."""
  config = base.base_config()
  config.batch_size = 32
  config.num_epochs = 40
  config.log_every = 50
  config.eval_every = 410

  config.task.name = 'sequential_digits'
  # 'rows' (8 steps of 8 pixels) or 'pixels' (64 steps of one).
  config.task.by = 'rows'
  # Seed of the split into 1,297 training and 500 test images.
  config.task.split = config.get_oneway_ref('seed')

  # The cell: any of `experiments.train --list`.
  config.network.name = 'gru'
  # Hidden units.
  config.network.hidden = 128

  config.learner.name = 'bptt'
  # Recompute each step in the backward pass: less memory, more time.
  config.learner.remat = False

  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 3e-3
  config.optimizer.schedule = 'cosine'
  config.optimizer.clip_norm = 1.0
  return base.apply_variant(config, variant, _VARIANTS)


_VARIANTS = {
  'bptt': {},
  'smoke': {
    'num_steps': 6,
    'batch_size': 8,
    'num_epochs': 0,
    'network.hidden': 8,
    'log_every': 2,
    'eval_every': 3,
  },
}
