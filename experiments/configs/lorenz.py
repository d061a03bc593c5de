# SPDX-License-Identifier: Apache-2.0
"""Forecasting a Lorenz system ten steps ahead.

  python -m experiments.train --config=experiments/configs/lorenz.py \
    --workdir=runs/lorenz

Fifteen CPU seconds. Held-out NRMSE (200 trials, another orbit, seed 10): .021;
persistence has .695.

Variants:
  bptt    backpropagation through time on hk.GRU(64) (the default).
  smoke   a small cell for a few updates, to see that everything runs.
  stream  an endless stream: batches of 32 streams, 25 steps an update, the
          states carried on (truncated BPTT).
"""

from ml_collections import config_dict

from experiments.configs import base


def get_config(variant: str = 'bptt') -> config_dict.ConfigDict:
  """The config of a variant."""
  config = base.base_config()
  config.batch_size = 32
  config.num_steps = 500
  config.log_every = 50
  config.eval_every = 100

  config.task.name = 'lorenz'
  # Steps of a trial.
  config.task.length = 100
  # How many steps ahead.
  config.task.horizon = 10
  # First steps that are not asked.
  config.task.washout = 10
  # Batches that go on where the last one ended.
  config.task.stream = False
  # Fresh trials to be judged by.
  config.task.num_held_out = 200
  # Seed of the orbits.
  config.task.seed = config.get_oneway_ref('seed')

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
  'stream': {
    'task.stream': True,
    'task.length': 25,
    'task.washout': 0,
    'learner.carry': True,
    'num_steps': 2000,
    'eval_every': 400,
  },
  'smoke': {
    'num_steps': 6,
    'batch_size': 8,
    'task.length': 6,
    'task.washout': 2,
    'task.num_held_out': 20,
    'network.hidden': 8,
    'log_every': 2,
    'eval_every': 3,
  },
}
