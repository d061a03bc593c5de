# SPDX-License-Identifier: Apache-2.0
"""Real handwritten digits, learned by local plasticity.

  python -m experiments.train --config=experiments/configs/digits.py \
    --workdir=runs/digits

Ten seconds on a CPU. Test accuracy (500 images, splits 0-2): .965; RESULTS.md
has the baselines. Settings were chosen on splits 10-12.

Variants:
  (none)  SGD with strong rescaled feedback; J stays as it is drawn.
  smoke   a small network for a few updates, to see that everything runs.
"""

from ml_collections import config_dict

from experiments.configs import base


def get_config(variant: str = '') -> config_dict.ConfigDict:
  """The config of a variant."""
  config = base.base_config()
  config.batch_size = 16
  config.num_epochs = 15
  config.log_every = 81
  config.eval_every = 243

  config.task.name = 'digits'
  # Seed of the split into 1,297 training and 500 test images.
  config.task.split = config.get_oneway_ref('seed')

  config.network.name = 'asymmetric'
  # Hidden units.
  config.network.hidden = 500
  # Margins of the input weights, the couplings J and the readout.
  config.network.threshold_in = 1.81
  config.network.threshold_recurrent = 0.5
  config.network.threshold_out = 2.74
  # Scales of the initial weights.
  config.network.strength_in = 0.761
  config.network.strength_recurrent = 0.1
  config.network.strength_out = 0.0
  # Scale of the frozen label weights.
  config.network.strength_feedback = 5.42
  # Send labels rescaled by the number of classes.
  config.network.rescaled_labels = True
  # Self-coupling; kept below threshold_in, or else the input weights would find
  # every field past their margin and never learn.
  config.network.j_d = 1.32
  # End a phase when nothing changes any more: the same states, sooner.
  config.network.stop_at_fixed_point = True

  config.learner.name = 'local_plasticity'
  # Sweeps before the label is shown, with it, and after it is gone.
  config.learner.warm_up = 1
  config.learner.clamped = 5
  config.learner.free = 5
  # Sweeps of a prediction.
  config.learner.evaluation_sweeps = 6

  config.optimizer.name = 'sgd'
  config.optimizer.schedule = 'cosine'
  config.optimizer.learning_rate = 1.0
  # Factors on the learning rate of the input, J and the readout; 0 freezes.
  config.optimizer.rate_factors = config_dict.ConfigDict(
    {'to1_from0': 0.568, 'to1_from1': 0.0, 'to2_from1': 0.353}
  )
  return base.apply_variant(config, variant, _VARIANTS)


_VARIANTS = {
  'smoke': {
    'num_epochs': 0,
    'num_updates': 12,
    'network.hidden': 32,
    'log_every': 4,
    'eval_every': 8,
  },
}

CHOICES = ', '.join(_VARIANTS)
"""What may follow the colon."""
