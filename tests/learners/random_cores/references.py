# SPDX-License-Identifier: Apache-2.0
"""What each rule must give, as linear algebra on the Jacobians of a `Truth`.

Every function takes a `Truth`, and returns a gradient like the parameters.
Windows are given by their lengths, which sum to T. S floats of the state, P
parameters of the core, N units of the emission.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from tests.learners.random_cores import language
from tests.learners.random_cores import truth as _truth

Truth = _truth.Truth


def rtrl(truth: Truth):
  """M_t = J_t M_{t-1} + F_t, and the emission's rows likewise."""
  return _influence(truth, None)


def snap(truth: Truth, order: int):
  """The same, where only what is reached within `order` steps is kept."""
  direct, recurrent = truth.paths.direct, truth.paths.recurrent
  reached = direct
  for _ in range(order - 1):
    on = recurrent.astype(int) @ reached[: recurrent.shape[1]].astype(int) > 0
    reached = direct | on
  return _influence(truth, reached)


def _influence(truth, mask):
  steps = truth.steps
  num_steps, batch, _, num_states = steps.exact_s.shape
  moved = np.zeros((batch, num_states, steps.exact_p.shape[-1]))
  total = 0.0
  for t in range(num_steps):
    rows = steps.exact_s[t] @ moved + steps.exact_p[t]
    if mask is not None:
      rows = rows * mask
    total += np.einsum('bn,bnp->p', truth.signal[t], rows[:, num_states:])
    moved = rows[:, :num_states]
  return truth.tree(total)


def windowed(
  truth: Truth,
  windows,
  *,
  inside: str = 'cut',
  leak: float | None = None,
  signal=None,
  kappa: float = 0.0,
):
  """The rules with a trace: reverse mode in windows, traces across them.

  Args:
    truth: the steps.
    windows: their lengths.
    inside: which derivative holds inside a window: 'cut', 'exact' or 'leak'.
    leak: replaces D in the traces; None: the local D.
    signal: `[T, B, N]`, dL_t/d emission; None: by the readout.
    kappa: of the filter on the emission.
  """
  steps = truth.steps
  by_state = {
    'cut': steps.cut_s,
    'exact': steps.exact_s,
    'leak': steps.leak_s,
  }[inside]
  signal = truth.signal if signal is None else signal
  batch, num_states = signal.shape[1], steps.exact_s.shape[-1]
  trace = np.zeros((batch, num_states, steps.exact_p.shape[-1]))
  kept = np.zeros((batch, signal.shape[-1], trace.shape[-1]))
  total, t = 0.0, 0
  for length in windows:
    moved, felt = trace, kept
    for _ in range(length):
      rows = by_state[t] @ moved + steps.exact_p[t]
      felt = kappa * felt + rows[:, num_states:]
      total += np.einsum('bn,bnp->p', signal[t], felt)
      moved = rows[:, :num_states]
      # The traces' part: what the emission hears of them, and they themselves.
      heard = by_state[t] @ trace + steps.exact_p[t]
      kept = kappa * kept + heard[:, num_states:]
      decay = steps.local_s[t][:, :num_states]
      decay = decay @ trace if leak is None else leak * trace
      trace = decay + steps.local_p[t][:, :num_states]
      t += 1
  assert t == len(signal)
  return truth.tree(total)


def modulated(truth: Truth, calls, *, surprise: bool, rate: float):
  """The learning signal of `three_factor`: one number per trial and step.

  The mean that surprise is measured by is the loss of the calls before, per
  trial and asked step; the first call sets it.
  """
  signal, expected, seen, t = np.zeros_like(truth.signal), 0.0, False, 0
  mask = np.asarray(truth.mask)
  batch = mask.shape[1]
  for length in calls:
    now = slice(t, t + length)
    factor = truth.losses[now] - surprise * mask[now] * expected
    signal[now] = factor[..., None] / batch
    asked = np.sum(np.mean(mask[now], axis=1))
    if asked > 0:
      mean = np.sum(truth.losses[now]) / batch / asked
      expected += (rate if seen else 1.0) * (mean - expected)
      seen = True
    t += length
  return signal


def pp_prop(truth: Truth, decay: float):
  """Two filters per synapse; see the decisions in `grammar`."""
  steps = truth.steps
  num_steps, batch, _, num_states = steps.exact_s.shape
  specs, pull = _weights(truth)
  num_products = len(specs)
  single = np.zeros((batch, num_states, steps.exact_p.shape[-1]))
  pre = [np.zeros_like(x[0]) for x in steps.data]
  post = [np.zeros_like(y[0]) for y in steps.drive]
  total = np.zeros(single.shape[-1])
  by_weight = [0.0] * num_products

  def credit(along, pre, post, single, sign):
    nonlocal total
    total = total + sign * np.einsum('bs,bsp->p', along, single)
    for k, spec in enumerate(specs):
      heard = np.einsum('bs,bs...->b...', along, post[k])
      by_weight[k] = by_weight[k] + sign * _outer(spec, pre[k], heard)

  for t in range(num_steps):
    signal = truth.signal[t]
    total = total + np.einsum(
      'bn,bnp->p', signal, steps.exact_p[t][:, num_states:]
    )
    along = np.einsum('bn,bns->bs', signal, steps.probe[t])
    past = np.einsum('bn,bns->bs', signal, steps.past[t])
    direct = steps.single_p[t][:, :num_states]
    data = [x[t] for x in steps.data]
    drive = [y[t] for y in steps.drive]
    credit(along, data, drive, direct, -1.0)  # the step's own newest term
    if t:
      rest = 1 - decay**t
      credit(past, pre, [y / rest for y in post], single / (1 - decay), 1.0)
    move = decay * steps.local_s[t][:, :num_states]
    single = move @ single + (1 - decay) * direct
    post = [
      np.einsum('bst,bt...->bs...', move, y) + (1 - decay) * c
      for y, c in zip(post, drive, strict=True)
    ]
    pre = [decay * p + x for p, x in zip(pre, data, strict=True)]
    rest = 1 - decay ** (t + 1)
    credit(along, pre, [y / rest for y in post], single / (1 - decay), 1.0)
  return truth.tree(total + pull(by_weight))


def _outer(spec, data, heard):
  """The gradient of a product's weights, `data` and `heard` of B trials."""
  ins, out = spec.split('->')
  left, right = ins.split(',')
  return np.einsum(f'{left},{out}->{right}', data, heard)


def _weights(truth):
  """The specs of the products, and the pullback of their weights `[P]`."""
  core = truth.core
  specs = []

  def weights(params):
    args = (params, core.constants, truth.first_state(), None, truth.first_x())
    ops = language.Hooked(args, {}, [], {})
    ops.noise = lambda number, size: np.ones((1, size))
    core.program(ops)
    specs[:] = [spec for spec, _ in ops.weights]
    return [w for _, w in ops.weights]

  values, pull = jax.vjp(weights, truth.params)

  def pulled(cotangents):
    parts = [
      np.broadcast_to(g, w.shape)
      for g, w in zip(cotangents, values, strict=True)
    ]
    flat, _ = flatten_util.ravel_pytree(
      pull([jnp.asarray(g) for g in parts])[0]
    )
    return np.asarray(flat)

  return specs, pulled
