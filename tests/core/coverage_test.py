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
  assert table('cells/haiku_test.py', 'CELLS_TESTED') == set(bionet_core.CELLS)


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
