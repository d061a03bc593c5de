# SPDX-License-Identifier: Apache-2.0
"""Reading a cell's step: where parameters meet data, and what to cut there."""
