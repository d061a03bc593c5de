# SPDX-License-Identifier: Apache-2.0
"""Held-out recall on copying, lag 10, after 500 updates of BPTT."""

import functools

from experiments.configs import copying as configs
from experiments.suites import accuracy

SEEDS = (0, 1, 2)


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Each row: a batch size, BPTT's mean over seeds, the seeds' spread."""
  scores = {
    f'bptt, hk.GRU(128), batch {size}': functools.partial(_bptt, size)
    for size in (64, 128, 256)
  }
  return accuracy.rows(scores, seeds, only)


def _bptt(batch_size: int, seed: int) -> float:
  config = configs.get_config('bptt')
  return accuracy.held_out(config, {'batch_size': batch_size}, seed)
