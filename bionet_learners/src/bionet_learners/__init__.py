# SPDX-License-Identifier: Apache-2.0
"""Learning rules, and the loop that trains with them."""

import types

LEARNERS = types.MappingProxyType(
  {
    'bptt': 'bionet_learners.bptt:bptt',
    'd_rtrl': 'bionet_learners.d_rtrl:d_rtrl',
    'e_prop': 'bionet_learners.e_prop:e_prop',
    'evolution': 'bionet_learners.evolution:evolution',
    'evosax': 'bionet_learners.evosax_strategy:evosax_strategy',
    'local_plasticity': 'bionet_learners.local_plasticity:local_plasticity',
    'open_es': 'bionet_learners.open_es:open_es',
    'pp_prop': 'bionet_learners.pp_prop:pp_prop',
    'rflo': 'bionet_learners.rflo:rflo',
    'rtrl': 'bionet_learners.rtrl:rtrl',
    'score_function': 'bionet_learners.score_function:score_function',
    'snap': 'bionet_learners.snap:snap',
    'three_factor': 'bionet_learners.three_factor:three_factor',
    'truncated_bptt': 'bionet_learners.truncated_bptt:truncated_bptt',
    'uoro': 'bionet_learners.uoro:uoro',
  }
)
"""Built-in learners, `name -> 'module:factory'`; others' by entry point."""
