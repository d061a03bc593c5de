# SPDX-License-Identifier: Apache-2.0
"""A noisy cell of one's own in a config, with the score function.

Truth: the factory of experiments/README.md, named as any other; an update that
moves every parameter.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs import compose
from experiments.runs import build, updates

README = pathlib.Path(__file__).parents[3] / 'experiments' / 'README.md'


def test_the_noisy_gru_of_the_readme_learns_by_its_score(tmp_path, monkeypatch):
  """Truth: the code that stands there."""
  blocks = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)
  [code] = [block for block in blocks if 'core.noisy' in block]
  (tmp_path / 'readme_cells.py').write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  config = compose.get_config('copying,readme_cells:noisy_gru,score_function')
  config.task.update({'num_symbols': 1, 'time_lag': 1, 'num_held_out': 4})
  config.network.hidden, config.batch_size, config.num_updates = 4, 4, 1
  run = build.build(config)
  state = updates.init(run)
  trials = run.first.task.sample(run.first.keys.data, jnp.arange(4))
  after, metrics = jax.jit(run.first.learner.update)(
    state, run.first.keys.noise, trials
  )
  assert np.isfinite(metrics['loss'])
  for old, new in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True
  ):
    assert np.any(old != new)
