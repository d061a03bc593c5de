# SPDX-License-Identifier: Apache-2.0
"""Recurrent dynamics, each a `bionet_core.interfaces.Cell`."""
