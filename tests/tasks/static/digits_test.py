# SPDX-License-Identifier: Apache-2.0
"""Digits: scikit-learn's images, scaled here once more in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from bionet_tasks.static import digits

KEY = jax.random.key(0)


@functools.cache
def drawn(split):
  """Training and held-out images and classes of a split."""
  task = digits.digits(split=split)
  train = jax.jit(task.sample)(KEY, jnp.arange(1297))
  held_out = task.evaluations['held_out'].sample(KEY, jnp.arange(500))
  return [
    (np.asarray(trials.inputs[0]), np.asarray(trials.targets[0]))
    for trials in (train, held_out)
  ]


def test_the_images_are_the_real_ones_each_once():
  """Truth: scikit-learn's 1,797 images, centred and scaled by a loop.

  Matched one by one: so classes belong to their images, and 1,297 and 500 are
  disjoint and complete.
  """
  pixels, classes = datasets.load_digits(return_X_y=True)
  known = {}
  for row, label in zip(pixels, classes, strict=True):
    centred = row - np.mean(row)
    image = centred / np.sqrt(np.mean(centred**2))
    known[np.round(image, 3).astype(np.float32).tobytes()] = label
  parts = drawn(0)
  images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
  assert (len(parts[0][0]), len(parts[1][0])) == (1297, 500)
  nearest = []
  table = np.stack([np.frombuffer(k, np.float32) for k in known])
  squares = (table**2).sum(1)
  for image in images:
    nearest.append(int(np.argmin(squares - 2 * table @ image)))
  assert sorted(nearest) == list(range(1797))
  found = np.array(list(known.values()))[nearest]
  np.testing.assert_array_equal(found, labels)
  assert np.abs(table[nearest] - images).max() < 1e-3


def test_images_are_centred_with_unit_rms():
  """Truth: mean 0 and root mean square 1 of each image by itself."""
  for images, _ in drawn(0):
    np.testing.assert_allclose(images.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose((images**2).mean(axis=1), 1, atol=1e-4)


def test_splits_differ_and_are_reproducible():
  """Truth: the seed of the split alone decides what is held out."""
  first, second = (
    {row.tobytes() for row in drawn(split)[1][0]} for split in (0, 1)
  )
  assert len(first) == 500
  assert len(first & second) < 250  # 139 are expected
  again = digits.digits(split=1).evaluations['held_out']
  images = np.asarray(
    again.sample(jax.random.key(9), jnp.arange(500)).inputs[0]
  )
  np.testing.assert_array_equal(images, drawn(1)[1][0])


def test_chance_is_the_most_frequent_held_out_class():
  """Truth: a count in Python."""
  for split in (0, 1):
    labels = drawn(split)[1][1].tolist()
    most = max(labels.count(digit) for digit in range(10))
    assert digits.digits(split=split).spec.chance == {'accuracy': most / 500}
