# SPDX-License-Identifier: Apache-2.0
"""States that are no number have no utility.

Truth: NaN, which a loop ends at; before, a tissue of NaN had a utility.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import information

UTILITIES = {
  'hard': information.hard_utility,
  'miller_madow': lambda s, **k: information.hard_utility(
    s, miller_madow=True, **k
  ),
  'soft': information.soft_utility,
  'exact': information.exact_soft_utility,
  'straight_through': lambda s, **k: information.exact_soft_utility(
    s, straight_through=True, **k
  ),
}


@pytest.mark.parametrize('name', UTILITIES)
def test_a_state_that_is_no_number_is_seen(name):
  """Truth: one NaN among three replicates of three cells. Mutant: fate 0."""
  states = jnp.array([[0.1, 0.9, 0.2], [0.3, 0.8, 0.9], [0.1, 0.9, 0.3]])
  utility = jax.jit(UTILITIES[name])
  assert np.isfinite(utility(states).utility)
  assert np.isnan(utility(states.at[1, 0].set(jnp.nan)).utility)
  weights = jnp.ones(3)
  assert np.isnan(
    utility(states.at[1, 0].set(jnp.nan), weights=weights).utility
  )
  assert np.isfinite(utility(states.at[1, 0].set(1e30)).utility)
