# SPDX-License-Identifier: Apache-2.0
"""One file an experiment; `get_config(variant)` returns plain values."""
