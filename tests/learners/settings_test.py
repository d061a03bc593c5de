# SPDX-License-Identifier: Apache-2.0
"""Online rules where JAX, the precision or the shape of units is unusual."""

import dataclasses

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bionet_core as core
import bionet_learners as bl
from bionet_core import unroll
from bionet_learners.training import precision
from tests import small
from tests.learners import odd_cores

T, B = 4, 2
HALF = 'params=float32,compute=bfloat16,output=float32'
pytestmark = pytest.mark.oracle


def flags():
  """JAX's switches to newer forms of primitives with a program inside."""
  names = ('jax_custom_jvp3', 'jax_custom_vjp3', 'jax_remat3')
  return [name for name in names if name in jax.config.values]


def checkpointed(p, x, s, heard):
  inner = jax.checkpoint(odd_cores.CORES['logaddexp'].step)
  return inner(p, x, s, heard)


@pytest.mark.parametrize('flag', flags())
def test_newer_forms_of_primitives_are_right_or_refused(flag):
  """Truth: BPTT; a refusal names the operation and rules that work."""
  kinds = {
    'spikes': odd_cores.CORES['spikes by custom_vjp'],
    'checkpoint': odd_cores.Core(
      checkpointed, odd_cores.CORES['logaddexp'].shapes
    ),
  }
  before = jax.config.values[flag]
  jax.config.update(flag, True)
  try:
    with jax.enable_x64(True):
      for kind in kinds.values():
        trials, cell = odd_cores.problem(), kind.cell()
        cut, exact = (
          odd_cores.gradient(
            bl.bptt(kind.cell(stopped=stopped), small.squared_error),
            trials,
          )
          for stopped in (True, False)
        )
        rtrl = bl.rtrl(cell, small.squared_error)
        odd_cores.assert_equal(odd_cores.gradient(rtrl, trials), exact)
        d_rtrl = bl.d_rtrl(
          cell, small.squared_error, window=2, trace_dtype='float64'
        )
        try:
          got = odd_cores.gradient(d_rtrl, trials)
        except ValueError as error:
          text = str(error)
          assert 'call_hi_primitive reaches several units' in text
          assert 'rtrl, snap, bptt' in text
        else:
          odd_cores.assert_equal(got, cut)
  finally:
    jax.config.update(flag, before)


def problem(*input_shape):
  rng = np.random.default_rng(3)
  return core.Trials(
    inputs=jnp.asarray(rng.normal(size=(T, B, *input_shape)), jnp.float32),
    targets=jnp.asarray(rng.normal(size=(T, B, odd_cores.O)), jnp.float32),
    mask=jnp.ones((T, B)) / T,
    index=jnp.arange(B),
  )


def estimate(make, cell, trials):
  """A rule's gradient, flat by path."""
  gradient = odd_cores.gradient(make(cell, small.squared_error), trials)
  leaves = jax.tree.leaves_with_path(gradient)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


HALVED = {
  'd_rtrl': lambda *args: bl.d_rtrl(*args, window=2),
  'exact': lambda *args: bl.d_rtrl(*args, window=2, within='exact'),
  'reverse': lambda *args: bl.d_rtrl(*args, execution='reverse'),
  'e_prop': lambda *args: bl.e_prop(*args, window=2, feedback='random'),
  'filtered': lambda *args: bl.e_prop(*args, window=2, kappa=0.5),
  'rflo': lambda *args: bl.rflo(*args, window=2),
  'three_factor': bl.three_factor,
  'pp_prop': bl.pp_prop,
  'uoro': bl.uoro,
  'rtrl': bl.rtrl,
  'snap': bl.snap,
}


@pytest.mark.parametrize('name', HALVED)
def test_a_policy_of_bfloat16_changes_little(name):
  """Truth: the same rule in float32; parameters' gradients stay float32."""
  cell = core.cell_from_core(lambda: hk.GRU(6), lambda: hk.Linear(odd_cores.O))
  trials = problem(3)
  half, whole = (
    estimate(HALVED[name], one, trials)
    for one in (precision.with_policy(cell, HALF), cell)
  )
  for path, wanted in whole.items():
    assert half[path].dtype == np.float32
    error = np.linalg.norm(half[path] - wanted)
    assert 0 < error < 0.1 * np.linalg.norm(wanted), path


class Flat(hk.RNNCore):
  """A convolutional LSTM that emits its images as vectors."""

  def __init__(self, flat):
    """Emits images unless `flat`."""
    super().__init__(name='outer')
    self.core = hk.Conv2DLSTM((3, 3), 2, kernel_shape=3)
    self.flat = flat

  def __call__(self, inputs, prev_state):
    """A step."""
    out, state = self.core(inputs, prev_state)
    return (out.reshape(out.shape[0], -1) if self.flat else out), state

  def initial_state(self, batch_size):
    """Zeros."""
    return self.core.initial_state(batch_size)


@pytest.mark.parametrize('name', ['e_prop', 'rflo', 'three_factor'])
def test_units_in_images_are_taught_as_units_in_a_row(name):
  """Truth: the same core that emits its units as a vector."""
  trials = problem(3, 3, 1)
  images, row = (
    estimate(
      HALVED[name],
      core.cell_from_core(
        lambda flat=flat: Flat(flat),
        lambda: hk.Sequential([hk.Flatten(), hk.Linear(odd_cores.O)]),
      ),
      trials,
    )
    for flat in (False, True)
  )
  assert any('conv' in path and np.any(x) for path, x in images.items())
  for path, wanted in row.items():
    np.testing.assert_allclose(
      images[path], wanted, rtol=1e-5, atol=1e-7, err_msg=path
    )


def test_cells_of_one_shape_have_structures_of_their_own():
  """Truth: two cells that differ in what they cut; and none leaks a tracer."""
  plain, stopped = (
    core.cell_from_core(
      lambda hears=hears: Hears(hears), lambda: hk.Linear(odd_cores.O)
    )
    for hears in (False, True)
  )
  trials = problem(3)

  @jax.jit
  def inside(scale):
    # A cell made of a tracer, used twice.
    cell = plain._replace(readout=lambda *args: scale * plain.readout(*args))
    rules = [bl.d_rtrl(cell, small.squared_error, window=2) for _ in range(2)]
    rules.append(bl.snap(cell, small.squared_error))
    return [jax.tree.leaves(odd_cores.gradient(rule, trials)) for rule in rules]

  once, twice, _ = inside(jnp.float32(1))
  again, _, _ = inside(jnp.float32(2))
  for x, y in zip(once, twice, strict=True):
    np.testing.assert_array_equal(x, y)
  outside = estimate(HALVED['d_rtrl'], plain, trials)
  for x, wanted in zip(once, outside.values(), strict=True):
    np.testing.assert_allclose(x, wanted, rtol=1e-5, atol=1e-7)
  assert any(np.any(x != y) for x, y in zip(once, again, strict=True))
  other = estimate(HALVED['d_rtrl'], stopped, trials)
  assert any(np.any(outside[path] != other[path]) for path in outside)


class Hears(hk.RNNCore):
  """Leaky units that hear each other, or a stopped copy."""

  def __init__(self, stopped):
    """Stops what units hear."""
    super().__init__(name='hears')
    self.stopped = stopped

  def __call__(self, inputs, prev_state):
    """A step."""
    gate = jax.nn.sigmoid(hk.Linear(4, name='gate')(prev_state))
    if self.stopped:
      gate = jax.lax.stop_gradient(gate)
    state = gate * prev_state + hk.Linear(4, name='drive')(inputs)
    return state, state

  def initial_state(self, batch_size):
    """Zeros."""
    return jnp.zeros((batch_size, 4))


def test_trials_without_a_step_are_refused():
  """Truth: one sentence with their shape, when a rule begins and later."""
  cell = core.cell_from_core(lambda: hk.GRU(3), lambda: hk.Linear(odd_cores.O))
  some, key = problem(3), jax.random.key(0)
  none = dataclasses.replace(
    some, **jax.tree.map(lambda x: x[:0], unroll.timed(some))
  )
  match = r'inputs are \[0, 2, 3\].*at least 1 step'
  params, constants = cell.init(key, some.inputs[0])
  for make in (bl.bptt, *HALVED.values()):
    rule = make(cell, small.squared_error)
    state = rule.init(key, params, constants, some)
    for call in (
      lambda rule=rule: rule.model.init(key, none),
      lambda rule=rule: rule.init(key, params, constants, none),
      lambda rule=rule, state=state: rule.estimate(
        params, constants, state, key, none
      ),
    ):
      with pytest.raises(ValueError, match=match):
        call()
