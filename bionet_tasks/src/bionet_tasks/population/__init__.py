# SPDX-License-Identifier: Apache-2.0
"""Tasks whose loss is a statistic over trials."""
