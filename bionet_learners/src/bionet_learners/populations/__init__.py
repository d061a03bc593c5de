# SPDX-License-Identifier: Apache-2.0
"""Evolution of populations of parameters."""
