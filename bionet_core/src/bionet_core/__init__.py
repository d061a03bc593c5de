# SPDX-License-Identifier: Apache-2.0
"""Dynamics and layers: the cells and networks that learning rules act on."""

import types

from bionet_core import version
from bionet_core.cells.cores import cell_from_core, gru, lstm, vanilla_rnn
from bionet_core.cells.leaky import leaky
from bionet_core.cells.linear_recurrent import lru
from bionet_core.cells.min_gru import min_gru
from bionet_core.cells.noisy import noisy
from bionet_core.cells.spiking import spiking
from bionet_core.cells.stack import stack
from bionet_core.cells.tissue import cell_from_rate, tissue
from bionet_core.interfaces import (
  ArrayTree,
  Cell,
  InitFn,
  InitialStateFn,
  LocalLossFn,
  LogDensityFn,
  Model,
  ModelInitFn,
  NetworkReadoutFn,
  NetworkStateFn,
  PenaltyFn,
  PredictFn,
  ReadoutFn,
  RelaxationNetwork,
  SampleFn,
  SettleFn,
  Sizes,
  StepFn,
  StepLoss,
  Trials,
)
from bionet_core.relaxation.asymmetric import asymmetric

__version__ = version.installed_version('bionet-core')
"""The version of the distribution that installed this package."""

CELLS = types.MappingProxyType(
  {
    'gru': 'bionet_core:gru',
    'leaky': 'bionet_core:leaky',
    'lru': 'bionet_core:lru',
    'lstm': 'bionet_core:lstm',
    'min_gru': 'bionet_core:min_gru',
    'spiking': 'bionet_core:spiking',
    'tissue': 'bionet_core:tissue',
    'vanilla_rnn': 'bionet_core:vanilla_rnn',
  }
)
"""Built-in cells, `name -> 'module:factory'`; others' come by entry point."""

NETWORKS = types.MappingProxyType({'asymmetric': 'bionet_core:asymmetric'})
"""Built-in relaxation networks, `name -> 'module:factory'`."""

__all__ = [
  'CELLS',
  'NETWORKS',
  'ArrayTree',
  'Cell',
  'InitFn',
  'InitialStateFn',
  'LocalLossFn',
  'LogDensityFn',
  'Model',
  'ModelInitFn',
  'NetworkReadoutFn',
  'NetworkStateFn',
  'PenaltyFn',
  'PredictFn',
  'ReadoutFn',
  'RelaxationNetwork',
  'SampleFn',
  'SettleFn',
  'Sizes',
  'StepFn',
  'StepLoss',
  'Trials',
  '__version__',
  'asymmetric',
  'cell_from_core',
  'cell_from_rate',
  'gru',
  'leaky',
  'lru',
  'lstm',
  'min_gru',
  'noisy',
  'spiking',
  'stack',
  'tissue',
  'vanilla_rnn',
]
