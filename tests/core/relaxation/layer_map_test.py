# SPDX-License-Identifier: Apache-2.0
"""Topologies: the definition of the filters, and all that is refused."""

import pytest

from bionet_core.relaxation import layer_map, layers

DENSE, RECURRENT = layers.FullyConnected, layers.RecurrentDiscrete
ROWS = {
  3: {3: layers.OutputLayer(3), 2: DENSE(3)},
  1: {2: DENSE(4), 3: DENSE(4), 1: RECURRENT(4, 0.5), 0: DENSE(4)},
  2: {1: DENSE((2, 2)), 2: RECURRENT((2, 2), 0.5), 3: DENSE((2, 2))},
}


def changed(receiver, sender, layer):
  """A copy of ROWS with one edge set, or removed where the layer is None."""
  rows = {i: dict(senders) for i, senders in ROWS.items()}
  if layer is None:
    del rows[receiver][sender]
  else:
    rows.setdefault(receiver, {})[sender] = layer
  return rows


def test_edges_are_sorted_whatever_the_order_they_came_in():
  """Truth: Python's sorted."""
  rows = layer_map.LayerMap.from_dict(ROWS)
  edges = [(i, j) for i, senders in ROWS.items() for j in senders]
  assert list(rows) == sorted(edges) != edges
  assert len(rows) == len(edges)
  assert (rows.rows, rows.last) == ((1, 2, 3), 3)
  assert [rows.shape(row) for row in rows.rows] == [(4,), (2, 2), (3,)]


def test_contains_and_getitem_know_the_edges_and_no_others():
  """Truth: the dict the map was made of."""
  rows = layer_map.LayerMap.from_dict(ROWS)
  for i in range(5):
    for j in range(5):
      assert ((i, j) in rows) == (j in ROWS.get(i, {}))
  assert rows[1, 0] is ROWS[1][0]
  with pytest.raises(KeyError, match=r'no edge \(3, 1\)'):
    rows[3, 1]


@pytest.mark.parametrize(
  'messages, passes',
  [
    ('all', lambda i, j: True),
    ('forward', lambda i, j: j <= i),
    ('backward', lambda i, j: j >= i),
    ('free', lambda i, j: j != 3),
  ],
)
def test_filters_let_through_what_they_say(messages, passes):
  """Truth: the definitions of the spec, edge by edge; L = 3.

  The free phase keeps the feedback between hidden rows (1 <- 2).
  """
  rows = layer_map.LayerMap.from_dict(ROWS)
  for i, senders in ROWS.items():
    expected = tuple(j for j in sorted(senders) if passes(i, j))
    assert rows.senders(i, messages) == expected
  assert rows.senders(1) == (0, 1, 2, 3)


def test_an_unknown_filter_is_refused_and_the_near_one_named():
  """Truth: an unknown filter must never mean 'all'."""
  rows = layer_map.LayerMap.from_dict(ROWS)
  with pytest.raises(ValueError, match=r"'fre'.*mean 'free'") as error:
    rows.senders(1, 'fre')
  assert all(name in str(error.value) for name in layer_map.MESSAGES)


@pytest.mark.parametrize(
  'rows, message',
  [
    ({}, 'at least one row'),
    (changed('1', 0, DENSE(4)), "row '1': .*integers"),
    (ROWS | {4.0: {}}, r'row 4\.0: .*integers'),
    (changed(1, '0', DENSE(4)), r"edge \(1, '0'\): .*integers"),
    (changed(1, 1.5, DENSE(4)), r'edge \(1, 1\.5\): .*integers'),
    (changed(0, 1, DENSE(5)), r'rows \[0, 1, 2, 3\]: .*1 to L'),
    (changed(5, 5, layers.OutputLayer(2)), r'rows \[1, 2, 3, 5\].*gap'),
    (changed(2, 2, None), r'edge \(2, 2\) is missing'),
    (changed(3, 3, None), r'edge \(3, 3\) is missing'),
    (
      changed(2, 2, DENSE((2, 2))),
      r'edge \(2, 2\): Fully.*activation',
    ),
    (changed(2, 4, DENSE((2, 2))), r'edge \(2, 4\): unknown sender 4'),
    (
      changed(2, 1, layers.RecurrentDiscrete((2, 2), 0.5)),
      r"edge \(2, 1\): RecurrentDiscrete.*row's own",
    ),
    (changed(2, -1, DENSE((2, 2))), r'edge \(2, -1\): unknown sender -1'),
    (changed(2, 1, DENSE(5)), r'edge \(2, 1\).*size \(5,\).*size \(2, 2\)'),
    (changed(1, 3, DENSE((2, 2))), r'edge \(1, 3\).*size \(2, 2\).*\(4,\)'),
    (changed(3, 3, layers.OutputLayer(4)), r'edge \(3, 2\).*\(3,\).*\(4,\)'),
  ],
)
def test_a_wrong_map_is_refused_and_the_edge_named(rows, message):
  """Truth: the spec's list of what is checked when a map is built."""
  with pytest.raises(ValueError, match=message):
    layer_map.LayerMap.from_dict(rows)


def test_a_truth_value_is_no_row():
  """Truth: True == 1 in a dict, so the key itself must be looked at."""
  senders = {True: layers.OutputLayer(2), 0: DENSE(2)}
  with pytest.raises(ValueError, match=r'edge \(1, True\)'):
    layer_map.LayerMap.from_dict({1: senders})
  with pytest.raises(ValueError, match='row True'):
    layer_map.LayerMap.from_dict({True: {1: layers.OutputLayer(2)}})


def test_names_of_edges_in_trees():
  """Truth: the documented example; checkpoints depend on it."""
  assert layer_map.edge_name((2, 1)) == 'to2_from1'
