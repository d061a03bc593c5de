# SPDX-License-Identifier: Apache-2.0
"""Runs that many tests look at are made by one worker for all."""

import fcntl
import os
import shutil

import pytest


@pytest.fixture(scope='session')
def environment(tmp_path_factory):
  """`(own=None) -> environment` of another process that runs an experiment.

  Such processes share what they compile. One that is to be killed may leave
  half a file: it gets a folder of its own, with what the others have compiled.
  """
  shared = tmp_path_factory.mktemp('compiled_by_others')

  def variables(own=None):
    if own:
      shutil.copytree(shared, own, copy_function=os.link)
    return {
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': str(own or shared),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }

  return variables


@pytest.fixture(scope='session')
def once(of_all_workers):
  """`(name, make) -> folder`: made by the first worker that asks for it.

  Tests may read it, and must not write there.
  """
  root = of_all_workers / 'once'
  root.mkdir(exist_ok=True)

  def folder(name, make):
    path, done = root / name, root / f'{name}.done'
    with path.with_name(f'{name}.lock').open('w') as stream:
      fcntl.flock(stream, fcntl.LOCK_EX)
      if not done.exists():
        shutil.rmtree(path, ignore_errors=True)  # of a worker that failed
        make(path)
        done.touch()
    return path

  return folder
