# SPDX-License-Identifier: Apache-2.0
"""The suite for accelerators: its rows here, and what they must say there."""

import pytest

from experiments.suites import gpu


@pytest.fixture(autouse=True)
def environment_as_it_was(monkeypatch):
  """The environment as other tests find it."""
  for name in ('XLA_FLAGS', 'XLA_PYTHON_CLIENT_PREALLOCATE'):
    monkeypatch.setenv(name, '')


def test_rows_are_those_that_are_asked_for(monkeypatch):
  """Truth: 24 bits of a float32; a time for each of the two rules."""
  (row,) = gpu.run([0], 'a product')
  assert 0.5 < row['value'] < 10 and row['on'] == 'cpu'
  assert gpu.run([0], 'no such row') == []
  monkeypatch.setattr(gpu, '_SIZES', {'GRU 2': (2, 2)})
  monkeypatch.setattr(gpu, '_ROUNDS', 1)
  rows = gpu.run([0], 'GRU 2, loss on last 10')
  assert [row['measure'].split(',')[0] for row in rows] == [
    'ms: BPTT',
    'ms: D-RTRL',
  ]
  assert all(row['value'] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize('stops', [False, True])
def test_bits_of_two_processes_are_compared(stops, monkeypatch):
  """Truth: none differ. Mutant: a run of another seed."""
  monkeypatch.setattr(gpu, '_UPDATES', 8)
  assert gpu._again(0, stops=stops) == 0
  start = gpu._start
  seeds = iter(range(10))
  monkeypatch.setattr(
    gpu,
    '_start',
    lambda config, path, _, *n: start(config, path, next(seeds), *n),
  )
  if not stops:
    assert gpu._again(0, stops=False) > 0


@pytest.mark.gpu
def test_an_accelerator_holds_what_is_asked_for():
  """Truth: the suite's own expectations, in whatever time it takes."""
  rows = {row['measure']: row for row in gpu.run([0])}
  assert next(iter(rows.values()))['on'] != 'cpu'
  for name, row in rows.items():
    if name.startswith('error'):
      assert row['value'] <= 10, name
    if name.startswith('bits'):
      assert row['value'] == 0, name
