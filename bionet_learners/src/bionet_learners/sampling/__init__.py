# SPDX-License-Identifier: Apache-2.0
"""Credit by the noise in the dynamics."""
