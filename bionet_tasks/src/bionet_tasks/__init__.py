# SPDX-License-Identifier: Apache-2.0
"""Tasks with known chance and ceiling, by which learning rules are judged."""

import types

TASKS = types.MappingProxyType(
  {
    'adding': 'bionet_tasks.adding:adding',
    'cell_fate': 'bionet_tasks.cell_fate:cell_fate',
    'copying': 'bionet_tasks.copying:copying',
    'delayed_match': 'bionet_tasks.decisions:delayed_match',
    'delayed_xor': 'bionet_tasks.decisions:delayed_xor',
    'digits': 'bionet_tasks.digits:digits',
    'evidence_accumulation': 'bionet_tasks.evidence:evidence_accumulation',
    'flip_flop': 'bionet_tasks.flip_flop:flip_flop',
    'lorenz': 'bionet_tasks.lorenz:lorenz',
    'prototypes': 'bionet_tasks.prototypes:prototypes',
    'sequential_digits': 'bionet_tasks.sequential_digits:sequential_digits',
    'store_recall': 'bionet_tasks.decisions:store_recall',
    'temporal_parity': 'bionet_tasks.decisions:temporal_parity',
  }
)
"""Built-in tasks, `name -> 'module:factory'`; others' come by entry point."""
