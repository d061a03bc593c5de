# SPDX-License-Identifier: Apache-2.0
"""The keys that all runs share, and variants of a config."""

import difflib
from collections.abc import Mapping

from ml_collections import config_dict


def base_config() -> config_dict.ConfigDict:
  """A config with every shared key; experiments fill in the sections."""
  config = config_dict.ConfigDict()
  # Seed of everything random in the run.
  config.seed = 0
  # Trials an update.
  config.batch_size = 16
  # Updates of the run; 0: as many as num_epochs takes. One of them is 0.
  config.num_steps = 0
  # Passes over a finite training set.
  config.num_epochs = 0
  # Updates between two log lines; the metrics logged are their mean.
  config.log_every = 100
  # Updates between two evaluations on held-out trials.
  config.eval_every = 500
  # The task: its name, and the arguments of its factory.
  config.task = config_dict.ConfigDict()
  # The cell or relaxation network: its name, and its factory's arguments.
  config.network = config_dict.ConfigDict()
  # The learner: its name, and its factory's arguments.
  config.learner = config_dict.ConfigDict()
  # Change the weights at each border of this many steps; 0: at the trials' end.
  config.learner.every = 0
  # Keep states and traces from batch to batch (streams without end).
  config.learner.carry = False
  config.optimizer = config_dict.ConfigDict()
  # 'adam', 'adamw' or 'sgd'; its own settings may stand beside the name.
  config.optimizer.name = 'adam'
  # Step size; a config may scale it by module with rate_factors.
  config.optimizer.learning_rate = 1e-3
  # 'constant', or 'cosine' to 0 at the end of the run.
  config.optimizer.schedule = 'constant'
  # Largest norm of the whole gradient; 0: not clipped.
  config.optimizer.clip_norm = 0.0
  return config


def apply_variant(
  config: config_dict.ConfigDict,
  variant: str,
  variants: Mapping[str, Mapping[str, object]],
) -> config_dict.ConfigDict:
  """Overrides of a named variant, by dotted path, on top of a config.

  Args:
    config: the reference configuration: the variant ''.
    variant: the name after the colon of `--config=FILE:VARIANT`.
    variants: `{name: {dotted path: value}}`.

  Raises:
    KeyError: for an unknown variant.
  """
  if not variant:
    return config
  if variant not in variants:
    near = difflib.get_close_matches(variant, variants, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise KeyError(
      f'no variant {variant!r} of this config.{hint} '
      f'There are: {", ".join(variants)}.'
    )
  for path, value in variants[variant].items():
    config.update_from_flattened_dict({path: value})
  return config
