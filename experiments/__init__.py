# SPDX-License-Identifier: Apache-2.0
"""Binaries and configs that put tasks, dynamics and learners together."""
