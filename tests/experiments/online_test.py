# SPDX-License-Identifier: Apache-2.0
"""The suite of what online rules cost, and its figure; nothing is timed here.

Truth: the compiler's own count of memory; the rows that are drawn.
"""

import os

import jax
import pytest

from experiments.figures import online_cost
from experiments.suites import online

ROWS = [
  {'rule': rule, 'T': T, 'loss on': on, 'CPU ms': T * 1.5, 'temp MiB': T / 4}
  for rule, on in (('bptt', 'last 10'), ('uoro', 'last 10'), ('bptt', 'all'))
  for T in (70, 220)
]


@pytest.fixture
def kept_again():
  """After a suite that compiles anew, the tests' programs are kept again."""
  yield
  jax.config.update('jax_enable_compilation_cache', True)


def test_rows_say_what_was_asked_for(monkeypatch, kept_again):
  """Truth: BPTT stores each step, so that its memory grows with T."""
  monkeypatch.setattr(os, 'sched_setaffinity', lambda *_: None)
  monkeypatch.setattr(online, 'LAGS', (2, 60))
  monkeypatch.setattr(online, '_ROUNDS', {2: 1, 60: 1})
  rows = online.run([0], 'bptt, GRU 16')
  assert [(row['rule'], row['T']) for row in rows] == [
    ('bptt, GRU 16', 22),
    ('bptt, GRU 16', 80),
  ]
  assert rows[1]['temp MiB'] > 2 * rows[0]['temp MiB'] > 0
  assert all(row['CPU ms'] > 0 for row in rows)
  assert online.run([0], 'no such rule') == []


def test_the_figure_has_a_line_a_rule(drawn, tmp_path):
  """Truth: the rows, read back from the axes."""
  online_cost.draw(ROWS, tmp_path / 'cost.png')
  memory, time = drawn[0].axes
  for axes, scale in ((memory, 0.25), (time, 1.5)):
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ['bptt', 'uoro', 'bptt, loss on all']
    for line in lines.values():
      assert list(line.get_xdata()) == [70, 220]
      assert list(line.get_ydata()) == pytest.approx([70 * scale, 220 * scale])
  assert (tmp_path / 'cost.png').stat().st_size > 1000
