# SPDX-License-Identifier: Apache-2.0
"""Tasks of trials that a user has recorded: arrays, and tables in files."""
