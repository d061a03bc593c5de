# SPDX-License-Identifier: Apache-2.0
"""Held-out recall on copying, lag 10, after 500 updates of BPTT."""

from experiments.configs import copying as configs
from experiments.suites import accuracy

SEEDS = (0, 1, 2)


def run(seeds: list[int]) -> list[dict]:
  """One row: BPTT on the stock GRU."""
  return [
    accuracy.row(
      'bptt, hk.GRU(128)',
      lambda seed: accuracy.held_out(configs.get_config('bptt'), {}, seed),
      seeds,
    )
  ]
