# SPDX-License-Identifier: Apache-2.0
"""The reference of a random core: the Jacobians of its steps.

`jacobians` differentiates each step of each trial by `jax.jacrev`, with the
stop-gradients of `Paths`; every rule is a few lines of linear algebra on them.
Nothing here imports a rule, or what a rule is made of.

Rows R of a Jacobian are the S floats of the new state and the N of the
emission. Columns are P parameters of the core, or S floats of the old state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from bionet_core import interfaces
from tests.learners.random_cores import grammar, language
from tests.learners.random_cores import paths as _paths


class Jacobians(NamedTuple):
  """Derivatives of the steps of trials; arrays lead with `[T, B]`.

  Attributes:
    params: P and the parameters' flat vector are `ravel_pytree`'s.
    emission: `[N]`.
    exact_p, exact_s: `[R, P]`, `[R, S]`, of the step itself.
    cut_s: `[R, S]`, of the cut step.
    local_p, local_s: `[R, P]`, `[R, S]`, where data pass no product.
    single_p: `[R, P]`, the part of `local_p` that passes no product's weights.
    leak_s: `[R, S]`, of the cut step where each state variable leaks.
    probe: `[N, S]`, the emission by the new state, a group at a time.
    past: `[N, S]`, the emission by the old state where it does not act by way
      of the new state of its own group.
    data: of each product, what meets the weights, `[...]` of a trial.
    drive: of each product, `[S, ...]`, the new state by its output.
  """

  emission: np.ndarray
  exact_p: np.ndarray
  exact_s: np.ndarray
  cut_s: np.ndarray
  local_p: np.ndarray
  local_s: np.ndarray
  single_p: np.ndarray
  leak_s: np.ndarray
  probe: np.ndarray
  past: np.ndarray
  data: list[np.ndarray]
  drive: list[np.ndarray]


class Truth:
  """A core on some trials, and what each rule must give there.

  Gradients are dicts `{'core': {name: ...}, 'readout': {'w', 'b'}}`; a rule's
  windows are their lengths, which sum to T.
  """

  def __init__(
    self,
    core: grammar.Core,
    params: interfaces.ArrayTree,
    key: jax.Array,
    trials: interfaces.Trials,
    *,
    leak: float = 0.75,
    known: _paths.Paths | None = None,
  ):
    """Differentiates all steps, in float64.

    Args:
      core: the core.
      params: of its cell.
      key: the run's.
      trials: whole ones.
      leak: of `rflo`, 1 - 1 / tau.
      known: the paths; another value than those of the core makes a mutant.
    """
    self.core, self.leak = core, leak
    self.paths = _paths.follow(core) if known is None else known
    self._params, self._trials = params, trials
    _, self._unravel = flatten_util.ravel_pytree(params['core'])
    self.steps = self._differentiate(key)
    self._score()

  # Steps ----------------------------------------------------------------------

  def _settings(self) -> dict[str, Any]:
    """Factors on the paths, a row per context; see `Jacobians`."""
    names, cut = list(self.core.floats), self.paths.cut
    keep = (~cut).astype(float)
    num_groups, num_products = cut.shape
    rows = {
      'data': [np.ones(num_products), *np.zeros((2, num_products))],
      'weight': [1.0, 1.0, 0.0],
      'new': [np.ones(len(names)) for _ in range(3)],
      'leak': [np.zeros(len(names)) for _ in range(3)],
    }
    for kind in ('cut', 'leak', 'still'):
      for group in range(num_groups):
        member = np.array([self.paths.groups[n] == group for n in names], float)
        rows['data'].append(keep[group])
        rows['weight'].append(1.0)
        rows['new'].append(1 - (kind != 'cut') * member)
        rows['leak'].append((kind == 'leak') * member * self.leak)
    return {name: jnp.asarray(np.stack(x)) for name, x in rows.items()}

  def _differentiate(self, key) -> Jacobians:
    core, trials = self.core, self._trials
    names = list(core.floats)
    constants = {n: jnp.asarray(x) for n, x in core.constants.items()}
    sizes = _paths.sizes(core.floats)
    borders = np.cumsum([0, *sizes])

    def opened(row):
      return {
        name: row[borders[at] : borders[at + 1]].reshape(1, *core.floats[name])
        for at, name in enumerate(names)
      }

    def step(seeds, settings, others, key, x):
      params, row, nudges, probes = seeds
      by_name = {
        kind: dict(zip(names, settings[kind], strict=True))
        for kind in ('new', 'leak')
      }
      ops = language.Hooked(
        (params, constants, {**others, **opened(row)}, key[None], x[None]),
        {**settings, **by_name},
        nudges,
        opened(probes),
      )
      emission = core.program(ops)
      rows = [ops.after[name].reshape(-1) for name in names]
      aux = (
        [x[0] for x in ops.data],
        {n: ops.after[n] for n in core.states if n not in core.floats},
      )
      return jnp.concatenate([*rows, emission[0]]), aux

    def shapes_of(params, row, others, key, x):
      ops = language.Hooked(
        (params, constants, {**others, **opened(row)}, key[None], x[None]),
        {},
        [],
        {},
      )
      core.program(ops)
      return [
        jnp.einsum(spec, d, w)
        for d, (spec, w) in zip(ops.data, ops.weights, strict=True)
      ]

    settings, params = self._settings(), self._params['core']
    steps = jnp.arange(trials.mask.shape[0])
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(trials.index)

    def one_trial(row, others, key, x):
      outs = jax.eval_shape(shapes_of, params, row, others, key, x)
      nudges = [jnp.zeros(s.shape, s.dtype) for s in outs]
      seeds = params, row, nudges, jnp.zeros_like(row)
      (value, aux) = step(
        seeds, jax.tree.map(lambda s: s[0], settings), others, key, x
      )
      jacobian = jax.vmap(
        lambda s: jax.jacrev(step, has_aux=True)(seeds, s, others, key, x)[0]
      )(settings)
      by_params, by_row, by_nudge, by_probe = jacobian
      flat = jax.vmap(jax.vmap(lambda p: flatten_util.ravel_pytree(p)[0]))
      return value, aux, (flat(by_params), by_row, by_nudge, by_probe)

    def advance(carry, at):
      row, others = carry
      t, x = at
      noise = jax.vmap(lambda k: jax.random.fold_in(k, t))(keys)
      value, (data, integers), jacobian = jax.vmap(one_trial)(
        row, others, noise, x
      )
      after = value[:, : row.shape[1]]
      return (after, integers), (value[:, row.shape[1] :], data, jacobian)

    start = _paths.first_state(core, trials.index.shape[0])
    row = jnp.concatenate(
      [start[n].reshape(len(trials.index), -1) for n in names], axis=1
    )
    others = {n: start[n][:, None] for n in core.states if n not in core.floats}
    _, (emission, data, jacobian) = jax.jit(
      lambda: jax.lax.scan(advance, (row, others), (steps, trials.inputs))
    )()
    emission, data, (by_p, by_s, by_y, by_q) = jax.tree.map(
      np.asarray, (emission, data, jacobian)
    )
    return self._assembled(emission, data, by_p, by_s, by_y, by_q)

  def _assembled(self, emission, data, by_p, by_s, by_y, by_q) -> Jacobians:
    """Columns of the groups' contexts, put together."""
    groups, num = self.paths.floats, len(self.paths.cut)
    num_states = len(groups)

    def by_group(jacobian, kind):
      context = 3 + num * ('cut', 'leak', 'still').index(kind) + groups
      at = np.arange(num_states)
      return np.moveaxis(jacobian[:, :, context, :, at], 0, -1)

    return Jacobians(
      emission=emission,
      exact_p=by_p[:, :, 0],
      exact_s=by_s[:, :, 0],
      cut_s=by_group(by_s, 'cut'),
      local_p=by_p[:, :, 1],
      local_s=by_s[:, :, 1],
      single_p=by_p[:, :, 2],
      leak_s=by_group(by_s, 'leak'),
      probe=by_group(by_q, 'still')[:, :, num_states:],
      past=by_group(by_s, 'still')[:, :, num_states:],
      data=data,
      drive=[y[:, :, 1, :num_states, 0] for y in by_y],
    )

  def _score(self):
    """The loss, the readout's gradient, and dL/d outputs, dL/d emission."""
    readout = jax.tree.map(np.asarray, self._params['readout'])
    e, mask = self.steps.emission, np.asarray(self._trials.mask)
    outputs = e @ readout['w'] + readout['b']
    error = outputs - np.asarray(self._trials.targets)
    self.losses = np.sum(error**2, axis=-1) * mask  # per step and trial
    self.loss = np.sum(self.losses) / e.shape[1]
    self.by_outputs = 2 * error * mask[..., None] / e.shape[1]
    self.signal = self.by_outputs @ readout['w'].T
    self.readout = {
      'w': np.einsum('tbn,tbo->no', e, self.by_outputs),
      'b': np.sum(self.by_outputs, axis=(0, 1)),
    }

  @property
  def mask(self):
    """Float `[T, B]`."""
    return self._trials.mask

  @property
  def params(self):
    """The core's parameters."""
    return self._params['core']

  def first_state(self):
    """The state of one trial before its first step, by name."""
    return _paths.first_state(self.core, 1)

  def first_x(self):
    """The inputs `[1, I]` of a trial's first step."""
    return self._trials.inputs[0, :1]

  def tree(self, flat):
    """The gradient of all parameters, from that `[P]` of the core's."""
    core = jax.tree.map(np.asarray, self._unravel(jnp.asarray(flat)))
    return {'core': core, 'readout': self.readout}
