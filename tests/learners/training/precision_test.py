# SPDX-License-Identifier: Apache-2.0
"""Dynamics in another precision than their parameters.

Truth: the same dynamics in float32: bit for bit where the policy is float32
throughout, and nearly where it computes in bfloat16; dtypes by the policy.
"""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
import pytest
from jax.extend import core

from bionet_core import interfaces
from bionet_core.cells import cores as cells
from bionet_core.relaxation import asymmetric
from bionet_learners import base
from bionet_learners.local import local_plasticity
from bionet_learners.reverse import bptt
from bionet_learners.training import precision

KEY = jax.random.key(2)
FULL = 'params=float32,compute=float32,output=float32'
HALF = 'params=float32,compute=bfloat16,output=float32'
T, B = 3, 4


class Sizes:
  input_shape = (16,)
  num_outputs = 2


def trials(num_steps):
  rng = np.random.default_rng(0)
  return interfaces.Trials(
    inputs=jnp.asarray(rng.normal(size=(num_steps, B, 16)), jnp.float32),
    targets=jnp.asarray(rng.integers(2, size=(num_steps, B))),
    mask=jnp.full((num_steps, B), 1 / num_steps),
    index=jnp.arange(B),
  )


def cross_entropy(outputs, targets, mask):
  losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
  return jnp.mean(losses * mask), {}


def gru():
  return cells.cell_from_core(
    lambda: hk.GRU(8), lambda: hk.Linear(Sizes.num_outputs)
  )


def network():
  return asymmetric.asymmetric(Sizes(), hidden=32)


RULES = {
  'cell': (gru, lambda cell: bptt.bptt(cell, cross_entropy), T),
  'network': (
    network,
    lambda net: local_plasticity.local_plasticity(net, clamped=2, free=2),
    1,
  ),
}


@pytest.fixture(scope='module')
def kept():
  """`kind -> (params, constants)`, made without a policy."""
  made = {}

  def keep(kind):
    if kind not in made:
      make, _, num_steps = RULES[kind]
      made[kind] = jax.jit(make().init)(KEY, trials(num_steps).inputs[0])
    return made[kind]

  return keep


@pytest.fixture(scope='module')
def answers(kept):
  """`(kind, policy or None) -> (estimate, state, outputs)`."""
  made = {}

  def answer(kind, policy):
    if (kind, policy) not in made:
      make, rule_of, num_steps = RULES[kind]
      dynamics = make()
      if policy is not None:
        dynamics = precision.with_policy(dynamics, policy)
      rule = rule_of(dynamics)

      @jax.jit
      def run(params, constants, batch):
        begun = rule.init(KEY, params, constants, batch)
        found, state = rule.estimate(params, constants, begun, KEY, batch)
        return found, state, rule.model.predict(params, constants, KEY, batch)

      made[kind, policy] = run(*kept(kind), trials(num_steps))
    return made[kind, policy]

  return answer


def types(tree):
  return {leaf.dtype for leaf in jax.tree.leaves(tree)}


def cosine(a, b):
  a, b = (
    np.concatenate([np.ravel(np.float64(x)) for x in jax.tree.leaves(tree)])
    for tree in (a, b)
  )
  return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize('kind', RULES)
def test_float32_throughout_is_the_identity(kind, answers):
  """Truth: updates, loss, states and outputs without it, bitwise."""
  chex.assert_trees_all_equal(answers(kind, FULL), answers(kind, None))


@pytest.mark.parametrize('policy', [FULL, HALF])
@pytest.mark.parametrize('kind', RULES)
def test_what_is_kept_is_kept_in_float32(kind, policy, kept):
  """Truth: parameters and constants without a policy, bitwise."""
  make, _, num_steps = RULES[kind]
  init = precision.with_policy(make(), policy).init
  made = jax.jit(init)(KEY, trials(num_steps).inputs[0])
  chex.assert_trees_all_equal(made, kept(kind))
  assert types(made) == {jnp.dtype('float32')}


@pytest.mark.parametrize('kind', RULES)
def test_bfloat16_is_for_what_is_computed_alone(kind, answers):
  """Truth: the policy's dtypes; loss, updates and outputs are float32."""
  estimate, _, outputs = answers(kind, HALF)
  assert types(estimate) == {jnp.dtype('float32')}
  assert outputs.dtype == jnp.float32


@pytest.mark.parametrize('kind, near', [('cell', 0.999), ('network', 0.9)])
def test_bfloat16_points_nearly_where_float32_does(kind, near, answers):
  """Truth: the float32 updates, by their cosine, and the loss to 2 %.

  The updates are others, or nothing was computed in bfloat16. A unit whose
  field is next to nothing may settle the other way.
  """
  half, full = answers(kind, HALF)[0], answers(kind, None)[0]
  assert near < cosine(half.gradient, full.gradient) < 1
  np.testing.assert_allclose(half.loss, full.loss, rtol=0.02)
  for a, b in zip(
    jax.tree.leaves(half.gradient), jax.tree.leaves(full.gradient), strict=True
  ):
    assert not np.array_equal(a, b)


def test_states_of_a_cell_are_bfloat16(answers):
  """Truth: the policy's compute type; counters stay integers."""
  state = answers('cell', HALF)[1].per_trial
  assert types(state.state) == {jnp.dtype('bfloat16')}
  assert types(state.steps) == {jnp.dtype('int32')}


def test_every_product_of_a_step_is_in_bfloat16(kept):
  """Truth: the operands of each product in the step as it is traced."""
  params, constants = kept('cell')
  keys, inputs = jax.random.split(KEY, B), trials(1).inputs[0]
  for policy, wanted in ((HALF, 'bfloat16'), (FULL, 'float32')):
    cell = precision.with_policy(gru(), policy)
    state = cell.initial_state(constants, keys)
    step = jax.make_jaxpr(cell.step)(params, constants, state, keys, inputs)
    found = {
      var.aval.dtype
      for equation in equations(step.jaxpr)
      if equation.primitive.name == 'dot_general'
      for var in equation.invars
    }
    assert found == {jnp.dtype(wanted)}


def equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in core.jaxprs_in_params(equation.params):
      yield from equations(inner)


def test_settled_states_are_bfloat16_and_what_is_said_of_them_float32(kept):
  """Truth: the compute type, and the output type; by the shapes alone."""
  batch, net = trials(1), precision.with_policy(network(), HALF)
  params, constants = kept('network')

  def run(inputs, targets):
    state = net.initial_state(params, constants, inputs, targets)
    keys = jax.random.split(KEY, B)
    after, changed = net.settle(
      params, constants, state, keys, messages='all', sweeps=2
    )
    loss = net.local_loss(params, constants, after, targets, jnp.ones((B, 1)))
    return state, after, changed, loss, net.readout(params, constants, after)

  state, after, changed, loss, scores = jax.eval_shape(
    run, batch.inputs[0], batch.targets[0]
  )
  assert types(state) == {jnp.dtype('bfloat16')}
  chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
  assert changed.shape == (2,) and scores.shape == (B, 2) and loss.shape == ()
  assert types((changed, loss, scores)) == {jnp.dtype('float32')}


def test_integers_and_keys_stay_as_they_are():
  """Truth: a cell that counts, and draws; each array by its kind."""
  seen = {}

  def step(params, constants, state, keys, inputs):
    seen.update(
      zip(
        ('params', 'constants', 'state', 'keys', 'inputs'),
        map(types, (params, constants, state, keys, inputs)),
        strict=True,
      )
    )
    counted = {'x': state['x'] + inputs, 'steps': state['steps'] + 1}
    return counted['x'], counted

  cell = precision.with_policy(
    interfaces.Cell(
      init=lambda key, inputs: (
        {'w': jnp.ones(3)},
        {'order': jnp.arange(3), 'leak': jnp.ones(())},
      ),
      initial_state=lambda constants, keys: {
        'x': jnp.zeros((len(keys), 3)),
        'steps': jnp.zeros(len(keys), jnp.int32),
      },
      step=step,
      readout=lambda params, constants, emission: emission,
    ),
    HALF,
  )
  keys, inputs = jax.random.split(KEY, 2), jnp.ones((2, 3))
  params, constants = cell.init(KEY, inputs)
  state = cell.initial_state(constants, keys)
  emission, after = cell.step(params, constants, state, keys, inputs)
  half, whole = jnp.dtype('bfloat16'), jnp.dtype('int32')
  assert seen == {
    'params': {half},
    'constants': {half, whole},
    'state': {half, whole},
    'keys': {keys.dtype},
    'inputs': {half},
  }
  chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
  assert emission.dtype == half
  assert cell.readout(params, constants, emission).dtype == jnp.float32
  assert types(constants) == {jnp.dtype('float32'), whole}


def test_every_part_of_a_network_computes_in_bfloat16():
  """Truth: what each part is handed, and the type of what it answers.

  The state of the toy is made, and settled, in float32: it is cast again.
  """
  seen = {}

  def watch(name, answer):
    def part(*args, **kwargs):
      del kwargs
      seen[name] = types(args)
      return answer(*args)

    return part

  w = {'w': jnp.ones(3)}
  net = precision.with_policy(
    interfaces.RelaxationNetwork(
      init=lambda key, inputs: (w, w),
      initial_state=watch('initial_state', lambda p, c, x, y: jnp.ones(3)),
      settle=watch('settle', lambda p, c, s, k: (jnp.ones(3), p['w'])),
      readout=watch('readout', lambda p, c, s: p['w'] * s),
      local_loss=watch('local_loss', lambda p, c, s, y, g: jnp.sum(p['w'])),
    ),
    HALF,
  )
  keys = jax.random.split(KEY, 3)
  state = net.initial_state(w, w, jnp.ones(3), jnp.ones(3))
  settled, changed = net.settle(w, w, state, keys, messages='all', sweeps=3)
  scores = net.readout(w, w, settled)
  loss = net.local_loss(w, w, settled, jnp.ones(3), jnp.ones(3))
  half = jnp.dtype('bfloat16')
  assert seen == {
    'initial_state': {half},
    'settle': {half, keys.dtype},
    'readout': {half},
    'local_loss': {half},
  }
  assert types((state, settled)) == {half}
  assert types((changed, scores, loss)) == {jnp.dtype('float32')}


def test_a_learner_learns_in_bfloat16():
  """Truth: updates smaller than a bfloat16 of the weight are not lost.

  The weight is 1 and each step adds 2^-12, which bfloat16 would round away.
  """
  cell = interfaces.Cell(
    init=lambda key, inputs: ({'w': jnp.ones(())}, {}),
    initial_state=lambda constants, keys: jnp.zeros((len(keys), 1)),
    step=lambda params, constants, state, keys, inputs: (state, state),
    readout=lambda params, constants, emission: emission + params['w'],
  )

  def loss(outputs, targets, mask):
    return -jnp.mean(outputs[:, 0] * mask), {}

  rule = bptt.bptt(precision.with_policy(cell, HALF), loss)
  learner = base.descend(rule, optax.sgd(2.0**-12))
  batch = trials(1)
  state = learner.init(KEY, batch)
  update = jax.jit(learner.update)
  for _ in range(8):
    state, _ = update(state, KEY, batch)
  assert float(state.params['w']) == 1 + 8 * 2.0**-12
  assert float(jnp.bfloat16(1) + jnp.bfloat16(2.0**-12)) == 1  # the mutant


@pytest.mark.parametrize(
  'policy, message',
  [
    ('nonsense', "^policy='nonsense': must be a policy such as"),
    ('', "^policy=''"),
    ('compute=float17', "^policy='compute=float17'"),
    ('weights=float32', "^policy='weights=float32'"),
    ('float16', 'needs loss scaling'),
    ('compute=float16', 'Use bfloat16'),
    (jmp.Policy(jnp.float32, jnp.float16, jnp.float32), 'needs loss scaling'),
    (
      jmp.Policy(*map(jnp.dtype, ('float32', 'float16', 'float32'))),
      'needs loss scaling',
    ),
  ],
)
def test_policies_that_cannot_be_are_refused(policy, message):
  """Truth: the message names the policy, or the way out."""
  for dynamics in (gru(), network()):
    with pytest.raises(ValueError, match=message):
      precision.with_policy(dynamics, policy)


def test_a_penalty_is_kept_in_float32_and_refused_in_bfloat16():
  """Truth: the penalty itself; bfloat16 cannot count to 257."""
  cell = gru()._replace(penalty=lambda c, state: 3.0 * state)
  kept = precision.with_policy(cell, 'params=float32,compute=float32')
  assert kept.penalty({}, jnp.float32(2.0)) == 6.0
  with pytest.raises(ValueError, match='counts to 256'):
    precision.with_policy(cell, 'compute=bfloat16')


@pytest.mark.parametrize('where', ['params', 'output'])
def test_float16_anywhere_is_refused(where):
  """Truth: gradients and losses of float16 underflow as products do."""
  policy = {'params': 'float32', 'compute': 'float32', 'output': 'float32'}
  policy[where] = 'float16'
  text = ','.join(f'{name}={dtype}' for name, dtype in policy.items())
  with pytest.raises(ValueError, match='float16'):
    precision.with_policy(gru(), text)


@pytest.mark.parametrize('dynamics', [None, {}, lambda x: x, (1, 2)])
def test_other_dynamics_are_refused(dynamics):
  """Truth: the message names what was given, and what can be."""
  with pytest.raises(
    TypeError, match=f'Cell or a Relax.*not of a {type(dynamics).__name__}'
  ):
    precision.with_policy(dynamics, HALF)
