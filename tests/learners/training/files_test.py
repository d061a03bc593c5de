# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all.

Truth: the bytes that were written, or those that were there before.
"""

import errno
import os

import pytest

from bionet_learners.training import files


def test_a_file_is_written_and_replaced_whole(tmp_path):
  """Truth: the text, and nothing else in the folder."""
  path = tmp_path / 'a.json'
  for text in ('{"a": 1}\n', '{}', 'ü\n'):
    files.write_atomically(path, text)
    assert path.read_bytes() == text.encode('utf-8')
    assert [p.name for p in tmp_path.iterdir()] == ['a.json']


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, call):
  """Truth: the bytes before; the disk fills up at either call."""
  path = tmp_path / 'a.json'
  files.write_atomically(path, 'before')

  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(os, call, full)
    with pytest.raises(OSError, match='No space left'):
      files.write_atomically(path, 'after')
  assert path.read_text() == 'before'
  files.write_atomically(path, 'after')
  assert path.read_text() == 'after'
