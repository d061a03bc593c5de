# SPDX-License-Identifier: Apache-2.0
"""Six tasks of memory, by a GRU and the rules that a user compares.

  python -m experiments.train --workdir=runs/adding \
    --config=experiments/configs/memory.py:adding

Choose `TASK` or `TASK,RULE`. The rules are

  bptt    backpropagation through time on hk.GRU(64) (the default);
  d_rtrl  D-RTRL in windows of 10, its GRU's update gate nearly closed at first;
  e_prop  the same traces, errors coming back through fixed random weights;
  smoke   no rule, but bptt on a small cell for a few updates, to see that
          everything runs.

Held out, as the choices stand. By bptt seeds 0, 1, 2; by the others seed 0, or
seeds 0 and 1:

  task             bptt               d_rtrl       e_prop
  delayed_xor      1.000 1.000 1.000  1.000        1.000
  delayed_match    1.000 1.000 1.000  1.000        1.000
  store_recall     1.000 1.000 1.000  1.000        1.000
  temporal_parity  1.000 1.000 1.000  1.000        1.000
  flip_flop        .0005 .0006 .0006  .0176        .0569
  adding           .0003 .0001 .0001  .0004 .0003  .0010 .0044

The first four give the accuracy (chance .5, ceiling 1), the last two the
squared error (ceiling 0; to hold nothing costs 1 in flip_flop, and chance is
1/6 in adding); 1,000 trials, of flip_flop 500. Ten to thirty CPU seconds a run.
"""

from ml_collections import config_dict

from bionet_core import plugins
from experiments.configs import base


def get_config(choice: str = 'delayed_xor') -> config_dict.ConfigDict:
  """The config of `TASK` or `TASK,RULE`.

  Raises:
    KeyError: for a task or a rule that is not here.
  """
  task, _, rule = choice.partition(',')
  if task not in TASKS:
    hint = plugins.near(task, TASKS)
    raise KeyError(
      f'no task {task!r} in this config.{hint} There are: {", ".join(TASKS)}; '
      'a rule may follow, as in adding,d_rtrl.'
    )
  rule = rule or 'bptt'
  config = base.gru_config(rule)
  config.num_updates = _NUM_UPDATES.get(task, config.num_updates)
  config.task.name = task
  config.task.update(TASKS[task])
  small = {f'task.{name}': value for name, value in _SMALL[task].items()}
  small['task.num_held_out'] = 20
  return base.apply_variant(config, rule, base.gru_variants(smoke=small))


TASKS = {
  'delayed_xor': {
    # Silent steps after each bit, at most; and at least: uniform between.
    'delay': 10,
    'min_delay': 5,
    # Fresh trials to be judged by.
    'num_held_out': 1000,
  },
  'delayed_match': {
    # Stimuli there are.
    'num_stimuli': 4,
    # Silent steps between sample and test, at most; and at least.
    'delay': 10,
    'min_delay': 5,
    'num_held_out': 1000,
  },
  'store_recall': {
    # Bits that go by between store and recall, at most; and at least.
    'delay': 10,
    'min_delay': 5,
    'num_held_out': 1000,
  },
  'temporal_parity': {
    # Bits, at most; and at least: uniform between.
    'num_bits': 6,
    'min_bits': 2,
    'num_held_out': 1000,
  },
  'flip_flop': {
    # Channels.
    'num_bits': 3,
    # Steps of a trial.
    'length': 50,
    # Probability of a pulse, per channel and step.
    'pulse_rate': 0.1,
    'num_held_out': 500,
  },
  'adding': {
    # Numbers in the stream, at most; and at least: uniform between.
    'length': 50,
    'min_length': 25,
    'num_held_out': 1000,
  },
}
"""`{task: the arguments of its factory}`."""

# Where it takes more updates than 500.
_NUM_UPDATES = {'temporal_parity': 1000, 'adding': 1000}

# Of the variant smoke.
_SMALL = {
  'delayed_xor': {'delay': 2, 'min_delay': 1},
  'delayed_match': {'delay': 2, 'min_delay': 1},
  'store_recall': {'delay': 2, 'min_delay': 1},
  'temporal_parity': {'num_bits': 3, 'min_bits': 1},
  'flip_flop': {'length': 6},
  'adding': {'length': 4, 'min_length': 3},
}

CHOICES = (
  f'TASK or TASK,RULE; TASK is one of {", ".join(TASKS)}, RULE one of '
  + ', '.join(base.gru_variants(smoke={}))
)
"""What may follow the colon."""
