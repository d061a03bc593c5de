# SPDX-License-Identifier: Apache-2.0
"""An error about an argument reads as the config's key.

Truth: the words of the library and those of the user, written out by hand.
"""

import ml_collections
import pytest

from experiments.runs import factories, sections

THIRD = """\
class Odd(ValueError):
  def __init__(self, number, text):
    super().__init__(text)
    self.number = number


def rule(cell, loss, *, window: int = 1, kind: type = ValueError):
  if kind is Odd:
    raise Odd(3, f'window={window}: odd.')
  raise kind(f'window={window}: a window has at least 1 step.')


def other(cell, loss, *, window: int = 1):
  raise ValueError(f'{window=} is one of windows=3; loss=0: says no factory.')


def of_devices(cell, loss, *, devices):
  raise ValueError('devices=3: too many.')


def of_cell(cell, loss, *, window: int = 1):
  raise ValueError('cell=3: not a cell.')
"""


@pytest.fixture(autouse=True)
def third(tmp_path, monkeypatch):
  """The module above, imported by its name."""
  (tmp_path / 'third_of_sections.py').write_text(THIRD)
  monkeypatch.syspath_prepend(tmp_path)
  import third_of_sections

  return third_of_sections


def _make(factory, handed=sections.NOTHING, **settings):
  settings = {'name': f'third_of_sections:{factory}', **settings}
  config = ml_collections.ConfigDict(settings)
  return factories.make(
    'bionet.learners', 'learner', config, 'cell', 'loss', handed=handed
  )


@pytest.mark.parametrize('kind', [ValueError, TypeError, KeyError])
def test_the_section_stands_before_the_argument(kind):
  """Truth: `learner.window`, which is what a user has written."""
  with pytest.raises(kind) as error:
    _make('rule', window=0, kind=kind)
  words = 'learner.window=0: a window has at least 1 step.'
  assert error.value.args == (words,)


def test_an_error_keeps_its_type_and_what_it_holds(third):
  """Truth: an error whose constructor takes another argument first."""
  with pytest.raises(third.Odd) as error:
    _make('rule', window=0, kind=third.Odd)
  assert error.value.number == 3
  assert str(error.value) == 'learner.window=0: odd.'


@pytest.mark.parametrize(
  ('arguments', 'text', 'read'),
  [
    (['window'], 'window=0: no.', 'learner.window=0: no.'),
    (['settings'], 'settings.std=1: no.', 'learner.settings.std=1: no.'),
    (['std'], 'settings.std=1: no.', 'settings.std=1: no.'),
    (['window'], 'windows=0: no.', 'windows=0: no.'),
    (['window'], 'window is 0.', 'window is 0.'),
    (['window'], 'learner.window is 0.', 'learner.window is 0.'),
    (['window'], 'a window=0.', 'a window=0.'),
    ([], 'window=0: no.', 'window=0: no.'),
    (['window'], 3, 3),
  ],
)
def test_other_messages_stay(arguments, text, read):
  """Truth: by hand; the message must begin with an argument and `=`."""
  with (
    pytest.raises(ValueError) as error,
    sections.named_in(sections.keys_of('learner', arguments)),
  ):
    raise ValueError(text)
  assert error.value.args == (read,)


def test_an_argument_may_have_another_key():
  """Truth: the policy of a cell is the config's `precision`."""
  with (
    pytest.raises(ValueError, match=r'^precision=3: no policy\.$'),
    sections.named_in({'policy': 'precision'}),
  ):
    raise ValueError('policy=3: no policy.')


def test_what_the_run_hands_in_is_no_setting():
  """Truth: `cell` is no key of the section `learner`."""
  with pytest.raises(ValueError, match=r'^cell=3'):
    _make('of_cell')
  with pytest.raises(ValueError, match=r'^devices=3'):
    _make('of_devices', handed={'devices': 3})
