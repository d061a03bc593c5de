# SPDX-License-Identifier: Apache-2.0
"""Local losses: minus the gradient of each is a plasticity rule."""

import chex
import jax
import jax.numpy as jnp

from bionet_core import class_labels


def perceptron(
  field: jax.Array, target: jax.Array, threshold: jax.Array
) -> jax.Array:
  """The margin loss whose descent is the perceptron rule.

    loss_b = sum_i hinge(threshold - y_bi h_bi),  hinge(u) = 0 if u < 0 else u
    -dloss/dh_bi = y_bi 1{y_bi h_bi <= threshold}

  Ties (`y h == threshold`) learn: the slope of this hinge at 0 is 1, where that
  of `jax.nn.relu` is 0.

  Args:
    field: h, float `[B, *N]`.
    target: y, float `[B, *N]`, -1 or +1.
    threshold: the margin, float `[]`.

  Returns:
    float `[B]`.
  """
  chex.assert_equal_shape([field, target])
  chex.assert_rank(threshold, 0)
  slack = threshold - target * field
  hinge = jnp.where(slack < 0, 0, slack)  # NaN stays NaN, to be seen
  return jnp.sum(hinge, axis=tuple(range(1, field.ndim)))


def signed_labels(targets: jax.Array, num_classes: int) -> jax.Array:
  """Labels of the output row: +1 at the class, -1 elsewhere.

  Args:
    targets: int classes `[B]`, or labels float `[B, num_classes]`, which pass
      through.
    num_classes: the size of the output row.

  Returns:
    float `[B, num_classes]`; NaN for an int that is no class.

  Raises:
    ValueError: for an int that is no class, where targets are concrete.
  """
  if jnp.issubdtype(targets.dtype, jnp.floating):
    chex.assert_shape(targets, (None, num_classes))
    return targets
  chex.assert_rank(targets, 1)
  class_labels.check_classes(targets, num_classes)
  hit = targets[:, None] == jnp.arange(num_classes)[None, :]
  is_class = jnp.any(hit, axis=-1, keepdims=True)
  return jnp.where(hit, 1.0, jnp.where(is_class, -1.0, jnp.nan))
