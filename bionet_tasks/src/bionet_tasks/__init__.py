# SPDX-License-Identifier: Apache-2.0
"""Tasks with known chance and ceiling, by which learning rules are judged."""

import types

TASKS = types.MappingProxyType(
  {
    'copying': 'bionet_tasks.copying:copying',
    'digits': 'bionet_tasks.digits:digits',
    'prototypes': 'bionet_tasks.prototypes:prototypes',
  }
)
"""Built-in tasks, `name -> 'module:factory'`; others' come by entry point."""
