# SPDX-License-Identifier: Apache-2.0
"""All deterministic rules on all random cores, in float64.

A rule gives its reference to 1e-9, or refuses a core that `REFUSALS` names.
"""

import jax
import pytest

from tests.learners.random_cores import cases, grammar

CUT = list(cases.RULES)[5:]
"""The rules that cut synapses, from 'd_rtrl 1' on."""

QUICK = {
  0: ('d_rtrl 1',),
  12: ('pp_prop',),
  14: ('rtrl',),
  16: ('d_rtrl reverse',),
}
"""What runs by default: four cores, each under what it shows most of."""

REFUSALS: dict[tuple[int, str], str] = {
  **{(27, rule): 'leaf' for rule in CUT},
  **{(28, rule): 'custom_vjp' for rule in CUT},
  **{(core, 'e_prop kappa'): 'kappa' for core in (14, 25, 29)},
}
"""What a rule may refuse, and a fragment of the message.

Core 27 packs two variables of a unit into one leaf, and a refusal names the
remedy. Core 28 has a custom_vjp that mixes units backward. Cores 14, 25 and 29
emit a projection, through which a filter on the emission would have to be
carried.
"""


def result_of(name, case):
  """What is wrong with a rule on a case; '' where it is right or may refuse."""
  refusal = REFUSALS.get((case.core.number, name))
  try:
    return cases.compare(name, case)
  except (TypeError, ValueError) as error:
    if refusal is not None and refusal in str(error):
      return ''
    return f'{type(error).__name__}: {error}'


def check(number, names):
  with jax.enable_x64(True):
    case = cases.Case(number)
    results = {name: result_of(name, case) for name in names}
  wrong = [f'{name}: {text}' for name, text in results.items() if text]
  assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('number', QUICK)
def test_some_rules_on_some_cores(number):
  """Truth: linear algebra on explicit Jacobians of each step."""
  check(number, QUICK[number])


@pytest.mark.slow
@pytest.mark.parametrize('number', range(len(grammar.FEATURES)))
def test_all_rules_on_all_cores(number):
  """Truth: linear algebra on explicit Jacobians of each step."""
  check(number, cases.RULES)


def test_the_table_of_refusals_is_short():
  """Truth: at most 6 of 30 cores may be refused, by rules that cut alone."""
  assert len({number for number, _ in REFUSALS}) <= 6
  assert all(rule in CUT for _, rule in REFUSALS)
