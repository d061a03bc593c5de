# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits, read row by row.

  python -m experiments.train --workdir=runs/sequential_digits \
    --config=experiments/configs/sequential_digits.py

Fifteen CPU seconds. Test accuracy (500 images, splits 0-2); chance .10:

  variant  learner                                        split 0  1     2
  bptt     backpropagation through time on hk.GRU(128)    .986     .978  .986
  d_rtrl   the same forward in time, a step at a time     .974     .978  .974
           (no credit beyond a step: .943; frozen cell: .85, means)

  smoke    a small cell for a few updates, to see that everything runs.

By pixels (`--config.task.by=pixels`) a trial has 65 steps; that was not
measured.
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

  if variant == 'd_rtrl':
    config.learner.name = 'd_rtrl'
    # Steps between updates of the traces; 1 is fully online.
    config.learner.window = 1
    # Inside a window: 'cut', the rule itself, or 'exact', full reverse mode.
    config.learner.within = 'cut'
  else:
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
  'd_rtrl': {},
  'smoke': {
    'num_updates': 6,
    'batch_size': 8,
    'num_epochs': 0,
    'network.hidden': 8,
    'log_every': 3,
    'eval_every': 3,
  },
}

CHOICES = ', '.join(_VARIANTS)
"""What may follow the colon."""
