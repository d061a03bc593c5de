# SPDX-License-Identifier: Apache-2.0
"""Forecasting a Lorenz system ten steps ahead.

  python -m experiments.train --config=experiments/configs/lorenz.py \
    --workdir=runs/lorenz

Held-out NRMSE (200 trials of another orbit; chance 1, persistence .695, best
0), seeds 0, 1, 2, as the variants stand:

  bptt    .008 .017 .011
  d_rtrl  .017 .017  (seeds 0, 1)
  e_prop  .045 .054  (seeds 0, 1)
  stream  .028 .026 .045

Ten to thirty CPU seconds a run.

Variants:
  bptt    backpropagation through time on hk.GRU(64) (the default).
  d_rtrl  D-RTRL in windows of 10, its GRU's update gate nearly closed at first.
  e_prop  the same traces, errors coming back through fixed random weights.
  smoke   a small cell for a few updates, to see that everything runs.
  stream  learning as the data arrive: 32 streams without end, D-RTRL one
          step at a time; weights change at every step, and states and traces go
          on.
"""

from ml_collections import config_dict

from experiments.configs import base


def get_config(variant: str = 'bptt') -> config_dict.ConfigDict:
  """The config of a variant."""
  config = base.gru_config('d_rtrl' if variant == 'stream' else variant)
  config.batch_size = 32

  config.task.name = 'lorenz'
  # Steps of a trial.
  config.task.length = 100
  # How many steps ahead.
  config.task.horizon = 10
  # First steps of a trial that are not asked.
  config.task.washout = 10
  # Batches that go on where the last one ended.
  config.task.stream = False
  # Fresh trials to be judged by.
  config.task.num_held_out = 200
  # Seed of the orbits.
  config.task.seed = config.get_oneway_ref('seed')
  return base.apply_variant(config, variant, _VARIANTS)


_VARIANTS = base.gru_variants(
  smoke={
    'task.length': 6,
    'task.washout': 2,
    'task.num_held_out': 20,
  }
)
_VARIANTS['stream'] = {
  'num_updates': 250,
  'log_every': 5,
  'eval_every': 25,
  'task.stream': True,
  'learner.window': 1,
  'learner.every': 1,
  'learner.carry': True,
  # Neighbours in time are alike: a higher rate follows each stream about.
  'optimizer.learning_rate': 5e-4,
  'optimizer.schedule': 'cosine',
}

CHOICES = ', '.join(_VARIANTS)
"""What may follow the colon."""
