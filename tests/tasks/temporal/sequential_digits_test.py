# SPDX-License-Identifier: Apache-2.0
"""Sequential digits: put together again they are the digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_tasks.static import digits
from bionet_tasks.temporal import sequential_digits

KEY, BATCH = jax.random.key(0), 20


@pytest.mark.parametrize('by, steps', [('rows', 8), ('pixels', 64)])
def test_an_image_is_its_parts_in_order(by, steps):
  """Truth: `digits` with the same key, its rows one after the other."""
  whole = digits.digits(split=1)
  task = sequential_digits.sequential_digits(by=by, split=1)
  assert task.spec.num_steps == steps + 1
  held_out = (t.evaluations['held_out'].sample for t in (task, whole))
  for mine, theirs in ((task.sample, whole.sample), tuple(held_out)):
    trials, images = (f(KEY, jnp.arange(BATCH)) for f in (mine, theirs))
    inputs, mask = np.asarray(trials.inputs), np.asarray(trials.mask)
    assert inputs.shape == (steps + 1, BATCH, 64 // steps)
    for b in range(BATCH):
      np.testing.assert_array_equal(
        np.concatenate(inputs[:-1, b]), images.inputs[0, b]
      )
    assert not inputs[-1].any()  # nothing is shown with the question
    np.testing.assert_array_equal(trials.targets[-1], images.targets[0])
    assert np.all(mask[-1] == 1) and not mask[:-1].any()
  assert task.spec.chance == whole.spec.chance


def test_another_way_to_read_is_refused():
  """Truth: the documented choices."""
  with pytest.raises(ValueError, match='rows, pixels'):
    sequential_digits.sequential_digits(by='columns')
