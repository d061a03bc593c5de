# SPDX-License-Identifier: Apache-2.0
"""Asymmetric recurrent networks that settle, and what is local in them.

Notation: rows `s_0 .. s_L`, `s_0` the input and `s_L` the output; edge `(i, j)`
sends from row j to row i. Source: Badalotti, Baldassi, Mezard, Scardecchia and
Zecchina, "Dynamical Learning in Deep Asymmetric Recurrent Neural Networks",
arXiv 2509.05041 (2025).
"""
