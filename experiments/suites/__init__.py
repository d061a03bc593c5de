# SPDX-License-Identifier: Apache-2.0
"""One file a suite of `experiments.bench`: `SEEDS`, and `run(seeds) -> rows`."""
