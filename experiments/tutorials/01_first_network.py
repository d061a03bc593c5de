# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # A first network, by hand
#
# The experiments build their networks from a config. Here nothing is hidden: we
# lay out a network edge by edge, write the training step, the update and the
# evaluation ourselves with optax, and reach the accuracy of
# `experiments/configs/prototypes.py`.
#
# Run it with `python experiments/tutorials/01_first_network.py`; it takes about
# ten seconds on a CPU. In an editor that knows `# %%` the cells run one by one.

# %%
import jax
import jax.numpy as jnp
import optax

from bionet_core.relaxation import layer_map, layers
from bionet_core.relaxation import orchestrator as orchestrators
from bionet_core.relaxation import state as states
from bionet_tasks.static import prototypes

# %% [markdown]
# ## The task
# Ten random patterns of 100 bits; a sample is one of them with 30 % of its bits
# flipped. Held-out samples are fresh draws from the same patterns.

# %%
HIDDEN, BATCH, EPOCHS = 256, 16, 3

task = prototypes.prototypes(seed=0)
key = jax.random.key(0)
init_key, data_key = jax.random.split(key)
print('chance', task.spec.chance, 'ceiling', task.spec.ceiling)

# %% [markdown]
# ## The topology
# `{receiver: {sender: layer}}`. Row 0 is the input, row 1 the hidden row, row 2
# the classes. Each row needs a layer of its own, `(i, i)`. The map is checked
# when it is built: take an edge out, or change a size, and read what it says.

# %%
topology = layer_map.LayerMap.from_dict(
  {
    1: {
      0: layers.FullyConnected(HIDDEN, strength=1.0, threshold=3.5),
      1: layers.RecurrentDiscrete(HIDDEN, j_d=0.5, threshold=0.5),
      2: layers.FrozenFullyConnected(HIDDEN, strength=0.3),
    },
    2: {
      1: layers.FullyConnected(10, strength=1.0, threshold=3.5),
      2: layers.OutputLayer(10),
    },
  }
)
for receiver, sender in topology:
  print(f'{sender} -> {receiver}: {topology[receiver, sender]}')

orchestrator = orchestrators.SequentialOrchestrator(topology)

# %% [markdown]
# ## Parameters, constants, state
# What learns is in `params`; margins, the self-coupling and the frozen label
# weights are in `constants`. The state holds one buffer a row.

# %%
first = task.sample(data_key, jnp.arange(BATCH))
params, constants = orchestrator.init(init_key, first.inputs[0])
print('params', jax.tree.map(jnp.shape, params))
print('constants', jax.tree.map(jnp.shape, constants))

state = states.SequentialState.init((100, HIDDEN, 10), first.inputs[0])
for _ in range(10):
  state = orchestrator.step_inference(params, constants, state)
state = orchestrator.predict(params, constants, state)
scores = state[-1]


def describe(scores):
  """The shape, range, mean and standard deviation of an output."""
  low, high = jnp.min(scores), jnp.max(scores)
  return (
    f'shape {scores.shape}, range [{low:.2f}, {high:.2f}], '
    f'mean {jnp.mean(scores):.2f}, std {jnp.std(scores):.2f}'
  )


print('untrained output:', describe(scores))

# %% [markdown]
# ## One training step
# Show the label and let the network settle; take the label away and let it
# settle again; then `backward` says how each edge would lock that state in.

# %%
CLAMPED, FREE = 10, 10
optimizer = optax.adam(5e-3)


def train_step(params, inputs, classes):
  """The pseudo-gradient of a batch, and the fraction of restless units."""
  state = orchestrator.initial_state(params, constants, inputs, classes)
  state, _ = orchestrator.settle(
    params, constants, state, messages='all', sweeps=CLAMPED
  )
  state, changed = orchestrator.settle(
    params, constants, state, messages='free', sweeps=FREE
  )
  gradient = orchestrator.backward(params, constants, state, classes)
  return gradient, changed[-1]


@jax.jit
def update(params, opt_state, inputs, classes):
  """One step of the optimizer against the pseudo-gradient."""
  gradient, changed = train_step(params, inputs, classes)
  updates, opt_state = optimizer.update(gradient, opt_state, params)
  return optax.apply_updates(params, updates), opt_state, changed


@jax.jit
def eval_step(params, inputs, classes):
  """Accuracy of a prediction; the classes are compared with it, never shown."""
  state = orchestrator.initial_state(params, constants, inputs, None)
  state, _ = orchestrator.settle(
    params, constants, state, messages='free', sweeps=10
  )
  scores = orchestrator.readout(params, constants, state)
  return jnp.mean(jnp.argmax(scores, axis=-1) == classes), scores


# %% [markdown]
# ## Three epochs

# %%
held_out = task.evaluations['held_out']
fresh = held_out.sample(data_key, jnp.arange(held_out.num_trials))
opt_state = optimizer.init(params)
num_updates = EPOCHS * task.spec.num_data // BATCH
order = task.sample(data_key, jnp.arange(num_updates * BATCH))

for step in range(num_updates):
  batch = slice(step * BATCH, (step + 1) * BATCH)
  params, opt_state, changed = update(
    params, opt_state, order.inputs[0, batch], order.targets[0, batch]
  )
  if (step + 1) % 47 == 0 or step + 1 == num_updates:
    accuracy, scores = eval_step(params, fresh.inputs[0], fresh.targets[0])
    print(
      f'update {step + 1}/{num_updates}: held-out accuracy {accuracy:.4f}, '
      f'changed in the last sweep {changed:.5f}'
    )

print('trained output:', describe(scores))

# %% [markdown]
# ## What to try
# - `FrozenRescaledFullyConnected` for the label, `j_d=1.0`, or no J at all
#   (`strength=0.0`): which of them matters?
# - Give each edge a rate of its own with `optax.multi_transform`; the names of
#   the edges are the keys of `params`.
# - The same network as a config: `experiments/configs/prototypes.py`.
