# SPDX-License-Identifier: Apache-2.0
"""Keep one bit of a stream while the others go by.

  python -m experiments.train --config=experiments/configs/store_recall.py \
    --workdir=runs/store_recall

Ten CPU seconds. Held-out accuracy (1,000 trials, seeds 0-2): 1.000.

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
  config.num_steps = 500
  config.log_every = 50
  config.eval_every = 100

  config.task.name = 'store_recall'
  # Bits that go by between store and recall, at most.
  config.task.delay = 10
  # And at least: uniform between the two.
  config.task.min_delay = 5
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
    'task.delay': 2,
    'task.min_delay': 1,
    'task.num_held_out': 20,
    'network.hidden': 8,
    'log_every': 2,
    'eval_every': 3,
  },
}
