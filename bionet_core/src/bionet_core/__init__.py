# SPDX-License-Identifier: Apache-2.0
"""Dynamics and layers: the cells and networks that learning rules act on."""

import types

CELLS = types.MappingProxyType(
  {
    'gru': 'bionet_core.cells.haiku:gru',
    'lstm': 'bionet_core.cells.haiku:lstm',
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
