# SPDX-License-Identifier: Apache-2.0
"""Plasticity that is local to a network that settles."""
