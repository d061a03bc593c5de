# SPDX-License-Identifier: Apache-2.0
"""What surrounds a run: the command line, signals and the working folder."""
