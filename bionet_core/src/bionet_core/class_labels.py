# SPDX-License-Identifier: Apache-2.0
"""Labels that are classes, and those that are none."""

import jax
import numpy as np
from jax import core


def check_classes(
  targets: jax.Array, num_classes: int, mask: jax.Array | None = None
) -> None:
  """Raises ValueError for an asked label that is no class.

  Only where labels and mask are concrete: a compiled program cannot raise, and
  makes such a label's loss NaN.

  Args:
    targets: labels, int of any shape.
    num_classes: classes are numbered from 0 to `num_classes - 1`.
    mask: of the same shape, 0 where a label is not asked; None: all are.
  """
  if isinstance(targets, core.Tracer) or isinstance(mask, core.Tracer):
    return
  labels, weights = jax.device_get((targets, mask))
  wrong = (labels < 0) | (labels >= num_classes)
  if weights is not None:
    wrong &= np.asarray(weights) != 0
  if np.any(wrong):
    raise ValueError(
      f'targets={np.asarray(labels)[wrong][0]}: must be a class from 0 to '
      f'{num_classes - 1} wherever the mask is not 0.'
    )
