# SPDX-License-Identifier: Apache-2.0
"""Small sizes of every plugin, and which of them fit each other."""

import itertools
import pathlib

import jax
import numpy as np

from experiments.configs import compose

TESTS = pathlib.Path(__file__).parents[2]

# Small sizes of every plugin; a new one has to enter here.
TASKS = {
  'cell_fate': {
    'num_cells': 3,
    'dt': 0.1,
    'duration': 0.5,
    'num_held_out': 6,
    'held_out_dt': 0.1,
    'held_out_duration': 0.5,
  },
  'adding': {'length': 3, 'num_held_out': 4},
  'copying': {'num_symbols': 2, 'time_lag': 1, 'num_held_out': 4},
  'delayed_match': {'delay': 1, 'num_held_out': 4},
  'delayed_xor': {'delay': 1, 'num_held_out': 4},
  'digits': {},
  'evidence_accumulation': {
    'num_cues': 1,
    'dt': 50.0,
    'delay_ms': 50.0,
    'recall_ms': 50.0,
    'cue_rate': 20.0,
    'num_held_out': 4,
  },
  'flip_flop': {'length': 4, 'num_held_out': 4},
  'from_csv': {
    'path': str(TESTS / 'tasks' / 'recorded' / 'trials.csv'),
    'trial': 'trial',
  },
  'lorenz': {'length': 4, 'num_held_out': 4},
  'prototypes': {
    'num_prototypes': 3,
    'dim': 6,
    'num_data': 12,
    'num_held_out': 6,
  },
  'sequential_digits': {},
  'store_recall': {'delay': 1, 'min_delay': 0, 'num_held_out': 4},
  'temporal_parity': {'num_bits': 2, 'min_bits': 1, 'num_held_out': 4},
}
CELLS = {
  'gru': {'hidden': 4},
  'leaky': {'hidden': 4},
  'lru': {'hidden': 4},
  'lstm': {'hidden': 4},
  'min_gru': {'hidden': 4},
  'spiking': {'hidden': 4, 'scale_in': 3.0},
  'tissue': {'hidden': (4,)},
  'vanilla_rnn': {'hidden': 4},
}
NETWORKS = {'asymmetric': {'hidden': 4}}
# Cells that say the density of what they draw.
NOISY = {'tissue': CELLS['tissue']}
# Cells that run tasks whose trials are scored each by itself.
RECURRENT = {name: sizes for name, sizes in CELLS.items() if name != 'tissue'}
LEARNERS = {
  'bptt': {},
  'd_rtrl': {'window': 2},
  'e_prop': {'window': 2},
  'evolution': {'population_size': 4, 'elites': 2},
  'evosax': {'population_size': 4},
  'local_plasticity': {'clamped': 2, 'free': 2, 'evaluation_sweeps': 2},
  'open_es': {'population_size': 4},
  'pp_prop': {},
  'rflo': {'window': 2},
  'rtrl': {},
  'score_function': {},
  'snap': {},
  'three_factor': {'window': 2},
  'truncated_bptt': {'window': 2},
  'uoro': {},
}
ANY_CELL = (
  *('bptt', 'evolution', 'evosax', 'open_es', 'rtrl', 'snap'),
  *('truncated_bptt', 'uoro', 'd_rtrl', 'e_prop', 'pp_prop', 'rflo'),
)

# The dynamics that a learner takes.
TAKES = {
  **dict.fromkeys(ANY_CELL, CELLS),
  'local_plasticity': NETWORKS,
  'score_function': NOISY,
  'three_factor': RECURRENT,
}
STATIC = ('digits', 'prototypes')
# Tasks of trials over time that any recurrent cell runs.
SEQUENCES = tuple(sorted({*TASKS} - {'cell_fate', *STATIC}))
# Cells that read their inputs as something: they run one task alone.
RUNS = {'tissue': ('cell_fate',)}

PRODUCT = list(itertools.product(TASKS, (*CELLS, *NETWORKS), LEARNERS))


def fits(task: str, network: str, learner: str) -> bool:
  if network in NETWORKS:
    runs = STATIC
  else:
    runs = RUNS.get(network, (*SEQUENCES, *STATIC))
  return network in TAKES[learner] and task in runs


COMPATIBLE = [case for case in PRODUCT if fits(*case)]


def config(task: str, network: str, learner: str):
  config = compose.get_config(f'{task},{network},{learner}')
  config.batch_size = 3
  config.num_updates = 4
  sizes = {**CELLS, **NETWORKS}
  for section, settings in (
    ('task', TASKS[task]),
    ('network', sizes[network]),
    ('learner', LEARNERS[learner]),
  ):
    config[section].update(settings)
  return config


def bits(tree) -> list[bytes]:
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
