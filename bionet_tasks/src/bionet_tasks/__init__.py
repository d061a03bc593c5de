# SPDX-License-Identifier: Apache-2.0
"""Tasks with known chance and ceiling, by which learning rules are judged."""

import types

from bionet_core import version
from bionet_tasks.base import (
  DescribeFn,
  Evaluation,
  EvaluationSampleFn,
  Measure,
  MetricsFn,
  Task,
  TaskSpec,
)
from bionet_tasks.population.cell_fate import cell_fate
from bionet_tasks.recorded.arrays import from_arrays
from bionet_tasks.recorded.csv_table import from_csv
from bionet_tasks.static.digits import digits
from bionet_tasks.static.prototypes import prototypes
from bionet_tasks.temporal.adding import adding
from bionet_tasks.temporal.copying import copying
from bionet_tasks.temporal.decisions import (
  delayed_match,
  delayed_xor,
  store_recall,
  temporal_parity,
)
from bionet_tasks.temporal.evidence import evidence_accumulation
from bionet_tasks.temporal.flip_flop import flip_flop
from bionet_tasks.temporal.lorenz import lorenz
from bionet_tasks.temporal.sequential_digits import sequential_digits

__version__ = version.installed_version('bionet-tasks')
"""The version of the distribution that installed this package."""

TASKS = types.MappingProxyType(
  {
    'adding': 'bionet_tasks:adding',
    'cell_fate': 'bionet_tasks:cell_fate',
    'copying': 'bionet_tasks:copying',
    'delayed_match': 'bionet_tasks:delayed_match',
    'delayed_xor': 'bionet_tasks:delayed_xor',
    'digits': 'bionet_tasks:digits',
    'evidence_accumulation': 'bionet_tasks:evidence_accumulation',
    'flip_flop': 'bionet_tasks:flip_flop',
    'from_csv': 'bionet_tasks:from_csv',
    'lorenz': 'bionet_tasks:lorenz',
    'prototypes': 'bionet_tasks:prototypes',
    'sequential_digits': 'bionet_tasks:sequential_digits',
    'store_recall': 'bionet_tasks:store_recall',
    'temporal_parity': 'bionet_tasks:temporal_parity',
  }
)
"""Built-in tasks, `name -> 'module:factory'`; others' come by entry point."""

__all__ = [
  'TASKS',
  'DescribeFn',
  'Evaluation',
  'EvaluationSampleFn',
  'Measure',
  'MetricsFn',
  'Task',
  'TaskSpec',
  'adding',
  'cell_fate',
  'copying',
  'delayed_match',
  'delayed_xor',
  'digits',
  'evidence_accumulation',
  'flip_flop',
  'from_arrays',
  'from_csv',
  'lorenz',
  'prototypes',
  'sequential_digits',
  'store_recall',
  'temporal_parity',
]
