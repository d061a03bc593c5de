# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all."""

import os
import pathlib


def write_atomically(path: pathlib.Path, text: str) -> None:
  """Writes a text file: it is there whole or not at all."""
  partial = path.with_name(path.name + '.partial')
  with partial.open('w', encoding='utf-8') as stream:
    stream.write(text)
    stream.flush()
    os.fsync(stream.fileno())
  os.replace(partial, path)
