# SPDX-License-Identifier: Apache-2.0
"""The type of traces is refused in one sentence when the rule is made.

Truth: the types that JAX adds to float32 without being told how.
"""

import jax
import jax.numpy as jnp
import pytest

from bionet_learners.traces import rule

GOOD = ('float32', 'bfloat16', 'float16', 'single', 'half', 'f4', jnp.float32)
BAD = (
  *('', None, 'float8_e4m3fn', 'float8_e5m2', 'float4_e2m1fn', 'float128'),
  *('int32', 'int4', 'bool', 'complex64', 'float33', '>f4', 'f4,f4', 'V4'),
  *(3, (), 'float32 '),
)


@pytest.mark.parametrize('name', GOOD, ids=str)
def test_types_that_float32_can_be_added_to(name):
  """Truth: JAX's own promotion."""
  dtype = rule.settings_of(2, name, 0).trace_dtype
  assert jnp.result_type(jnp.float32, dtype) == jnp.float32


@pytest.mark.parametrize('name', BAD, ids=repr)
@pytest.mark.parametrize('x64', [False, True])
def test_other_types_are_refused(name, x64):
  """Truth: the argument, and those that would work; in float64, too."""
  with jax.enable_x64(x64), pytest.raises(ValueError) as info:
    rule.settings_of(2, name, 0)
  assert str(info.value) == (
    f'trace_dtype={name!r}: traces are floating, of float32, bfloat16, '
    'float16, or float64 where JAX_ENABLE_X64 is set.'
  )


@pytest.mark.parametrize('name', ['float64', 'double', 'f8'])
def test_float64_needs_x64(name):
  """Truth: without it JAX would take float32, and only warn."""
  with pytest.raises(ValueError, match=f'^trace_dtype={name!r}: needs JAX_ENA'):
    rule.settings_of(2, name, 0)
  with jax.enable_x64(True):
    assert rule.settings_of(2, name, 0).trace_dtype == jnp.float64
