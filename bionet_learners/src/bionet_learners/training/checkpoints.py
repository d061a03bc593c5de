# SPDX-License-Identifier: Apache-2.0
"""Saving a state whole, and restoring it against a template."""

import os
import pathlib

import jax
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
    ValueError: if the saved tree, a shape or a dtype is not the template's.
  """
  with ocp.StandardCheckpointer() as checkpointer:
    state = checkpointer.restore(pathlib.Path(path).absolute(), template)
  wanted = jax.tree.leaves_with_path(template)
  for (where, want), leaf in zip(wanted, jax.tree.leaves(state), strict=True):
    if (leaf.shape, leaf.dtype) != (want.shape, want.dtype):
      raise ValueError(
        f'checkpoint {os.fspath(path)}: {jax.tree_util.keystr(where)} is '
        f'{leaf.dtype}{list(leaf.shape)}, and {want.dtype}{list(want.shape)} '
        'is needed.'
      )
  return state
