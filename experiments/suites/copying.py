# SPDX-License-Identifier: Apache-2.0
"""Held-out recall on copying, lag 10, after 500 updates of BPTT."""

from experiments.configs import copying as configs
from experiments.suites import accuracy

SEEDS = (0, 1, 2)


def run(seeds: list[int], only: str = '') -> list[dict]:
  """One row: BPTT on the stock GRU."""
  return accuracy.rows({'bptt, hk.GRU(128)': _bptt}, seeds, only)


def _bptt(seed: int) -> float:
  return accuracy.held_out(configs.get_config('bptt'), {}, seed)
