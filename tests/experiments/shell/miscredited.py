# SPDX-License-Identifier: Apache-2.0
"""A cell of another package whose credit is wrong; one fork imports it."""

from bionet_core.cells import cores
from bionet_learners import testing


def cell(spec, *, hidden: int = 4):
  return cores.gru(spec, hidden=hidden)


def check_credit(*args, **kwargs):
  raise AssertionError('credit: 0.2 is not\n 0.3')


testing.check_credit = check_credit
