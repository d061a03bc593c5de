# SPDX-License-Identifier: Apache-2.0
"""One file a suite of `experiments.bench`.

A suite has `SEEDS` (its default) and `run(seeds, only) -> rows`: dicts with the
same keys, those whose name contains `only`. It may have `draw(rows, path)`.
"""
