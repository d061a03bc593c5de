# SPDX-License-Identifier: Apache-2.0
"""Paths as a user writes them."""

import os
import pathlib
import re


def local(name: str, path: str | os.PathLike[str]) -> pathlib.Path:
  """The path on this machine that a user means: `~` and `$NAME` are expanded.

  A shell expands neither in `--workdir=~/runs/a`, nor in a config file.

  Args:
    name: what the path was given as, for messages: '--workdir'.
    path: what was given.

  Raises:
    ValueError: for an address such as gs://bucket/a, a user or a variable that
      is not there.
  """
  text = os.fspath(path)
  scheme = re.match(r'(\w[\w+.-]*):/', text)
  if scheme:
    raise ValueError(
      f'{name}={text}: must be a path on this machine; give a mounted folder '
      f'in place of {scheme[1]}:// addresses.'
    )
  expanded = os.path.expanduser(os.path.expandvars(text))
  if expanded.startswith('~'):
    user = expanded.split('/')[0]
    raise ValueError(
      f'{name}={text}: no home folder of {user!r} is known; write the whole '
      f'path, or ./{user} for a folder of that name.'
    )
  unset = re.search(r'\$(\w+|\{[^}]*\})', expanded)
  if unset:
    raise ValueError(
      f'{name}={text}: the variable {unset[0]} is not set in the environment.'
    )
  return pathlib.Path(expanded)
