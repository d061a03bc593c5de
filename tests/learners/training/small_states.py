# SPDX-License-Identifier: Apache-2.0
"""Small states, and what is saved of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bionet_learners import base
from bionet_learners.training import checkpoints
from bionet_learners.training import state as states

TX = optax.adam(0.1)


def state(size=3):
  params = {'w': jnp.arange(float(size))}
  return base.LearnerState(
    params=params,
    constants={'j_d': jnp.float32(0.5)},
    rule_state=base.RuleState(shared=(), per_trial=(jnp.ones((2, 4)),)),
    opt_state=TX.init(params),
    step=jnp.int32(7),
  )


def apply(params, network_state, key, inputs):
  del key
  return inputs @ params['linear']['w'], network_state


def train_state(impl='threefry2x32'):
  return states.TrainState.create(
    apply,
    {'linear': {'w': jnp.float32([[0.1, 1e-40], [-0.0, 3.0]])}},
    TX,
    network_state={'norm': {'mean': jnp.float32([np.pi])}},
    key=jax.random.key(5, impl=impl),
  ).replace(step=jnp.int32(3))


def numbered(step):
  return {'w': jnp.full(3, float(step))}


def save(folder, *steps):
  for step in steps:
    path = checkpoints.save_checkpoint(numbered(step), folder, step)
  return path


def load(folder, step):
  return checkpoints.load_checkpoint(
    folder / f'checkpoint_{step}', jax.eval_shape(lambda: numbered(step))
  )


def latest(folder, warned=None):
  return checkpoints.restore_latest(
    folder,
    lambda step: jax.eval_shape(lambda: numbered(step)),
    [].append if warned is None else warned.append,
  )


def data(leaf):
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return np.asarray(leaf).tobytes()


def bits(tree):
  return [data(leaf) for leaf in jax.tree.leaves(tree)]


def flipped(content):
  middle = len(content) // 2
  flip = bytes([content[middle] ^ 1])
  return content[:middle] + flip + content[middle + 1 :]


def break_one(folder, step):
  file = next(
    file
    for file in sorted((folder / f'checkpoint_{step}').rglob('*'))
    if file.is_file() and file.name != 'digests.json' and file.stat().st_size
  )
  file.write_bytes(flipped(file.read_bytes()))
