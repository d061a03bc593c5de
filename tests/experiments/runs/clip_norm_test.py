# SPDX-License-Identifier: Apache-2.0
"""A norm that is 0 in float32 clips nothing: it would make NaN of no gradient.

Truth: a zero gradient stays zero; one of norm 5 has the norm asked for.
"""

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from experiments.runs import optimizers

PARAMS = {'w': jnp.zeros(2)}
TINY = float(np.finfo(np.float32).tiny)


def made(clip_norm):
  settings = {
    'name': 'sgd',
    'learning_rate': 1.0,
    'schedule': 'constant',
    'warmup': 0,
    'accumulate': 1,
    'clip_norm': clip_norm,
  }
  return optimizers.make_optimizer(
    ml_collections.ConfigDict(settings), 1, PARAMS
  ).transformation


@pytest.mark.parametrize('clip_norm', [TINY, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize('gradient', [(0, 0), (3, 4)])
def test_a_gradient_is_clipped_to_the_norm(clip_norm, gradient):
  """Truth: (3, 4) has the norm 5; what is below TINY is 0."""
  optimizer, gradient = made(clip_norm), jnp.asarray(gradient, jnp.float32)
  step, _ = optimizer.update({'w': gradient}, optimizer.init(PARAMS), PARAMS)
  expected = -np.asarray(gradient) * min(1, clip_norm / 5)
  np.testing.assert_allclose(step['w'], expected, rtol=1e-5, atol=TINY)


@pytest.mark.parametrize('clip_norm', [1e-45, 1e-39, 5e-324, TINY / 2])
def test_what_is_zero_in_float32_is_refused(clip_norm):
  """Truth: the smallest normal number of float32 is 1.2e-38."""
  with pytest.raises(ValueError, match=r'clip_norm=.*: must be 1\.2e-38 or mo'):
    made(clip_norm)
