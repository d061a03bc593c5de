# SPDX-License-Identifier: Apache-2.0
"""Runs judged: beside their untrained states, and beside each other."""
