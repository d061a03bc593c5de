# SPDX-License-Identifier: Apache-2.0
"""One file a kind of figure; each draws into a PNG."""
