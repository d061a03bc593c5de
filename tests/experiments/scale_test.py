# SPDX-License-Identifier: Apache-2.0
"""The suite of how rules grow, and its figure; nothing is timed here.

Truth: laws of theory at sizes where their term leads; the compiler's own count
of memory; powers written out by hand; rules and exponents that are wrong.
"""

import os
import types

import jax
import pytest

import bionet_learners as learners
from experiments.figures import scale as scale_figure
from experiments.suites import growth, scale

# Of each law a short form: its base and sizes, where its term leads already.
SHORT = {
  ('bptt', 'T'): ({'N': 8, 'B': 2}, (100, 10_000)),
  ('bptt', 'B'): ({'N': 8, 'T': 100}, (128, 1024)),
  ('truncated_bptt, K 100', 'T'): ({'N': 64, 'B': 1, 'K': 5}, (100, 1_000)),
  ('uoro', 'T'): ({'N': 8, 'B': 2}, (100, 10_000)),
  ('uoro', 'N'): ({'T': 10, 'B': 4}, (128, 512)),
  ('rtrl', 'N'): ({'T': 10, 'B': 1}, (64, 128)),
}
LONG = {
  ('bptt, remat', 'T'): ({'N': 8, 'B': 2}, (1_000, 100_000)),
  ('d_rtrl', 'T'): ({'N': 64, 'B': 4}, (1_000, 10_000)),
  ('d_rtrl', 'N'): ({'T': 10, 'B': 16, 'K': 1}, (256, 1024)),
  ('pp_prop', 'B'): ({'T': 20, 'N': 32}, (256, 1024)),
  ('snap 1', 'N'): ({'T': 10, 'B': 1}, (64, 128)),
  ('score_function, noisy GRU', 'B'): ({'T': 10, 'N': 8}, (256, 1024)),
}


def law_of(rule, variable, exponent=None):
  base, sizes = {**SHORT, **LONG}[rule, variable]
  law = growth.RULES[rule].memory[variable]._replace(base=base, sizes=sizes)
  return law if exponent is None else law._replace(exponent=exponent)


def row_of(monkeypatch, rule, variable, law, make=None):
  """The row of a rule by a law, and of another program if one is given."""
  make = make or growth.RULES[rule].make
  monkeypatch.setattr(os, 'sched_setaffinity', lambda *_: None)
  monkeypatch.setattr(
    growth, 'RULES', {rule: growth.Rule(make, {variable: law}, {})}
  )
  (row,) = scale.run([0])
  return row


def test_every_rule_over_time_has_laws():
  """Truth: the built-in learners; the letters of sizes."""
  others = {'evolution', 'evosax', 'local_plasticity', 'open_es'}
  named = {name.split(',')[0].split(' ')[0] for name in growth.RULES}
  assert named == set(learners.LEARNERS) - others
  for rule in growth.RULES.values():
    for laws in (rule.memory, rule.time):
      for variable, law in laws.items():
        assert set(law.base) - {'K'} == set('TNB') - {variable}
        assert law.why and law.exponent in range(5)
        assert len(law.sizes or growth.SIZES[variable]) >= 3


@pytest.mark.parametrize(('rule', 'variable'), SHORT)
def test_memory_grows_as_theory_says(monkeypatch, rule, variable):
  """Truth: the laws of theory."""
  row = row_of(monkeypatch, rule, variable, law_of(rule, variable))
  assert row['verdict'] == 'holds', row
  assert row['measured'] == pytest.approx(row['theory'], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(('rule', 'variable'), LONG)
def test_memory_of_more_rules_grows_as_theory_says(monkeypatch, rule, variable):
  """Truth: the laws of theory."""
  row = row_of(monkeypatch, rule, variable, law_of(rule, variable))
  assert row['verdict'] == 'holds', row


def test_a_wrong_law_is_named(monkeypatch):
  """Truth: BPTT stores each step; a law that says it does not is wrong."""
  for wrong in (0, 2):
    law = law_of('bptt', 'T', exponent=wrong)
    row = row_of(monkeypatch, 'bptt', 'T', law)
    assert row['verdict'] == 'off'
    assert row['measured'] == pytest.approx(1, abs=0.05)


def test_a_rule_that_keeps_all_steps_is_named(monkeypatch):
  """Truth: BPTT in place of UORO, whose memory is flat in T."""
  keeps = growth.RULES['bptt'].make
  row = row_of(monkeypatch, 'uoro', 'T', law_of('uoro', 'T'), keeps)
  assert row['verdict'] == 'off'


def test_an_exponent_is_the_power():
  """Truth: powers, written out."""
  assert scale.exponent({2: 3.0 * 8, 4: 3.0 * 64, 16: 3.0 * 4096}) == (
    pytest.approx(3)
  )
  assert scale.exponent({10: 7.0, 1000: 7.0}) == pytest.approx(0)
  law = growth.Law(3, 'a cube', {})
  assert scale.verdict(scale.exponent({2: 3.0}), law, 'memory') == (
    'not measured'
  )
  assert scale.verdict(3.06, law, 'memory') == 'off'
  assert scale.verdict(3.06, law, 'time') == 'holds'
  assert scale.verdict(2.79, law, 'time') == 'off'


def of_bytes(temporary):
  """Programs that are no more than the bytes they take, by N."""
  return lambda *, N: types.SimpleNamespace(temporary=temporary(N), N=N)


def test_what_is_too_large_is_listed():
  """Truth: 2^20 N^2 bytes pass 4 GiB beyond N = 64."""
  asked = []

  def temporary(N):
    asked.append(N)
    return 2**20 * N**2

  law = growth.Law(2, 'a square', {}, (8, 16, 32, 64, 128, 256))
  points, fitted, left = scale.memory(of_bytes(temporary), 'N', law)
  assert points == {8: 64, 16: 256, 32: 1024, 64: 4096}
  assert list(fitted) == [16, 32, 64]
  assert left == 'over 4 GiB: 128, 256'
  assert asked == [8, 16, 32, 64, 128]  # 256 is larger than what is too large


def test_times_are_of_the_upper_decade_within_limits(monkeypatch):
  """Truth: N^2 in units of 10^-5 s; the limits, 4 GiB, 20 ms and 30 s."""
  timed = []

  def seconds(subject, seed):
    del seed
    timed.append(subject.N)
    return subject.N**2 * 1e-5

  monkeypatch.setattr(scale, 'seconds', seconds)
  law = growth.Law(2, 'a square', {}, (20, 200, 400, 800, 1600, 2000))
  programs = of_bytes(lambda N: 2**33 if N == 800 else 1)
  points, fitted, left = scale.cpu_time(programs, 'N', law, 0)
  assert list(points) == [200, 400, 1600] and points == fitted
  assert left == 'over 4 GiB: 800; over 30 s: 2000'
  assert timed == [200, 400, 1600]
  assert scale.exponent(fitted) == pytest.approx(2)
  law = law._replace(sizes=(10, 40, 100))
  points, _, left = scale.cpu_time(programs, 'N', law, 0)
  assert list(points) == [100]
  assert left == 'under 20 ms: 10, 40'


def test_a_program_is_timed_on_its_own_shapes():
  """Truth: a program refuses arguments of other shapes and types."""
  subject = scale.program(growth.RULES['bptt'].make, T=3, N=2, B=2)
  assert subject.temporary > 0
  assert all(
    isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(subject.shapes)
  )
  assert scale.seconds(subject, 0) > 0


def test_the_figure_has_a_line_a_rule_and_what_is_off_in_red(drawn, tmp_path):
  """Truth: the rows, read back from the axes and the table."""
  rows = [
    {
      'rule': rule,
      'cost': cost,
      'by': by,
      'measured': measured,
      'theory': 1,
      'verdict': scale.verdict(measured, growth.Law(1, '', {}), cost),
      'MiB or CPU s': {10: 4.0, 100: 40.0},
    }
    for rule, measured in (('bptt', 1.01), ('uoro', 1.3))
    for cost in ('memory', 'time')
    for by in 'TNB'
  ]
  scale_figure.draw(rows, tmp_path / 'scale.png')
  *panels, table = drawn[0].axes
  assert [axes.get_xlabel()[-1] for axes in panels] == ['T', 'N', 'B']
  for axes in panels:
    lines = axes.get_lines()
    assert [line.get_label() for line in lines[::2]] == ['bptt', 'uoro']
    for line in lines:  # dashed: a power of 1 through the last point
      assert list(line.get_xdata()) == [10, 100]
      assert list(line.get_ydata()) == pytest.approx([4, 40])
  (cells,) = table.tables
  texts = {at: cell.get_text() for at, cell in cells.get_celld().items()}
  assert texts[1, 0].get_text() == '1.01 / 1'
  assert texts[2, 5].get_text() == '1.30 / 1'
  red = {at for at, text in texts.items() if text.get_color() == 'C3'}
  assert red == {(2, column) for column in range(6)}
  assert (tmp_path / 'scale.png').stat().st_size > 1000
