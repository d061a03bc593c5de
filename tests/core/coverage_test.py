# SPDX-License-Identifier: Apache-2.0
"""No built-in may be missing from the tables of the tests beside this one."""

import inspect
import pathlib
import runpy

import bionet_core
from bionet_core.relaxation import layers

HERE = pathlib.Path(__file__).parent


def table(path, name):
  return set(runpy.run_path(str(HERE / path))[name])


def test_every_cell_is_in_the_contract_table():
  """Truth: bionet_core.CELLS."""
  tables = (
    'cells/cores_test.py',
    'cells/leaky_test.py',
    'cells/linear_recurrent_test.py',
    'cells/min_gru_test.py',
    'cells/spiking_test.py',
    'cells/tissue_test.py',
  )
  tested = set.union(*(table(path, 'CELLS_TESTED') for path in tables))
  assert tested == set(bionet_core.CELLS)


def test_every_network_is_in_the_contract_table():
  """Truth: bionet_core.NETWORKS."""
  tested = table('relaxation/orchestrator_test.py', 'NETWORKS_TESTED')
  assert tested == set(bionet_core.NETWORKS)


def test_every_layer_is_in_the_table_of_layers():
  """Truth: the public dataclasses of layers.py; Protocols are interfaces."""
  public = {
    kind
    for name, kind in vars(layers).items()
    if inspect.isclass(kind)
    and kind.__module__ == layers.__name__
    and not name.startswith('_')
    and not getattr(kind, '_is_protocol', False)
  }
  assert public
  assert table('relaxation/layers_test.py', 'LAYERS') == public
