# SPDX-License-Identifier: Apache-2.0
"""Where elements come from: which primitives are known."""

from bionet_learners.synapses import places, products, program
from tests.learners.influence import reach_test

# Complex numbers are refused, and what is staged is for other devices.
OF_NO_CELL = {'complex', 'stage'}


def test_elementwise_primitives_are_known():
  """Truth: JAX's own list, each of them tried on an array."""
  known = {
    *places.ELEMENTWISE,
    *places.STRUCTURAL,
    *products.PRIMITIVES,
    *program.CALLS,
    *program.CUSTOM,
    *places.NO_DERIVATIVE,
  }
  rest = {
    name
    for name, primitive in reach_test.registered().items()
    if name not in known and reach_test.is_elementwise(primitive)
  }
  assert rest <= OF_NO_CELL


def test_no_list_says_two_things_of_a_primitive():
  """Truth: a primitive is of one kind."""
  kinds = (places.ELEMENTWISE, places.STRUCTURAL, products.PRIMITIVES)
  assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
  assert places.NO_DERIVATIVE - places.ELEMENTWISE == {'stop_gradient'}
