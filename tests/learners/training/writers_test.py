# SPDX-License-Identifier: Apache-2.0
"""Metrics are appended, never lost."""

import json

from bionet_learners.training import writers


def test_rows_are_lines_of_json_and_reopening_appends(tmp_path):
  """Truth: what was written, in order, across two writers."""
  for step in (1, 2):
    with writers.MetricsWriter(tmp_path) as writer:
      writer.write(step, 'train', {'loss': 0.5 * step})
      # Flushed at once: a run that dies loses no row.
      lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
      assert json.loads(lines[-1]) == {
        'step': step,
        'split': 'train',
        'loss': 0.5 * step,
      }
  assert len(lines) == 2
  events = list(tmp_path.glob('events.out.tfevents.*'))
  assert events and all(b'train/loss' in e.read_bytes() for e in events)
