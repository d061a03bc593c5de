# SPDX-License-Identifier: Apache-2.0
"""Metrics are appended, never lost.

Truth: what was written, read back: JSON by `json`, event files by their record
format (length, checksum, event, checksum) and TensorBoard's protocol buffers.
"""

import json
import os
import struct
import time

import pytest
from tensorboardX.proto import event_pb2

from bionet_learners.training import writers


def lines(folder):
  text = (folder / 'metrics.jsonl').read_text()
  assert text.endswith('\n') or not text
  return [json.loads(line) for line in text.splitlines()]


def event_files(folder):
  return {p.name: p.read_bytes() for p in folder.glob('*tfevents*')}


def events(content):
  found = []
  while content:
    (length,) = struct.unpack('<Q', content[:8])
    found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
    content = content[16 + length :]
  return found


def scalars(content):
  return [
    (event.step, value.tag, value.simple_value)
    for event in events(content)
    for value in event.summary.value
  ]


def row(step, split='train', **values):
  return {'step': step, 'split': split, **values}


def write(folder, steps, start=0):
  with writers.MetricsWriter(folder, start) as writer:
    for step in steps:
      writer.write(step, 'train', {'loss': 0.5 * step})
  return writer


def test_a_row_is_on_the_disk_at_once(tmp_path):
  """Truth: what was written, in order, read while the writer is open."""
  rows = [row(1, loss=0.5), row(1, 'eval', loss=0.25, mse=2), row(2, loss=1)]
  told = [
    (1, 'train/loss', 0.5),
    (1, 'eval/loss', 0.25),
    (1, 'eval/mse', 2),
    (2, 'train/loss', 1),
  ]
  with writers.MetricsWriter(tmp_path) as writer:
    for i, count in enumerate((1, 3, 4)):
      values = {k: v for k, v in rows[i].items() if k not in ('step', 'split')}
      writer.write(rows[i]['step'], rows[i]['split'], values)
      assert lines(tmp_path) == rows[: i + 1] == writer.rows
      (content,) = event_files(tmp_path).values()
      assert scalars(content) == told[:count]
  assert list(lines(tmp_path)[1]) == ['step', 'split', 'loss', 'mse']


def test_a_number_comes_back_to_the_last_bit(tmp_path):
  """Truth: the float64 that was written."""
  value = 0.1 + 0.2
  with writers.MetricsWriter(tmp_path) as writer:
    writer.write(1, 'train', {'loss': value})
  assert lines(tmp_path)[0]['loss'] == value
  with writers.MetricsWriter(tmp_path, 1) as writer:
    assert writer.rows == [row(1, loss=value)]


def test_rows_are_lines_of_json_and_reopening_appends(tmp_path):
  """Truth: what was written, in order, across three writers."""
  for step in (1, 2, 3):
    before = (tmp_path / 'metrics.jsonl').read_bytes() if step > 1 else b''
    write(tmp_path, [step], start=step - 1)
    after = (tmp_path / 'metrics.jsonl').read_bytes()
    assert after.startswith(before) and len(after) > len(before)
  assert lines(tmp_path) == [row(s, loss=0.5 * s) for s in (1, 2, 3)]
  for content in event_files(tmp_path).values():
    assert b'train/loss' in content


def test_the_rows_of_earlier_sessions_are_known(tmp_path):
  """Truth: the file's rows, then this session's."""
  write(tmp_path, [2, 4])
  writer = write(tmp_path, [6], start=4)
  assert writer.rows == [row(s, loss=0.5 * s) for s in (2, 4, 6)]
  assert writers.read_rows(tmp_path / 'metrics.jsonl') == writer.rows


@pytest.mark.parametrize('start, left', [(0, 0), (3, 1), (4, 2), (9, 3)])
def test_rows_past_the_step_are_dropped(tmp_path, start, left):
  """Truth: of steps 2, 4 and 6 those up to the start stay, as bytes."""
  write(tmp_path, [2, 4, 6])
  path = tmp_path / 'metrics.jsonl'
  whole = path.read_bytes().splitlines(keepends=True)
  with writers.MetricsWriter(tmp_path, start) as writer:
    assert path.read_bytes() == b''.join(whole[:left])
    assert [r['step'] for r in writer.rows] == [2, 4, 6][:left]
  assert not list(tmp_path.glob('*.partial'))


@pytest.mark.parametrize('cut', [1, 5, 20])
def test_a_last_line_that_was_cut_short_is_dropped(tmp_path, cut):
  """Truth: the whole lines; what follows starts on a line of its own."""
  write(tmp_path, [1, 2, 3])
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(path.read_bytes()[:-cut])
  writer = write(tmp_path, [3], start=2)
  assert lines(tmp_path) == [row(s, loss=0.5 * s) for s in (1, 2, 3)]
  assert writer.rows == lines(tmp_path)


def test_a_line_that_was_cut_short_is_dropped_where_nothing_else_is(tmp_path):
  """Truth: a start past all rows drops the half of a line, and it alone."""
  write(tmp_path, [1, 2])
  path = tmp_path / 'metrics.jsonl'
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"step": 3, "spl')
  with writers.MetricsWriter(tmp_path, 100):
    assert path.read_bytes() == whole


def test_rows_are_dropped_atomically(tmp_path, monkeypatch):
  """Truth: a process that dies at the replacement leaves all rows."""
  write(tmp_path, [1, 2, 3])
  path = tmp_path / 'metrics.jsonl'
  whole = path.read_bytes()

  def die(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', die)
    with pytest.raises(KeyboardInterrupt):
      writers.MetricsWriter(tmp_path, 1)
  assert path.read_bytes() == whole
  write(tmp_path, [2], start=1)
  assert [r['step'] for r in lines(tmp_path)] == [1, 2]


def test_a_file_that_needs_no_change_is_not_written_again(tmp_path):
  """Truth: the same file (inode), appended to."""
  write(tmp_path, [1, 2])
  inode = (tmp_path / 'metrics.jsonl').stat().st_ino
  write(tmp_path, [3], start=2)
  assert (tmp_path / 'metrics.jsonl').stat().st_ino == inode


def test_each_session_has_event_files_of_its_own(tmp_path, monkeypatch):
  """Truth: the bytes of the session before, though in the same second."""
  monkeypatch.setattr(time, 'time', lambda: 1.5e9)
  write(tmp_path, [1, 2, 3])
  first = event_files(tmp_path)
  assert len(first) == 1
  write(tmp_path, [3], start=2)
  both = event_files(tmp_path)
  assert len(both) == 2
  assert {name: both[name] for name in first} == first
  (second,) = both.keys() - first.keys()
  assert second > min(first)  # the order in which TensorBoard reads them


def test_tensorboard_is_told_what_is_void(tmp_path):
  """Truth: a START event hides what the session before wrote from there on."""
  write(tmp_path, [3], start=2)
  (content,) = event_files(tmp_path).values()
  head, start, *rest = events(content)
  assert head.file_version == 'brain.Event:2'
  assert start.session_log.status == event_pb2.SessionLog.START
  assert start.step == 3
  assert [event.step for event in rest] == [3]


def test_a_run_from_the_start_hides_nothing(tmp_path):
  """Truth: no START event where nothing was before."""
  write(tmp_path, [1])
  (content,) = event_files(tmp_path).values()
  assert not any(e.HasField('session_log') for e in events(content))


def test_there_need_be_no_file(tmp_path):
  """Truth: no rows."""
  assert writers.read_rows(tmp_path / 'metrics.jsonl') == []
  with writers.MetricsWriter(tmp_path) as writer:
    assert writer.rows == []
  assert (tmp_path / 'metrics.jsonl').read_bytes() == b''
