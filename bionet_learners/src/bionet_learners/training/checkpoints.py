# SPDX-License-Identifier: Apache-2.0
"""Saving a state whole, and restoring it against a template."""

import os
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from bionet_core import interfaces


def save_checkpoint(
  state: interfaces.ArrayTree, directory: str | os.PathLike[str], step: int
) -> pathlib.Path:
  """Writes `directory/checkpoint_{step}`, atomically, and returns its path."""
  path = pathlib.Path(directory).absolute() / f'checkpoint_{step}'
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, state)
    checkpointer.wait_until_finished()
  return path


def load_checkpoint(
  path: str | os.PathLike[str], template: interfaces.ArrayTree
) -> interfaces.ArrayTree:
  """Restores a checkpoint into the structure of a template.

  Args:
    path: a `checkpoint_{step}` folder.
    template: a tree of arrays, or of their shapes (`jax.eval_shape`).

  Returns:
    A tree like the template with the saved values.

  Raises:
    ValueError: if the saved tree, a shape or a dtype is not the template's; it
      names the first leaf that differs.
  """
  path = pathlib.Path(path).absolute()
  with ocp.StandardCheckpointer() as checkpointer:
    saved = _leaves(checkpointer.metadata(path).item_metadata.tree)
    wanted = _leaves(template)
    for name in sorted(saved.keys() | wanted.keys()):
      if saved.get(name) != wanted.get(name):
        raise ValueError(
          f'checkpoint {path}: {name} is {saved.get(name, "not saved")}, and '
          f'{wanted.get(name, "nothing")} is needed.'
        )
    return checkpointer.restore(path, template)


def _leaves(tree: interfaces.ArrayTree) -> dict[str, str]:
  """Every array of a tree, or of a checkpoint's metadata: 'float32[3, 4]'."""
  return {
    jax.tree_util.keystr(where, simple=True, separator='/'): (
      f'{np.dtype(leaf.dtype)}{list(leaf.shape)}'
    )
    for where, leaf in jax.tree.leaves_with_path(tree)
  }
