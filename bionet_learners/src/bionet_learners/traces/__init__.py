# SPDX-License-Identifier: Apache-2.0
"""Credit by eligibility traces, a trace per synapse."""
