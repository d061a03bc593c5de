# SPDX-License-Identifier: Apache-2.0
"""The configs: overrides and variants.

Truth: the other values of a config, and the tables of variants.
"""

import pytest

from experiments.configs import compose
from experiments.configs import copying as copying_config
from experiments.configs import prototypes as prototypes_config
from tests.experiments import smoke


def test_every_experiment_has_a_smoke_variant():
  """Truth: the files of experiments/configs."""
  assert {'prototypes', 'copying', 'memory'} <= set(smoke.FILES)
  for name in smoke.NAMES:
    assert smoke.config(name).to_dict() != {}


@pytest.mark.parametrize('name', smoke.NAMES)
def test_an_override_changes_one_value(name):
  """Truth: the other values of the config, as they were.

  A rate, a seed or a size that follows another one must not lead it. What
  follows the overridden value may change with it: of the shared keys, the seed
  and the learning rate are such.
  """
  before = _flat(smoke.config(name).to_dict())
  for path, value in before.items():
    if not isinstance(value, (int, float)) or path in _LED:
      continue
    config = smoke.config(name)
    config.update_from_flattened_dict({path: type(value)(not value)})
    changed = {k for k, v in _flat(config.to_dict()).items() if v != before[k]}
    assert changed == {path}


def test_the_seed_leads_the_tasks():
  """Truth: the values themselves, in both directions."""
  for make in (prototypes_config.get_config, compose.get_config):
    config = make()
    config.seed = 7
    assert config.task.seed == 7
    config.task.seed = 3
    assert (config.seed, config.task.seed) == (7, 3)


def test_variants_say_what_they_change():
  """Truth: the tables of variants; the last of two values does not win all."""
  for module in (prototypes_config, copying_config):
    for variant, overrides in module._VARIANTS.items():
      flat = _flat(module.get_config(variant).to_dict())
      assert {path: flat[path] for path in overrides} == overrides


_LED = ('seed', 'optimizer.learning_rate', 'task.rows')


def _flat(content: dict, prefix: str = '') -> dict:
  flat = {}
  for key, value in content.items():
    if isinstance(value, dict):
      flat.update(_flat(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value
  return flat
