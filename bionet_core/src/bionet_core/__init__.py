# SPDX-License-Identifier: Apache-2.0
"""Dynamics and layers: the cells and networks that learning rules act on."""

import types

CELLS = types.MappingProxyType(
  {
    'gru': 'bionet_core.cells.haiku:gru',
    'leaky': 'bionet_core.cells.leaky:leaky',
    'lru': 'bionet_core.cells.linear_recurrent:lru',
    'lstm': 'bionet_core.cells.haiku:lstm',
    'min_gru': 'bionet_core.cells.min_gru:min_gru',
    'spiking': 'bionet_core.cells.spiking:spiking',
    'tissue': 'bionet_core.cells.tissue:tissue',
    'vanilla_rnn': 'bionet_core.cells.haiku:vanilla_rnn',
  }
)
"""Built-in cells, `name -> 'module:factory'`; others' come by entry point."""

NETWORKS = types.MappingProxyType(
  {
    'asymmetric': 'bionet_core.relaxation.asymmetric:asymmetric',
  }
)
"""Built-in relaxation networks, `name -> 'module:factory'`."""
