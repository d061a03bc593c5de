# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # A train step of your own
#
# `train_loop` runs any step: what you hand it is a state, a function that
# advances the state by one batch, and a function that makes the batches. It
# adds what every training needs: validation, metrics, a bar, early stopping,
# and checkpoints from which it goes on exactly where it stopped.
#
# Here the step is that of a network with batch normalisation, which has a state
# of its own beside the parameters: the running statistics. The data are
# scikit-learn's digits: 8 x 8 pixels, ten classes.
#
# Run it with `python experiments/tutorials/02_training_loop.py`; it takes about
# ten seconds on a CPU.

# %%
import pathlib
import tempfile

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import figure

from bionet_learners import training
from bionet_tasks.static import digits

# %% [markdown]
# ## The data
# A function that makes an iterator, not an iterator: validation needs a fresh
# one after every epoch. It must give the same batches each time it is asked,
# which is what makes a resumed run equal to an uninterrupted one; so the order
# of epoch e is drawn from a seed and e, not from a generator that lives on.

# %%
BATCH, EPOCHS = 64, 12

task = digits.digits(split=0)
key = jax.random.key(0)


def arrays(sample, count):
  """Images and classes of the trials 0 to count - 1, as NumPy arrays."""
  trials = sample(key, jnp.arange(count))
  return np.asarray(trials.inputs[0]), np.asarray(trials.targets[0])


held_out = task.evaluations['held_out']
train_set = arrays(task.sample, task.spec.num_data)
val_set = arrays(held_out.sample, held_out.num_trials)
num_batches = -(-len(train_set[0]) // BATCH)  # the last one is shorter


def batches(order, data):
  """Batches of `BATCH`, in an order; the last one has what is left."""
  for start in range(0, len(order), BATCH):
    rows = order[start : start + BATCH]
    yield {'image': data[0][rows], 'label': data[1][rows]}


def training_batches():
  """Epoch after epoch, each in an order of its own."""
  epoch = 0
  while True:
    order = np.random.default_rng([0, epoch]).permutation(len(train_set[0]))
    yield from batches(order, train_set)
    epoch += 1


def validation_batches():
  """The held-out images, once."""
  return batches(np.arange(len(val_set[0])), val_set)


# %% [markdown]
# ## The network and its state
# Transformed *with state*: `apply` takes and returns the running statistics.
# Dropout draws from the key that the loop gives to each step.


# %%
@hk.transform_with_state
def network(images, is_training):
  """Two layers with batch normalisation, then dropout, then the classes."""
  x = images
  for size in (128, 64):
    x = hk.Linear(size, with_bias=False)(x)
    x = hk.BatchNorm(True, True, decay_rate=0.9)(x, is_training)
    x = jax.nn.relu(x)
  if is_training:
    x = hk.dropout(hk.next_rng_key(), 0.2, x)
  return hk.Linear(10)(x)


params, statistics = network.init(key, val_set[0][:2], is_training=True)

# Schedules, clipping and accumulation are optax's own.
optimizer = optax.chain(
  optax.clip_by_global_norm(1.0),
  optax.adam(optax.cosine_decay_schedule(3e-3, EPOCHS * num_batches)),
)
state = training.TrainState.create(
  network.apply, params, optimizer, network_state=statistics
)

# %% [markdown]
# ## The steps
# A step returns the new state and its metrics. Leave the metrics on the device:
# the loop reads them once an epoch. It weighs each batch by its trials, so the
# short last batch counts as little as it should.


# %%
def measure(logits, batch):
  """Loss and accuracy of a batch."""
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  )
  hits = jnp.argmax(logits, axis=-1) == batch['label']
  return {'loss': jnp.mean(losses), 'accuracy': jnp.mean(hits)}


@jax.jit
def train_step(state, batch, rng_key):
  """One gradient step; the running statistics move along."""

  def loss_fn(params):
    logits, statistics = state.apply_fn(
      params, state.network_state, rng_key, batch['image'], is_training=True
    )
    metrics = measure(logits, batch)
    return metrics['loss'], (metrics, statistics)

  grads, (metrics, statistics) = jax.grad(loss_fn, has_aux=True)(state.params)
  state = state.apply_gradients(grads).replace(network_state=statistics)
  return state, metrics


@jax.jit
def val_step(state, batch, rng_key):
  """Metrics with the running statistics, and no dropout."""
  logits, _ = state.apply_fn(
    state.params,
    state.network_state,
    rng_key,
    batch['image'],
    is_training=False,
  )
  return state, measure(logits, batch)


# %% [markdown]
# ## Train, be interrupted, go on
# The first call stops after four epochs, as if the machine had been taken away.
# The second is the same call with all the epochs: it finds the checkpoint and
# goes on. The third was never interrupted, and ends with the same bits.


# %%
def train(folder, num_epochs):
  """The final state and the history of a run in a folder."""
  return training.train_loop(
    state,
    train_step,
    training_batches,
    num_epochs,
    num_batches,
    jax.random.key(1),
    checkpoint_dir=folder,
    val_step_fn=val_step,
    val_data_iterator_fn=validation_batches,
    early_stopping=training.EarlyStopping('accuracy', patience=6),
    keep_best=True,
  )


with tempfile.TemporaryDirectory() as folder:
  first = pathlib.Path(folder, 'first')
  train(first, 4)
  final, history = train(first, EPOCHS)
  kept = sorted(path.name for path in first.glob('checkpoint_*'))
  whole, _ = train(pathlib.Path(folder, 'second'), EPOCHS)

print('checkpoints:', ', '.join(kept))
same = all(
  np.array_equal(a, b)
  for a, b in zip(jax.tree.leaves(final), jax.tree.leaves(whole), strict=True)
)
print('resumed and uninterrupted end with the same bits:', same)
for epoch in range(0, len(history['val_loss']), 3):
  means = {name: values[epoch] for name, values in history.items()}
  print(f'epoch {epoch + 1}: {training.format_metrics(means)}')
print(f'held-out accuracy {history["val_accuracy"][-1]:.4f}')

# %% [markdown]
# ## Look at it
# The dropout makes the training loss look worse than it is; the held-out curve
# is the one that counts.

# %%
path = pathlib.Path('runs', '02_training_loop.png')
path.parent.mkdir(exist_ok=True)
canvas = figure.Figure(figsize=(8, 3.2), layout='constrained')
for axes, name in zip(canvas.subplots(1, 2), ('loss', 'accuracy'), strict=True):
  epochs = np.arange(1, len(history[f'val_{name}']) + 1)
  axes.plot(epochs, history[f'train_{name}'], label='training')
  axes.plot(epochs, history[f'val_{name}'], 'o-', ms=3.5, label='held out')
  axes.set(xlabel='epoch', ylabel=name)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(frameon=False)
canvas.savefig(path, dpi=150)
print(f'wrote {path}')

# %% [markdown]
# ## What to try
# - Leave out `.replace(network_state=statistics)`: the network still learns,
#   and the held-out curve tells you that the statistics never moved.
# - Let `training_batches` shuffle with one generator made outside of it. Each
#   run still looks fine; the resumed one is not the same any more.
# - Wrap the optimizer in `optax.MultiSteps(optimizer, 4)`: the mean gradient of
#   four batches makes one step.
# - A rule of your own in place of `jax.grad` goes into the same step; a rule in
#   the form of a `Learner` has `experiments.train`, which is the same loop with
#   whole ranges of updates compiled.
