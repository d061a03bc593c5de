# SPDX-License-Identifier: Apache-2.0
"""Copying a sequence after a delay, by every rule that runs on its cell.

  python -m experiments.train --config=experiments/configs/copying.py:bptt \
    --workdir=runs/copying

Half a minute on a CPU. Recall of 1,000 held-out trials, seeds 0, 1, 2, or seed
0 alone; chance .125, ceiling 1. Beside it, as means of three seeds, the same
with no credit beyond a step or window, and with a frozen cell, whose readout
alone learns:

  variant            recall            no credit  frozen  what it is
  ... on hk.GRU(128), 10 symbols, lag 10
  bptt               .998 (mean)                          BPTT (the default)
  d_rtrl             .930 .917 .883    .384       .304    exact in windows of 10
  ... with a lag of 50
  bptt_lag50         .865 .860 .944                       BPTT, 1,500 updates
  quickstart_bptt    .187                                 200 updates at 1e-3,
  quickstart_d_rtrl  .152                                 as published elsewhere
  ... on 5 symbols, lag 5 (frozen: for 1,500 updates, they take 700)
  e_prop             .793                         .386    random feedback
  pp_prop            .591                         .386    pre and post apart
  rflo               .492                         .386    one leak, random
                                                          feedback
  ... on 2 symbols, lag 1 and 32 units
  three_factor       .505 .517 .593               .557    the readout's doing:
                                                          the cell gains nothing
  ... on 3 symbols, lag 3 and 16 units: an influence of units and parameters for
  ... each trial, or much noise
  rtrl               .947                                 exact, forward in time
  snap1              .855                                 a weight's own units
  uoro               .585                                 a random outer product
  ... on an LRU of 64 complex units, 10 symbols, by D-RTRL, which is exact
  lru                .999 .994 .984    .532       .132    lag 10, radius .5-.8
  lru_lag50          .995 .940 .982    .404       .139    lag 50, radius .8-.93
  lru_no_traces, lru_frozen            the controls of lru
  lru_remembers                                   1.000   frozen, radius .9-.999
  ... on a minGRU of 128 units, likewise
  min_gru            .820 .823 .820    .307       .288    lag 10
  smoke              a small cell for a few updates, to see that all runs

The quickstarts end at losses of 2.022 and 2.081; chance is ln 8 = 2.079. A cell
that remembers as `lru_remembers` does needs no credit: its setting proves
nothing, and the radius of `lru` is small for that reason.
"""

from ml_collections import config_dict

from experiments.configs import base


def get_config(variant: str = 'bptt') -> config_dict.ConfigDict:
  """The config of a variant."""
  config = base.base_config()
  config.batch_size = 256
  config.num_updates = 500
  config.log_every = 50
  config.eval_every = 100

  config.task.name = 'copying'
  # Symbols to remember.
  config.task.num_symbols = 10
  # Steps between the last symbol and the trigger.
  config.task.time_lag = 10
  # Fresh trials to be judged by.
  config.task.num_held_out = 1000

  cell, rule = _PARTS.get(variant, ('gru', 'bptt'))
  _choose_cell(config, cell)
  base.choose_rule(config, rule)

  config.optimizer.name = 'adam'
  config.optimizer.learning_rate = 1e-2
  config.optimizer.clip_norm = 1.0
  if cell == 'lru' or rule == 'three_factor':
    # On the learning rate of all but the readout; 0 freezes it.
    config.optimizer.rate_factors = {cell: 1.0}
  return base.apply_variant(config, variant, _VARIANTS)


def _choose_cell(config: config_dict.ConfigDict, cell: str) -> None:
  """The network's section of a cell."""
  # 'gru', 'lstm' or 'vanilla_rnn'; 'lru' and 'min_gru' in their variants.
  config.network.name = cell
  # Units of a layer; those of an LRU are complex.
  config.network.hidden = 64 if cell == 'lru' else 128
  # Layers, each reading the one below at the same step.
  config.network.num_layers = 1
  if cell == 'lru':
    # Smallest and largest |lambda| at the start: how long it remembers.
    config.network.radius = (0.5, 0.8)
  if cell == 'min_gru':
    # Where the update gate's bias starts; far below 0 a unit forgets slowly.
    config.network.update_bias = 0.0
  if cell != 'gru':
    # Hidden sizes of a tanh MLP as the readout; none: linear.
    config.network.readout = (128,)


_PARTS = {
  'quickstart_d_rtrl': ('gru', 'd_rtrl'),
  'd_rtrl': ('gru', 'd_rtrl'),
  'pp_prop': ('gru', 'pp_prop'),
  'e_prop': ('gru', 'e_prop'),
  'rflo': ('gru', 'rflo'),
  'three_factor': ('gru', 'three_factor'),
  'snap1': ('gru', 'snap'),
  'rtrl': ('gru', 'rtrl'),
  'uoro': ('gru', 'uoro'),
  'lru': ('lru', 'd_rtrl'),
  'lru_no_traces': ('lru', 'truncated_bptt'),
  'lru_frozen': ('lru', 'd_rtrl'),
  'lru_lag50': ('lru', 'd_rtrl'),
  'lru_remembers': ('lru', 'd_rtrl'),
  'min_gru': ('min_gru', 'd_rtrl'),
}
"""The cell and the learner of each variant that is not of a GRU by BPTT."""

_QUICKSTART = {
  'batch_size': 64,
  'num_updates': 200,
  'log_every': 10,
  'eval_every': 20,
  'task.time_lag': 50,
  'optimizer.learning_rate': 1e-3,
  'optimizer.clip_norm': 0.0,
}
# Credit by traces goes as far as a unit remembers, so that a GRU starts with
# update gates that are nearly closed; and a rate that stays high undoes it.
_ONLINE = {
  'batch_size': 64,
  'num_updates': 700,
  'network.update_bias': -2.0,
  'optimizer.schedule': 'cosine',
}
_SHORT = {**_ONLINE, 'task.num_symbols': 5, 'task.time_lag': 5}
# What keeps an influence of all units and parameters is for few of them.
_SMALL = {
  'batch_size': 64,
  'num_updates': 1000,
  'task.num_symbols': 3,
  'task.time_lag': 3,
  'network.hidden': 16,
  'optimizer.schedule': 'cosine',
}
# The rule itself, a step at a time.
_STEPWISE = {'learner.window': 1}
_LRU = {
  'batch_size': 64,
  'num_updates': 300,
  'optimizer.learning_rate': 5e-3,
}
_FROZEN = {'optimizer.rate_factors.lru': 0.0}

_VARIANTS = {
  'bptt': {},
  'quickstart_bptt': _QUICKSTART,
  'quickstart_d_rtrl': _QUICKSTART,
  'd_rtrl': {
    **_ONLINE,
    'learner.within': 'exact',
    'batch_size': 128,
    'optimizer.learning_rate': 4e-2,
  },
  'pp_prop': _SHORT,
  'e_prop': _SHORT,
  'rflo': _SHORT,
  # Its direction is no gradient; at the readout's rate it undoes the cell, and
  # recall falls to chance.
  'three_factor': {
    'batch_size': 64,
    'num_updates': 500,
    'task.num_symbols': 2,
    'task.time_lag': 1,
    'network.hidden': 32,
    'optimizer.schedule': 'cosine',
    'optimizer.rate_factors.gru': 0.03,
  },
  'snap1': _SMALL,
  'rtrl': _SMALL,
  'uoro': _SMALL,
  'bptt_lag50': {'batch_size': 64, 'num_updates': 1500, 'task.time_lag': 50},
  'lru': {**_LRU, **_STEPWISE},
  'lru_no_traces': _LRU,
  'lru_frozen': {**_LRU, **_STEPWISE, **_FROZEN},
  'lru_lag50': {
    **_LRU,
    **_STEPWISE,
    'num_updates': 500,
    'task.time_lag': 50,
    'network.radius': (0.8, 0.93),
  },
  'lru_remembers': {
    **_LRU,
    **_STEPWISE,
    **_FROZEN,
    'network.radius': (0.9, 0.999),
  },
  'min_gru': {
    **_STEPWISE,
    'batch_size': 64,
    'num_updates': 1000,
    'network.update_bias': -2.0,
  },
  'smoke': {
    'num_updates': 6,
    'batch_size': 8,
    'task.num_symbols': 3,
    'task.time_lag': 2,
    'task.num_held_out': 20,
    'network.hidden': 8,
    'log_every': 2,
    'eval_every': 3,
  },
}

CHOICES = ', '.join(_VARIANTS)
"""What may follow the colon."""
