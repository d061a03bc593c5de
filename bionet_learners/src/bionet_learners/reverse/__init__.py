# SPDX-License-Identifier: Apache-2.0
"""Credit in reverse over time."""
