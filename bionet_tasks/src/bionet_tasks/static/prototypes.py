# SPDX-License-Identifier: Apache-2.0
"""Binary prototypes: noisy copies of random patterns, to be told apart."""

import functools

import jax
import jax.numpy as jnp

from bionet_tasks import base

_CEILING_TRIALS = 20_000


def prototypes(
  *,
  num_prototypes: int = 10,
  dim: int = 100,
  num_data: int = 1000,
  p_noise: float = 0.3,
  num_held_out: int = 10_000,
  seed: int = 0,
) -> base.Task:
  """K patterns in {-1, +1}^D; a sample is one of them with bits flipped.

    prototype_kd ~ Rademacher,   x_d = prototype_kd (-1 with p_noise, else +1)

  Training and held-out samples are separate draws from the same prototypes,
  classes balanced. Chance is 1 / K. The ceiling is the accuracy of the nearest
  true prototype, which is Bayes' decision here, measured on 20,000 further
  draws (standard error below .004).

  Source: the task of arXiv 2509.05041 with its options' defaults.

  Args:
    num_prototypes: K, the number of classes.
    dim: D, the number of bits.
    num_data: training samples.
    p_noise: probability that a bit is flipped, in [0, .5).
    num_held_out: held-out samples.
    seed: draws the prototypes and the samples.

  Raises:
    ValueError: if p_noise or a size is out of range.
  """
  if not 0 <= p_noise < 0.5:
    raise ValueError(
      f'p_noise={p_noise}: must be at least 0 and below 0.5, where '
      'nothing of the prototype is left.'
    )
  base.check_positive(
    num_prototypes=num_prototypes, dim=dim, num_held_out=num_held_out
  )
  if num_data < num_prototypes:
    raise ValueError(
      f'num_data={num_data}: must be at least num_prototypes='
      f'{num_prototypes}, one sample for each.'
    )
  data, held_out, ceiling = _drawn(
    base.instance_key(seed),
    p_noise,
    num_prototypes=num_prototypes,
    dim=dim,
    num_data=num_data,
    num_held_out=num_held_out,
  )

  def sample(key, index, batch_size=None):
    del batch_size
    rows = base.epoch_order(key, index, num_data)
    return base.static_trials(data[0][rows], data[1][rows], index)

  def sample_held_out(key, index):
    del key
    return base.static_trials(held_out[0][index], held_out[1][index], index)

  return base.Task(
    spec=base.TaskSpec(
      name='prototypes',
      input_shape=(dim,),
      num_outputs=num_prototypes,
      num_steps=1,
      metric='accuracy',
      chance={'accuracy': 1 / num_prototypes},
      ceiling={'accuracy': float(ceiling)},
      num_data=num_data,
      measures=base.CROSS_ENTROPY,
    ),
    sample=sample,
    evaluations={'held_out': base.Evaluation(num_held_out, sample_held_out)},
    loss=base.cross_entropy,
    metrics=base.sum_over_steps(base.cross_entropy),
  )


@functools.partial(
  jax.jit,
  static_argnames=('num_prototypes', 'dim', 'num_data', 'num_held_out'),
)
def _drawn(key, p_noise, *, num_prototypes, dim, num_data, num_held_out):
  """The data and the held-out samples, `(inputs, classes)`, and the ceiling.

  One program for all seeds.
  """
  keys = jax.random.split(key, 4)
  patterns = jax.random.rademacher(keys[0], (num_prototypes, dim), float)

  def draw(key, count):
    classes = jnp.arange(count) % num_prototypes
    flipped = jax.random.bernoulli(key, p_noise, (count, dim))
    return patterns[classes] * jnp.where(flipped, -1.0, 1.0), classes

  inputs, classes = draw(keys[3], _CEILING_TRIALS)
  nearest = jnp.argmax(inputs @ patterns.T, axis=-1)
  ceiling = jnp.mean(nearest == classes)
  return draw(keys[1], num_data), draw(keys[2], num_held_out), ceiling
