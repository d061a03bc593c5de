# SPDX-License-Identifier: Apache-2.0
"""Sequential digits: an image read row by row, or pixel by pixel."""

import dataclasses

import jax.numpy as jnp

from bionet_core import interfaces
from bionet_tasks import base
from bionet_tasks.static import digits as images

_STEPS = {'rows': 8, 'pixels': 64}


def sequential_digits(*, by: str = 'rows', split: int = 0) -> base.Task:
  """The images of `digits`, from the top down, and then their class.

    by rows:    t in [0, 8):   the 8 pixels of row t, asked at t = 8
    by pixels:  t in [0, 64):  pixel t, asked at t = 64

  The asking step shows nothing (zeros), so T is 9 or 65 and the class has to be
  carried out of the sequence. Images, split, chance and ceiling are those of
  `digits` (logistic regression on whole images .97, support vectors .99).

  Args:
    by: 'rows' or 'pixels'.
    split: seed of the split.

  Raises:
    ValueError: for another way to read.
  """
  if by not in _STEPS:
    raise ValueError(f'by={by!r}: must be one of {", ".join(_STEPS)}.')
  whole, steps = images.digits(split=split), _STEPS[by]
  size = 64 // steps

  def in_steps(trials: interfaces.Trials) -> interfaces.Trials:
    count = trials.index.shape[0]
    shown = jnp.moveaxis(trials.inputs[0].reshape(count, steps, size), 0, 1)
    classes = jnp.zeros((steps + 1, count), trials.targets.dtype)
    return interfaces.Trials(
      inputs=jnp.concatenate([shown, jnp.zeros((1, count, size))]),
      targets=classes.at[-1].set(trials.targets[0]),
      mask=jnp.zeros((steps + 1, count)).at[-1].set(1.0),
      index=trials.index,
    )

  def sample(key, index, batch_size=None):
    return in_steps(whole.sample(key, index, batch_size))

  judged = whole.evaluations['held_out']
  return whole._replace(
    spec=dataclasses.replace(
      whole.spec,
      name='sequential_digits',
      input_shape=(size,),
      num_steps=steps + 1,
    ),
    sample=sample,
    evaluations={
      'held_out': base.Evaluation(
        judged.num_trials,
        lambda key, index: in_steps(judged.sample(key, index)),
      )
    },
  )
