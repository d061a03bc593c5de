# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits: scikit-learn's real 8x8 images."""

import jax.numpy as jnp
import numpy as np

from bionet_tasks import base

_NUM_TEST = 500


def digits(*, split: int = 0) -> base.Task:
  """The 1,797 images of ten digits, 1,297 to learn from and 500 held out.

  An image is a vector of 64 pixels, centred and scaled by its own statistics:

    x = (pixels - mean(pixels)) / rms(pixels - mean(pixels))

  so nothing of the held-out images enters the training inputs. Chance is the
  share of the most frequent held-out class, the ceiling 1 (for scale: logistic
  regression .97, support vectors .99).

  Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
  UCI (1998), as shipped in scikit-learn.

  Args:
    split: seed of the split.
  """
  from sklearn import datasets  # a second to import, and only digits need it

  pixels, classes = datasets.load_digits(return_X_y=True)
  order = np.random.default_rng(split).permutation(len(classes))
  centred = pixels - pixels.mean(axis=1, keepdims=True)
  rms = np.sqrt(np.mean(centred**2, axis=1, keepdims=True))
  images = jnp.asarray((centred / rms)[order], dtype=float)
  labels = jnp.asarray(classes[order], dtype=jnp.int32)
  num_data = len(classes) - _NUM_TEST
  shares = np.bincount(classes[order][num_data:], minlength=10) / _NUM_TEST

  def sample(key, index, batch_size=None):
    del batch_size
    rows = base.epoch_order(key, index, num_data)
    return base.static_trials(images[rows], labels[rows], index)

  def sample_held_out(key, index):
    del key
    rows = num_data + index
    return base.static_trials(images[rows], labels[rows], index)

  return base.Task(
    spec=base.TaskSpec(
      name='digits',
      input_shape=(64,),
      num_outputs=10,
      num_steps=1,
      metric='accuracy',
      chance={'accuracy': float(shares.max())},
      ceiling={'accuracy': 1.0},
      num_data=num_data,
      measures=base.CROSS_ENTROPY,
    ),
    sample=sample,
    evaluations={'held_out': base.Evaluation(_NUM_TEST, sample_held_out)},
    loss=base.cross_entropy,
    metrics=base.sum_over_steps(base.cross_entropy),
  )
