# SPDX-License-Identifier: Apache-2.0
"""Paths as a user writes them.

Truth: the home folder and the variables of the environment, set here.
"""

import pathlib

import jax.numpy as jnp
import pytest

from bionet_learners.training import checkpoints, paths
from experiments.runs import saved


@pytest.mark.parametrize(
  ('written', 'meant'),
  [
    ('~', '/home/of'),
    ('~/runs/a', '/home/of/runs/a'),
    ('$DISK/runs/a', '/mnt/disk/runs/a'),
    ('${DISK}/a', '/mnt/disk/a'),
    ('~/$NAME', '/home/of/mine'),
    ('runs/a', 'runs/a'),
    ('/runs/~a', '/runs/~a'),
    ('runs/a:b', 'runs/a:b'),
    (pathlib.Path('runs', 'a'), 'runs/a'),
  ],
)
def test_a_path_is_expanded(written, meant, monkeypatch):
  """Truth: the second column, by hand."""
  monkeypatch.setenv('HOME', '/home/of')
  monkeypatch.setenv('DISK', '/mnt/disk')
  monkeypatch.setenv('NAME', 'mine')
  assert paths.local('--workdir', written) == pathlib.Path(meant)


@pytest.mark.parametrize(
  ('written', 'words'),
  [
    ('gs://bucket/a', 'must be a path on this machine'),
    ('s3://bucket/a', 's3:// addresses'),
    ('gs:/bucket/a', 'gs:// addresses'),  # as pathlib writes it
    ('file:///a', 'must be a path on this machine'),
    ('~nobody_at_all/a', "no home folder of '~nobody_at_all'"),
    ('$NOT_SET_AT_ALL/a', r'\$NOT_SET_AT_ALL is not set'),
    ('a/${NOT_SET_AT_ALL}', r'\$\{NOT_SET_AT_ALL\} is not set'),
  ],
)
def test_another_one_is_refused(written, words, monkeypatch):
  """Truth: the words, behind what was written and what it was given as."""
  with pytest.raises(ValueError, match=words) as error:
    paths.local('--workdir', written)
  assert str(error.value).startswith(f'--workdir={written}: ')


def test_a_notebook_may_write_them_too(monkeypatch, tmp_path):
  """Truth: the words of a run that is looked for in the home folder."""
  monkeypatch.setenv('HOME', str(tmp_path))
  with pytest.raises(FileNotFoundError, match=f'{tmp_path}/a holds no run'):
    saved.restore('~/a')


def test_what_saves_expands_them_too(monkeypatch, tmp_path):
  """Truth: the home folder; an address makes no folder of its name."""
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  state = {'w': jnp.ones(2)}
  checkpoints.save_checkpoint(state, '~/a', 1)
  assert checkpoints.all_steps('~/a') == [1]
  assert (tmp_path / 'home' / 'a' / 'checkpoint_1').is_dir()
  for directory in ('gs://bucket/a', '$NOT_SET_AT_ALL/a'):
    with pytest.raises(ValueError, match=r'^directory='):
      checkpoints.save_checkpoint(state, directory, 1)
  assert not [*(tmp_path / 'here').iterdir()]
