# SPDX-License-Identifier: Apache-2.0
"""The topology of a relaxation network: which row sends to which."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import cast

from bionet_core import plugins
from bionet_core.relaxation import layers

MESSAGES = ('all', 'forward', 'backward', 'free')
"""Filters of messages: every sender; j <= i; j >= i; all but the output row."""


@dataclasses.dataclass(frozen=True)
class LayerMap:
  """`{receiver: {sender: layer}}`, sorted, static and checked.

  Rows are numbered 0 (the input, only sent) to L (the output). The layer on
  `(i, i)` is row i's own; `(i, j)` with j < i is forward, with j > i feedback.

  Attributes:
    edges: `((receiver, sender), layer)` in ascending order; make one with
      `from_dict`.
  """

  edges: tuple[tuple[tuple[int, int], layers.Layer], ...]

  @classmethod
  def from_dict(
    cls, rows: Mapping[int, Mapping[int, layers.Layer]]
  ) -> 'LayerMap':
    """Checks a nested dict and makes the map of it.

    Args:
      rows: `{receiver: {sender: layer}}`, receivers 1 to L.

    Raises:
      ValueError: for a key that is no integer, a row that is missing, an
        unknown sender, a row without its own layer, a hidden or output row
        whose own layer has no activation, a layer with an activation between
        two rows, or layers that disagree about a row's size. It names the
        edge.
    """
    _check_keys(rows)
    edges = tuple(
      ((receiver, sender), rows[receiver][sender])
      for receiver in sorted(rows)
      for sender in sorted(rows[receiver])
    )
    _check_topology(rows)
    _check_sizes(edges)
    return cls(edges)

  @property
  def rows(self) -> tuple[int, ...]:
    """The receiving rows, 1 to L."""
    return tuple(sorted({receiver for (receiver, _), _ in self.edges}))

  @property
  def last(self) -> int:
    """L, the output row."""
    return self.rows[-1]

  def row_layer(self, row: int) -> layers.RowLayer:
    """The layer of a row's own, which has its activation."""
    return cast(layers.RowLayer, self[row, row])

  def shape(self, row: int) -> tuple[int, ...]:
    """The shape of a row (without B), 1 to L."""
    return layers.shape_of(self[row, row].out)

  def senders(self, row: int, messages: str = 'all') -> tuple[int, ...]:
    """The senders of a row that a filter lets through, ascending.

    Args:
      row: the receiver.
      messages: one of `MESSAGES`.

    Raises:
      ValueError: for an unknown filter.
    """
    if messages not in MESSAGES:
      raise ValueError(
        f'messages={messages!r}: must be one of {", ".join(MESSAGES)}.'
        f'{plugins.near(str(messages), MESSAGES)}'
      )
    passes = {
      'all': lambda sender: True,
      'forward': lambda sender: sender <= row,
      'backward': lambda sender: sender >= row,
      'free': lambda sender: sender != self.last,
    }[messages]
    return tuple(j for (i, j), _ in self.edges if i == row and passes(j))

  def __contains__(self, edge: tuple[int, int]) -> bool:
    return any(edge == place for place, _ in self.edges)

  def __getitem__(self, edge: tuple[int, int]) -> layers.Layer:
    for place, layer in self.edges:
      if place == edge:
        return layer
    raise KeyError(f'no edge {edge} (receiver, sender) in this layer map.')

  def __iter__(self) -> Iterator[tuple[int, int]]:
    return iter(edge for edge, _ in self.edges)

  def __len__(self) -> int:
    return len(self.edges)


def edge_name(edge: tuple[int, int]) -> str:
  """The name of an edge in trees of parameters: `(2, 1) -> 'to2_from1'`."""
  receiver, sender = edge
  return f'to{receiver}_from{sender}'


def _is_row(key: object) -> bool:
  return isinstance(key, int) and not isinstance(key, bool)


def _check_keys(rows) -> None:
  if not rows:
    raise ValueError('a layer map needs at least one row.')
  for receiver, senders in rows.items():
    if not _is_row(receiver):
      raise ValueError(f'row {receiver!r}: rows are numbered by integers.')
    for sender in senders:
      if not _is_row(sender):
        raise ValueError(
          f'edge ({receiver}, {sender!r}): rows are numbered by integers.'
        )


def _check_topology(rows) -> None:
  expected = list(range(1, max(rows) + 1))
  if sorted(rows) != expected:
    raise ValueError(
      f'rows {sorted(rows)}: rows must be 1 to L without a gap; row 0 is the '
      'input, which is sent and never updated.'
    )
  for receiver in expected:
    if receiver not in rows[receiver]:
      raise ValueError(
        f'edge ({receiver}, {receiver}) is missing: row {receiver} needs a '
        'layer of its own for its activation.'
      )
    if not hasattr(rows[receiver][receiver], 'activation'):
      kind = type(rows[receiver][receiver]).__name__
      raise ValueError(
        f'edge ({receiver}, {receiver}): {kind} has no activation and cannot '
        "be a row's own layer."
      )
    for sender in sorted(rows[receiver]):
      if not 0 <= sender <= expected[-1]:
        raise ValueError(
          f'edge ({receiver}, {sender}): unknown sender {sender}; rows are 0 '
          f'to {expected[-1]}.'
        )
      activates = hasattr(rows[receiver][sender], 'activation')
      if activates and sender != receiver:
        kind = type(rows[receiver][sender]).__name__
        raise ValueError(
          f"edge ({receiver}, {sender}): {kind} can only be a row's own layer; "
          'it has an activation.'
        )


def _check_sizes(edges) -> None:
  shapes = {i: layers.shape_of(layer.out) for (i, j), layer in edges if i == j}
  for (receiver, sender), layer in edges:
    out = layers.shape_of(layer.out)
    if out != shapes[receiver]:
      raise ValueError(
        f'edge ({receiver}, {sender}): its messages have size {out}, but row '
        f'{receiver} has size {shapes[receiver]}.'
      )
