# SPDX-License-Identifier: Apache-2.0
"""What differs from where a run began is said when it is scored.

Truth: a version and a revision that were put into its folder by hand.
"""

import json
from unittest import mock

import pytest

from bionet_core import version
from experiments.configs import copying
from experiments.runs import build, saved
from experiments.shell import workdirs


@pytest.fixture
def begun(tmp_path):
  """The folder of a run that began elsewhere."""
  config = copying.get_config('smoke')
  workdirs.create(tmp_path, config, build.build(config).first.task.spec)
  content = json.loads((tmp_path / 'config.json').read_text())
  content['versions']['bionet'] = '0.0.1'
  content['numerics']['jax_enable_x64'] = True
  content['git_revision'] = 'abc'
  (tmp_path / 'config.json').write_text(json.dumps(content))
  return tmp_path


def test_a_score_elsewhere_says_in_what_it_differs(begun, monkeypatch):
  """Truth: what was put there; a run that starts from it is another run."""
  run = mock.Mock()
  run.first.task.spec.data_digest = ''
  monkeypatch.setattr(saved, '_restore', lambda *args: (run, 'state', 7))
  monkeypatch.setattr(workdirs, '_git_revision', lambda: 'def')
  lines = []
  assert saved.restore(begun, report=lines.append) == (run, 'state', 7)
  here = version.installed_version('bionet-learners')
  assert lines == [
    f'it may not score bit for bit as it did: {what}.'
    for what in (
      f'bionet was 0.0.1 and is {here}',
      'jax_enable_x64 was True and is False',
      'the git revision was abc and is def',
    )
  ]
  config = workdirs.read_config(begun)
  assert workdirs.find(begun, config).notes == workdirs.notes(begun)


def test_a_folder_without_a_run_has_no_notes(tmp_path):
  """Truth: nothing began there."""
  assert workdirs.notes(tmp_path) == ()


def test_a_revision_that_is_not_known_is_not_said(begun, monkeypatch):
  """Truth: outside of a repository there is none."""
  monkeypatch.setattr(workdirs, '_git_revision', lambda: None)
  assert not any('revision' in note for note in workdirs.notes(begun))
