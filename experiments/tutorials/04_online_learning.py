# SPDX-License-Identifier: Apache-2.0
# %% [markdown]
# # Learning while it happens
#
# Backpropagation through time waits for the end of a sequence, goes back
# through all that it has stored, and only then changes the weights. No brain
# can do that, and no machine with a fixed memory on an endless stream. Online
# rules carry what they need forward in time.
#
# You will train one GRU both ways on the same task, see what the online rule
# gives up and what it gets for it, and then use the same rule on spiking units.
#
# Run it with `python experiments/tutorials/04_online_learning.py`; it takes two
# CPU minutes. With `--short` everything is smaller and nothing is learned well.

# %%
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import figure

from bionet_core.cells import cores as cells
from bionet_learners import base, description
from bionet_learners.reverse import bptt, truncated_bptt
from bionet_learners.traces import d_rtrl
from bionet_tasks.temporal import copying, evidence
from experiments.configs import evidence as evidence_config
from experiments.figures import spikes
from experiments.judge import probes, scoring
from experiments.runs import build, updates

SHORT = '--short' in sys.argv
UPDATES, EVERY = (4, 2) if SHORT else (800, 50)
BATCH = 8 if SHORT else 64
HIDDEN = 6 if SHORT else 64
FOLDER = pathlib.Path('runs')
FOLDER.mkdir(exist_ok=True)

# %% [markdown]
# ## The task
# Copying: five symbols, five blanks, and then a trigger at each step of which
# the symbol of ten steps ago is wanted. Nothing in the input of those steps
# says which: it must have been stored when it came. A guess is right one time
# in eight and costs ln 8 = 2.08 nats; a perfect memory has 1 and 0.
#
# The cell is Haiku's own GRU. Nothing has to be rewritten for an online rule.
# Its update gate starts nearly closed, so that a unit forgets slowly.

# %%
task = copying.copying(num_symbols=1 if SHORT else 5, time_lag=5)
cell = cells.gru(task.spec, hidden=HIDDEN, update_bias=-2.0)
loss = task.loss
init_key, data_key, noise_key, held_out_key = jax.random.split(
  jax.random.key(0), 4
)
example = task.sample(data_key, jnp.arange(BATCH))
print(f'{task.spec.num_steps} steps, inputs {example.inputs.shape}')

# %% [markdown]
# ## What an online rule keeps
# The state h of a unit at step t depends on its own past and, through the
# weights, on the past of every other unit:
#
#     h_t = F(h_{t-1}, y_t),   y_t = W x_t,   x_t holds the inputs and h_{t-1}
#
# The derivative of h_t by one weight is therefore a sum over all paths through
# the network, a number for every pair of a unit and a weight: N times as many
# as there are weights (`rtrl`, exact, and too much for all but small networks).
# D-RTRL keeps the path that stays within the unit and drops the others:
#
#     e_t = D_t e_{t-1} + dh_t/dy_t x_t,   D_t = dF/dh_{t-1}
#     dL/dW = sum over t of dL_t/dh_t e_t
#
# One number, the trace e, for every weight (and trial). In a GRU D is 1 - z,
# what the update gate lets stay. Everything on the right is known at step t, so
# nothing is ever gone back to.
#
# `describe` reads the cell and says what this means for each of its parameters.

# %%
print(description.describe(cell, example.inputs[0]))

# %% [markdown]
# The reset gate acts through a second synapse. No trace a unit holds what it
# did, so it learns from the steps of one window (here 5) alone. The readout has
# no past, and its gradient is exact.
#
# ## Side by side
# Three rules, same start, same trials. The third one shows what the trace is
# worth: it goes back a single step, which is D-RTRL with D = 0. Without it one
# could not say whether the online rule learned to remember, or read out what a
# random network remembers anyway.

# %%
rules = {
  'offline: BPTT': bptt.bptt(cell, loss),
  'online: D-RTRL': d_rtrl.d_rtrl(cell, loss, window=5),
  'no trace': truncated_bptt.truncated_bptt(cell, loss, window=1),
}


def train(rule, num_updates=UPDATES):
  """The held-out loss and accuracy after every `EVERY` updates."""
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(optax.cosine_decay_schedule(1e-2, num_updates)),
  )
  learner = base.descend(rule, optimizer)

  @jax.jit
  def some_updates(state, first):
    def update(state, number):
      index = number * BATCH + jnp.arange(BATCH)
      trials = task.sample(data_key, index)
      return learner.update(state, noise_key, trials)[0], None

    return jax.lax.scan(update, state, first + jnp.arange(EVERY))[0]

  @jax.jit
  def judge(state):
    held_out = task.evaluations['held_out'].sample(
      held_out_key, jnp.arange(20 if SHORT else 1000)
    )
    outputs = learner.predict(state, noise_key, held_out)
    metrics = task.metrics(outputs, held_out)
    return metrics['loss'], metrics['accuracy']

  state = jax.jit(learner.init)(init_key, example)
  curve = [judge(state)]
  for first in range(0, num_updates, EVERY):
    state = some_updates(state, first)
    curve.append(judge(state))
  return np.array(curve)


curves = {}
for name, rule in rules.items():
  curves[name] = train(rule)
  print(f'{name:15} loss {curves[name][-1, 0]:.3f}, ', end='')
  print(f'accuracy {curves[name][-1, 1]:.3f}')

# %% [markdown]
# ## Look at it
# Always with chance and ceiling in the picture: a curve that falls and stays
# above 2.08 has learned nothing but to guess.

# %%
canvas = figure.Figure(figsize=(9, 3.6), layout='constrained')
panels = canvas.subplots(1, 2)
for column, metric in enumerate(('loss', 'accuracy')):
  axes = panels[column]
  for name, curve in curves.items():
    axes.plot(EVERY * np.arange(len(curve)), curve[:, column], label=name)
  for level, values, style in (
    ('chance', task.spec.chance, ':'),
    ('ceiling', task.spec.ceiling, '-.'),
  ):
    axes.axhline(values[metric], color='0.45', linestyle=style, label=level)
  axes.set(xlabel='updates', ylabel=f'held-out {metric}', xlim=(0, UPDATES))
  axes.spines[['top', 'right']].set_visible(False)
canvas.legend(
  *panels[0].get_legend_handles_labels(),
  loc='outside lower center',
  ncols=5,
  frameon=False,
  fontsize=8,
)
path = FOLDER / '04_online_learning.png'
canvas.savefig(path, dpi=150)
print(f'wrote {path}')

# %% [markdown]
# BPTT gets all of it. D-RTRL learns to remember, far above what the network
# does without traces, and does not get everything: what a symbol does to other
# units on its way is lost to it.
#
# ## What it gets for that
# Memory that does not grow with the sequence. This is what the compiled
# gradients take beside their arguments and results.


# %%
def memory_of(rule, time_lag):
  """MiB that a compiled gradient takes for itself."""
  long = copying.copying(num_symbols=1 if SHORT else 5, time_lag=time_lag)
  trials = long.sample(data_key, jnp.arange(BATCH))

  def gradient(params, key, trials):
    state = rule.init(key, params, {}, trials)
    state = rule.begin(params, {}, state, key, trials)
    return rule.estimate(params, {}, state, key, trials)[0].gradient

  params, _ = cell.init(data_key, trials.inputs[0])
  compiled = jax.jit(gradient).lower(params, noise_key, trials).compile()
  return compiled.memory_analysis().temp_size_in_bytes / 2**20


lags = (5, 20) if SHORT else (5, 105, 1005)
for name in ('offline: BPTT', 'online: D-RTRL'):
  needed = [f'{memory_of(rules[name], lag):.2f}' for lag in lags]
  print(f'{name}: MiB at a lag of {lags}: {", ".join(needed)}')

# %% [markdown]
# And it needs no end. `base.descend(rule, optimizer, every=1, carry=True)`
# changes the weights at every step and never starts anew, which
# `experiments/configs/lorenz.py:stream` does on a stream without end.
#
# ## The same rule on spiking units
# A spiking unit integrates its inputs, fires when it reaches its threshold, and
# is reset. Half of ours are adaptive: each spike lifts the threshold a little,
# and the lift decays over more than a second. That is a memory which the
# membrane, 20 ms, is not.
#
# A spike has no derivative. A surrogate takes its place near the threshold, and
# then a spiking cell is a cell like any other: D has the leak of the membrane
# and the slow decay of the threshold, and D-RTRL is what is known as e-prop. In
# `e_prop` the error may also come back through fixed random weights, so that
# no unit has to know the weights by which it is read.
#
# The task: cues on the left and on the right, a delay, then: which side had
# more? The majority of the last cue alone is often right, so chance is not what
# to compare with. Two more opponents: the same rule with the threshold's part
# of the trace cut (`credit_adaptation`), and the network with its weights
# frozen, where the readout alone learns.

# %%
SMALL = {
  'task.num_cues': 3,
  'task.dt': 10.0,
  'task.delay_ms': 200.0,
  'network.dt': 10.0,
  'network.hidden': 40,
  'num_updates': 150,
  'task.num_held_out': 500,
}
if SHORT:
  SMALL.update({'num_updates': 2, 'task.num_held_out': 20, 'batch_size': 4})
  SMALL.update({'network.hidden': 6, 'task.num_cues': 1, 'task.dt': 25.0})
  SMALL['network.dt'] = 25.0


def spiking(variant):
  """The run of a variant of evidence.py, made small, and its last state."""
  config = evidence_config.get_config(variant)
  config.update_from_flattened_dict(SMALL)
  run = build.build(config)
  return run, updates.trained(run)


one_cue = evidence.majority_of_last(1, num_cues=SMALL['task.num_cues'])
print(f'the last cue alone is right {one_cue:.3f} of the time')
for variant in (
  ('e_prop',)
  if SHORT
  else (
    'frozen',
    'e_prop_no_adaptation',
    'e_prop_random',
    'e_prop',
  )
):
  run, state = spiking(variant)
  metrics, _, _ = scoring.score_run(run, state)
  print(f'{variant:20}: held-out accuracy {metrics["accuracy"]:.3f}')

# %% [markdown]
# ## Look inside
# The frozen network is at chance here: with weights as they are drawn, hardly a
# unit fires when the question comes. So is the rule without the slow part of
# its trace, in so few updates. (On the whole task, in 500 updates, it gets to
# what one to three of the last cues are worth.) With that part it remembers.
#
# Below is the last one on two trials that it was not trained on. The cues can
# be seen in the inputs, and what is left of them in the leaky count of each
# unit's spikes, by which its threshold is lifted if it adapts (units 20 to 39):
# it is still there when the question comes (shaded), long after the membranes
# have forgotten. The learning signals come with the question, and the traces
# have to wait for them.

# %%
recorded = probes.record(run, state, (0, 1))
path = FOLDER / '04_spikes.png'
spikes.draw({name: np.asarray(x) for name, x in recorded.items()}, path)
print(f'wrote {path}')

# %% [markdown]
# ## What to try
# - Another window. With `within='cut'` it changes the cost and the reset gate's
#   credit, and nothing else: the traces hold the rest.
# - `within='exact'`: full backpropagation within a window, traces beyond. With
#   a window as long as the trial it is BPTT.
# - Other rules in place of `d_rtrl`: `snap` keeps a little more, `pp_prop` far
#   less memory, `uoro` a noisy estimate of everything, `rtrl` everything.
# - `every=5` in `base.descend`: the weights change within a trial.
# - The whole task on spiking units, with its full table of opponents, is
#   `python -m experiments.train --config=experiments/configs/evidence.py`.
