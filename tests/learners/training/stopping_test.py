# SPDX-License-Identifier: Apache-2.0
"""When training stops early.

Truth: tables worked out by hand.
"""

import pytest

from bionet_learners.training import stopping

NAN, INF = float('nan'), float('inf')

# After each value: which of them was the last to improve, and how many came
# since. Improved means better by more than min_delta than the last that did.
TABLES = {
  'max': (
    {'mode': 'max'},
    [0.5, 0.7, 0.6, 0.7, 0.8, 0.1, 0.2],
    [0, 1, 1, 1, 4, 4, 4],
  ),
  'min': (
    {'mode': 'min'},
    [0.5, 0.7, 0.4, 0.4, 0.3, 0.6, -1.0],
    [0, 0, 2, 2, 4, 4, 6],
  ),
  'max by more than 1/4': (
    {'mode': 'max', 'min_delta': 0.25},
    # 1.25 is no more than 1/4 better; 1.5 is, than 1; then 2 is, than 1.5.
    [1.0, 1.25, 1.5, 1.75, 2.0, 2.25],
    [0, 0, 2, 2, 4, 4],
  ),
  'min by more than 1/4': (
    {'mode': 'min', 'min_delta': 0.25},
    [1.0, 0.75, 0.5, 0.25, 0.0],
    [0, 0, 2, 2, 4],
  ),
  # NaN is no improvement, wherever it stands; -1 where nothing has improved.
  'NaN first': ({'mode': 'max'}, [NAN, 0.5, 0.6], [-1, 1, 2]),
  'NaN first, min': ({'mode': 'min'}, [NAN, NAN, 0.6, 0.5], [-1, -1, 2, 3]),
  'NaN between': ({'mode': 'max'}, [0.5, NAN, 0.6, NAN], [0, 0, 2, 2]),
  'NaN alone': ({'mode': 'max'}, [NAN, NAN], [-1, -1]),
  'infinite': ({'mode': 'max'}, [-INF, 0.5, INF, NAN, INF], [0, 1, 2, 2, 2]),
}


@pytest.mark.parametrize('patience', [0, 1, 2, 3])
@pytest.mark.parametrize('name', TABLES)
def test_best_and_stop_follow_the_table(name, patience):
  """Truth: the tables; patience 0 never stops."""
  settings, values, best = TABLES[name]
  rule = stopping.EarlyStopping('loss', patience, **settings)
  assert rule.check() is rule
  for i in range(len(values)):
    so_far = values[: i + 1]
    assert rule.best(so_far) == best[i]
    waited = i - best[i]
    assert rule.stop(so_far) is (patience > 0 and waited >= patience)


def test_the_first_stop_of_a_run():
  """Truth: by hand: best at number 1, patience 2 ends after number 3."""
  rule = stopping.EarlyStopping('accuracy', 2)
  values = [0.5, 0.9, 0.8, 0.7, 0.95]
  stops = [rule.stop(values[: i + 1]) for i in range(5)]
  # A run would have stopped at number 3; asked later, the answer is of later.
  assert stops == [False, False, False, True, False]


@pytest.mark.parametrize('name', TABLES)
def test_values_are_ranked_from_the_best_on(name):
  """Truth: the best of the tables; then sorting, equal ones in their order."""
  settings, values, best = TABLES[name]
  ranked = stopping.EarlyStopping('loss', **settings).ranked(values)
  assert ranked[:1] == [i for i in best[-1:] if i >= 0]
  finite = [i for i, value in enumerate(values) if value == value]
  sign = 1 if settings['mode'] == 'min' else -1
  rest = sorted((sign * values[i], i) for i in finite if i != best[-1])
  assert ranked[1:] == [i for _, i in rest]


@pytest.mark.parametrize('patience', [0, 1])
def test_no_values_are_no_reason_to_stop(patience):
  """Truth: -1 for no values."""
  rule = stopping.EarlyStopping('loss', patience)
  assert rule.best([]) == -1
  assert rule.stop([]) is False


@pytest.mark.parametrize('mode, best', [('max', 1), ('min', 0)])
def test_the_default_is_the_higher_the_better_without_patience(mode, best):
  """Truth: the defaults in the class's signature; a mutant mode differs."""
  assert stopping.EarlyStopping('a') == ('a', 0, 'max', 0.0)
  rule = stopping.EarlyStopping('a', mode=mode)
  assert rule.best([0.1, 0.2]) == best


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'mode': 'best'}, r"^mode='best': must be min or max"),
    ({'mode': None}, r'^mode=None'),
    ({'patience': -1}, r'^patience=-1'),
    ({'min_delta': -0.5}, r'^min_delta=-0.5'),
    ({'min_delta': float('nan')}, r'^min_delta=nan'),
  ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
  """Truth: the message names the setting."""
  with pytest.raises(ValueError, match=message):
    stopping.EarlyStopping('loss', **settings).check()
