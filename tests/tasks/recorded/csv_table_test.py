# SPDX-License-Identifier: Apache-2.0
"""A task of a CSV file is the task of the arrays that stand in it.

Truth: `from_arrays` of the same numbers, and sentences that name the line.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_tasks import from_arrays, from_csv

KEY = jax.random.key(1)
RNG = np.random.default_rng(2)
INPUTS = [np.round(RNG.normal(size=(n, 2)), 3) for n in (3, 1, 2, 4, 2, 3) * 3]
CLASSES = RNG.integers(0, 3, len(INPUTS))


@pytest.fixture
def written(tmp_path):
  """`(text) -> path` of a file that holds the text."""

  def write(text):
    path = tmp_path / 'trials.csv'
    path.write_text(text, encoding='utf-8')
    return str(path)

  return write


def table(*, names='trial,a,b,target', answer=str, every=False):
  """The trials in the long form: the answer in the last row, or in each."""
  lines = [names]
  for number, (rows, label) in enumerate(zip(INPUTS, CLASSES, strict=True)):
    for step, (a, b) in enumerate(rows):
      told = every or step == len(rows) - 1
      lines.append(f't{number},{a},{b},{answer(label) if told else ""}')
  return '\n'.join(lines) + '\n'


def all_trials(task):
  """The inputs, targets and mask of all trials, training and held out."""
  train = task.sample(KEY, jnp.arange(task.spec.num_data))
  evaluation = task.evaluations['held_out']
  judged = evaluation.sample(KEY, jnp.arange(evaluation.num_trials))
  return [
    np.concatenate([getattr(train, name), getattr(judged, name)], axis=1)
    for name in ('inputs', 'targets', 'mask')
  ]


def same(task, other):
  assert task.spec.chance == other.spec.chance
  assert task.spec.num_outputs == other.spec.num_outputs
  for a, b in zip(all_trials(task), all_trials(other), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('answer', [str, 'abc'.__getitem__])
def test_rows_of_a_trial_are_its_steps(written, answer):
  """Truth: the arrays; a row without a target asks nothing; words are classes.

  The file is as Windows writes it, with a byte-order mark and two line ends.
  """
  text = '\ufeff' + table(answer=answer).replace('\n', '\r\n')
  task = from_csv(path=written(text), trial='trial')
  assert task.spec.name == 'from_csv'
  same(task, from_arrays(INPUTS, CLASSES))


def test_a_label_that_is_repeated_may_be_asked_once(written):
  """Truth: the arrays, asked at the last step; else at each."""
  path = written(table(every=True))
  once = from_csv(path=path, trial='trial', asked='last')
  same(once, from_arrays(INPUTS, CLASSES))
  each = [np.full(len(x), c) for x, c in zip(INPUTS, CLASSES, strict=True)]
  same(from_csv(path=path, trial='trial'), from_arrays(INPUTS, each))


def test_rows_of_trials_may_be_mixed(written):
  """Truth: the rows sorted by their step, so that trials alternate."""
  header, *rows = table().splitlines()
  step = {}
  order = []
  for row in rows:
    name = row.split(',')[0]
    step[name] = step.get(name, 0) + 1
    order.append((step[name], len(order)))
  mixed = [rows[i] for _, i in sorted(order)]
  task = from_csv(path=written('\n'.join([header, *mixed])), trial='trial')
  same(task, from_arrays(INPUTS, CLASSES))


def test_a_row_is_a_static_trial_where_no_column_tells_trials(written):
  """Truth: the arrays; inputs and targets may be chosen; a tab divides."""
  rows = RNG.normal(size=(20, 4)).round(3)
  lines = ['id\tx\ty\tz', *('\t'.join(map(str, row)) for row in rows)]
  task = from_csv(
    path=written('\n'.join(lines)),
    inputs=('x', 'id'),
    targets=('y', 'z'),
    delimiter='\\t',
    split=3,
  )
  assert task.spec.num_steps == 1 and task.spec.metric == 'mse'
  wanted = from_arrays(rows[:, [1, 0]], rows[:, 2:], split=3)
  same(task, wanted)


@pytest.mark.parametrize(
  'settings, metric, outputs',
  [
    ({}, 'accuracy', 3),
    ({'num_classes': 5}, 'accuracy', 5),
    ({'classes': False}, 'mse', 1),
  ],
)
def test_whole_numbers_are_classes_unless_they_are_said_not_to_be(
  written, settings, metric, outputs
):
  """Truth: the docstring."""
  spec = from_csv(path=written(table()), trial='trial', **settings).spec
  assert (spec.metric, spec.num_outputs) == (metric, outputs)


GOOD = 'trial,a,target\n1,0.5,0\n1,0.25,1\n2,0.75,0\n3,1,1\n'
REFUSED = {
  r"path='.*nothing': cannot be read: No such file": (None, {}),
  r"path='.*': must hold a line of names and rows": ('trial,a,target\n', {}),
  r"must name each column once in its first line, .* 'a', 'a'": (
    'trial,a,a\n1,2,3\n',
    {},
  ),
  r'line 3 has 2 cells, and the first line 3 names': (
    'trial,a,target\n1,2,3\n1,2\n',
    {},
  ),
  r"line 3, column 'a': 'high' is no number": (
    GOOD.replace('0.25', 'high'),
    {},
  ),
  r"line 3, column 'a': '' is no number": (GOOD.replace('0.25', ''), {}),
  r'the trial that ends in line 4 has no target': (
    GOOD.replace('0.75,0', '0.75,'),
    {},
  ),
  r'line 2 has some of its targets': (
    'a,b,target\n1,,0\n2,3,1\n',
    {'trial': '', 'targets': ('target', 'b')},
  ),
  r"^trial='t': the file has no column 't'; there are trial, a, target": (
    GOOD,
    {'trial': 't'},
  ),
  r"^targets=\('b',\): the file has no column 'b'": (GOOD, {'targets': ('b',)}),
  r"^inputs=\('c',\): the file has no column 'c'": (GOOD, {'inputs': ('c',)}),
  r"^inputs=\('target',\): must name columns that are neither": (
    GOOD,
    {'inputs': ('target',)},
  ),
  r'^inputs=\(\): must name columns .* there are none': (
    'trial,target\n1,0\n2,1\n',
    {},
  ),
  r'^targets=\(\): must name a column': (GOOD, {'targets': ()}),
  r"^asked='first': must be 'each' or 'last'": (GOOD, {'asked': 'first'}),
  r"^delimiter=';;': must be a single": (GOOD, {'delimiter': ';;'}),
  r'^held_out=2\.0: must be a share': (GOOD, {'held_out': 2.0}),
}


@pytest.mark.parametrize('message', REFUSED)
def test_what_cannot_be_is_refused(written, tmp_path, message):
  """Truth: the sentence that names the line or the setting."""
  text, settings = REFUSED[message]
  path = str(tmp_path / 'nothing') if text is None else written(text)
  with pytest.raises(ValueError, match=message):
    from_csv(path=path, **{'trial': 'trial', **settings})
