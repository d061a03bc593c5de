# SPDX-License-Identifier: Apache-2.0
"""Learning rules, and the loop that trains with them."""

import types

LEARNERS = types.MappingProxyType(
  {
    'bptt': 'bionet_learners.bptt:bptt',
    'local_plasticity': 'bionet_learners.local_plasticity:local_plasticity',
  }
)
"""Built-in learners, `name -> 'module:factory'`; others' by entry point."""
