# SPDX-License-Identifier: Apache-2.0
"""Credit by the influence of parameters on the state, forward in time."""
