# SPDX-License-Identifier: Apache-2.0
"""Traces of a cut cell, carried from window to window.

Inside a window of K steps the loss is differentiated in reverse; what came
before acts through a trace a synapse and state variable,

  e [B, m, n] = d state / d weight,   e <- (prod D) e + sum_k S_k c_k x_k
  S_k = D_K ... D_{k+1}               the suffix product
  c_k = d state_k / d y_k             elementwise

one batched product of matrices a synapse and window. D and c come from the
step's local derivative, in which nothing passes a product.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces, unroll
from bionet_learners import base
from bionet_learners.synapses import cut

stop = jax.lax.stop_gradient


class Settings(NamedTuple):
  """How traces are kept.

  Attributes:
    window: K, steps of a window; None: all the steps that are given.
    exact: full reverse mode inside a window, traces beyond; else the cut cell.
    leak: replaces D by this number; None: the cell's own D.
    trace_dtype: the type that traces of products are stored in.
  """

  window: int | None
  exact: bool = False
  leak: float | None = None
  trace_dtype: Any = jnp.float32


class Traced(NamedTuple):
  """Where trials stand between windows, and what the past has left.

  Attributes:
    state: the cell's state; every leaf leads with B.
    steps: int `[B]`, steps done.
    traces: of each synapse and leaf of the state that it drives, `[B, P, m, n]`
      for a product and `[B, ...]` for an elementwise parameter.
  """

  state: interfaces.ArrayTree
  steps: jax.Array
  traces: interfaces.ArrayTree


class Site(NamedTuple):
  """A synapse that has traces.

  Attributes:
    number: the synapse's.
    synapse: the synapse.
    leaves: the leaves of the state that it has traces of.
    columns: of a product: the outputs that drive them.
    units: the unit of each of these outputs, or of each parameter, flat.
  """

  number: int
  synapse: cut.Synapse
  leaves: tuple[int, ...]
  columns: np.ndarray
  units: np.ndarray


def sites_of(
  transition: cut.Transition, settings: Settings, *, every_leaf: bool
) -> list[Site]:
  """The synapses that have traces, under some settings."""
  every = [n for n, g in enumerate(transition.groups) if g >= 0]
  kept = transition.alive
  if every_leaf or settings.exact or settings.leak is not None:
    kept = every
  sites = []
  for number, synapse in enumerate(transition.synapses):
    leaves = tuple(n for n in kept if transition.groups[n] == synapse.group)
    driven = [synapse.drives[n] for n in leaves if n in synapse.drives]
    if not driven or not np.any(driven):
      continue
    if synapse.product:
      columns = np.flatnonzero(np.any(driven, axis=(0, 1)))
      units = synapse.unit[:, columns].ravel()
    else:
      columns, units = np.arange(0), synapse.unit.ravel()
    sites.append(Site(number, synapse, leaves, columns, units))
  return sites


def no_traces(
  sites: list[Site], batch: int, dtype: Any, trace_dtype: Any
) -> interfaces.ArrayTree:
  """Traces of trials that have no past."""

  def zeros(site):
    synapse = site.synapse
    if not synapse.product:
      return jnp.zeros((batch, *synapse.shape), dtype)
    size = (batch, synapse.shape[0], synapse.fan_in, len(site.columns))
    return jnp.zeros(size, trace_dtype)

  return [[zeros(site) for _ in site.leaves] for site in sites]


def take(x: jax.Array, where: np.ndarray) -> jax.Array:
  """`x[..., where]` at known places: slices where places come in runs."""
  if np.array_equal(where, np.arange(x.shape[-1])):
    return x
  where = np.maximum(where, 0)
  borders = np.flatnonzero(np.diff(where) != 1) + 1
  if len(borders) > 16:
    return jnp.take(x, where, axis=-1)
  runs = np.split(where, borders)
  return jnp.concatenate(
    [x[..., int(run[0]) : int(run[-1]) + 1] for run in runs], axis=-1
  )


class Local(NamedTuple):
  """A step's local derivative.

  Attributes:
    inputs: of each site, a product's inputs, `[B, P, m]`; None otherwise.
    drive: c: of each site and leaf, `[B, P, columns]` or `[B, ...]`.
    decay: D: of each pair of leaves of a group, `[B, units]`.
  """

  inputs: list[Any]
  drive: list[list[jax.Array]]
  decay: dict[str, jax.Array]


def redefinition(leak: float | None, state: interfaces.ArrayTree):
  """What replaces a cell's own D by a leak; None where nothing does."""
  if leak is None:
    return None
  leaves = jax.tree.leaves(state)

  def redefine(leaf, value):
    return value + leak * (leaves[leaf] - stop(leaves[leaf]))

  return redefine


def local_derivative(
  transition: cut.Transition,
  sites: list[Site],
  settings: Settings,
  learned: list[jax.Array],
  fixed: list[jax.Array],
  state: interfaces.ArrayTree,
  keys: jax.Array,
  inputs: jax.Array,
) -> tuple[jax.Array, interfaces.ArrayTree, Local]:
  """A step forward, with D and c: the emission, the new state, the Local."""
  if not sites:  # nothing is kept: a feedforward cell, or D = 0
    emission, after, _ = transition.step(learned, fixed, state, keys, inputs)
    return emission, after, Local([], [], {})
  leaves, tree = jax.tree.flatten(state)
  floating = [n for n, g in enumerate(transition.groups) if g >= 0]
  traced = {site.number for site in sites}

  def step(nudges, floats):
    full = list(leaves)
    for leaf, value in zip(floating, floats, strict=True):
      full[leaf] = value
    now = jax.tree.unflatten(tree, full)
    emission, after, products = transition.step(
      learned,
      fixed,
      now,
      keys,
      inputs,
      nudges=[nudges.get(number, zero) for number, zero in enumerate(nothing)],
      local=True,
      redefine=redefinition(settings.leak, now),
    )
    new = jax.tree.leaves(after)
    return [new[leaf] for leaf in floating], (emission, after, products)

  batch, dtype = inputs.shape[0], leaves[floating[0]].dtype
  nothing = [
    jnp.zeros((batch, *synapse.shape), dtype) for synapse in transition.synapses
  ]
  nudges = {number: nothing[number] for number in traced}
  new, pull, (emission, after, products) = jax.vjp(
    step, nudges, [leaves[leaf] for leaf in floating], has_aux=True
  )
  pulled = {}
  for rank in range(_most(transition)):
    asked = _ranked(transition, rank)
    along = [
      jnp.ones_like(x) if leaf in asked else jnp.zeros_like(x)
      for leaf, x in zip(floating, new, strict=True)
    ]
    by_nudge, by_state = pull(along)
    for leaf in asked:
      pulled[leaf] = by_nudge, dict(zip(floating, by_state, strict=True))
  drive = []
  for site in sites:
    own = [pulled[leaf][0][site.number] for leaf in site.leaves]
    if site.synapse.product:
      own = [take(c, site.columns) for c in own]
    drive.append(own)
  needed = sorted({leaf for site in sites for leaf in site.leaves})
  decay = {
    f'{to},{frm}': pulled[to][1][frm].reshape(batch, -1)
    for to in needed
    for frm in needed
    if transition.groups[to] == transition.groups[frm]
  }
  kept = [products[site.number] for site in sites]
  return emission, after, Local(kept, drive, decay)


def _members(transition, group) -> list[int]:
  return [n for n, g in enumerate(transition.groups) if g == group]


def _most(transition) -> int:
  groups = {g for g in transition.groups if g >= 0}
  return max(len(_members(transition, g)) for g in groups)


def _ranked(transition, rank) -> set[int]:
  """The leaf of that rank in each group: groups never act on each other."""
  groups = {g for g in transition.groups if g >= 0}
  members = [_members(transition, g) for g in groups]
  return {own[rank] for own in members if rank < len(own)}


def _suffixes(local: Local, sites: list[Site]):
  """The product of all D, and S_k c_k of each step; `local` leads with K."""
  start = {
    pair: (jnp.ones_like if _same(pair) else jnp.zeros_like)(d[0])
    for pair, d in local.decay.items()
  }

  def back(suffix, decay):
    before = {}
    for pair in suffix:
      to, frm = pair.split(',')
      before[pair] = sum(
        suffix[f'{to},{mid}'] * d
        for mid, d in (
          (p.split(',')[0], d)
          for p, d in decay.items()
          if p.split(',')[1] == frm
        )
      )
    return before, suffix

  decay, suffixes = jax.lax.scan(back, start, local.decay, reverse=True)
  reach = []
  for site, own in zip(sites, local.drive, strict=True):
    by_leaf = dict(zip(site.leaves, own, strict=True))
    reach.append([sum_over(suffixes, to, by_leaf, site) for to in site.leaves])
  return decay, reach


def _same(pair: str) -> bool:
  to, frm = pair.split(',')
  return to == frm


def sum_over(matrix, to, by_leaf, site):
  """`sum_frm matrix[to, frm][unit] * by_leaf[frm]`."""
  return sum(
    take(matrix[f'{to},{frm}'], site.units).reshape(x.shape) * x
    for frm, x in by_leaf.items()
  )


def outputs(site: Site) -> tuple[int, ...]:
  """The shape of a trial's variables that have traces."""
  if site.synapse.product:
    return site.synapse.shape[0], len(site.columns)
  return site.synapse.shape


def advance_traces(
  local: Local, sites: list[Site], traces: interfaces.ArrayTree
) -> interfaces.ArrayTree:
  """The traces after a window; `local` leads with K."""
  if not sites:
    return traces
  decay, reach = _suffixes(local, sites)
  after = []
  for site, inputs, own, old in zip(
    sites, local.inputs, reach, traces, strict=True
  ):
    by_leaf = dict(zip(site.leaves, old, strict=True))
    new = []
    for to, steps in zip(site.leaves, own, strict=True):
      if site.synapse.product:
        past = sum(
          jnp.expand_dims(
            take(decay[f'{to},{frm}'], site.units).reshape(
              x.shape[0], *outputs(site)
            ),
            2,
          )
          * x
          for frm, x in by_leaf.items()
        )
        made = past + jnp.einsum('kbpi,kbpj->bpij', inputs, steps)
        new.append(made.astype(old[0].dtype))
      else:
        past = sum_over(decay, to, by_leaf, site)
        new.append(past + jnp.sum(steps, axis=0))
    after.append(new)
  return after


def add_past(
  sites: list[Site],
  traces: interfaces.ArrayTree,
  signal: interfaces.ArrayTree,
  asked: jax.Array,
  sums: list[jax.Array],
) -> tuple[interfaces.ArrayTree, list[jax.Array]]:
  """Adds what a signal credits to the past: `sum_b signal[b] e[b]`.

  Args:
    sites: the synapses that have traces.
    traces: before the window.
    signal: dL/d state before the window.
    asked: `[]`, whether the signal is not zero.
    sums: of each site, `[m, n]` of a product, `[B, ...]` otherwise.

  Returns:
    The traces as they were, and the new sums. The traces pass through the loop
    that reads them: it then comes before their update, which the compiler can
    make in place.
  """
  signals = jax.tree.leaves(signal)
  kept, after = [], []
  for site, own, total in zip(sites, traces, sums, strict=True):
    batch = own[0].shape[0]
    along = [
      take(signals[leaf].reshape(batch, -1), site.units).reshape(
        batch, *outputs(site)
      )
      for leaf in site.leaves
    ]
    if not site.synapse.product:
      total += sum(e * x for e, x in zip(own, along, strict=True))
    else:

      def of_trial(b, carry, along=along):
        own, total = carry
        for e, x in zip(own, along, strict=True):
          total += jnp.sum(e[b] * x[b][:, None], axis=0)
        return own, total

      own, total = jax.lax.fori_loop(
        0, jnp.where(asked, batch, 0), of_trial, (own, total)
      )
    kept.append(own)
    after.append(total)
  return kept, after


def _no_sums(sites: list[Site], batch: int, dtype: Any) -> list[jax.Array]:
  sizes = [
    (site.synapse.fan_in, len(site.columns))
    if site.synapse.product
    else (batch, *site.synapse.shape)
    for site in sites
  ]
  return [jnp.zeros(size, dtype) for size in sizes]


def of_learned(
  opened: 'Opened', sums: list[jax.Array], gradient: list[jax.Array]
) -> list[jax.Array]:
  """The learned values' gradient with the sums of the sites added."""
  gradient = list(gradient)
  for site, total in zip(opened.sites, sums, strict=True):
    if site.synapse.product:
      size = (site.synapse.fan_in, site.synapse.shape[1])
      total = jnp.zeros(size, total.dtype).at[:, site.columns].set(total)
    weight = site.synapse.weight
    gradient[weight] += opened.transition.flat_gradient(
      site.number, total, opened.learned[weight]
    )
  return gradient


class Opened(NamedTuple):
  """A cell taken apart for some parameters.

  Attributes:
    transition: its transition.
    sites: the synapses that have traces.
    learned: values of the prelude.
    fixed: values of the prelude.
    cell: a cell whose parameters are `(params, learned)`, so that the prelude
      runs once and not at each step; its step is the cut one.
  """

  transition: cut.Transition
  sites: list[Site]
  learned: list[jax.Array]
  fixed: list[jax.Array]
  cell: interfaces.Cell


def open_cell(
  cell: interfaces.Cell,
  settings: Settings,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  state: interfaces.ArrayTree,
  keys: jax.Array,
  inputs: jax.Array,
  *,
  every_leaf: bool = False,
) -> Opened:
  """Takes a cell apart; see `Opened`.

  `every_leaf` keeps traces of the state's leaves that no later step feels.
  """
  transition = cut.Transition(cell, params, constants, state, keys, inputs)
  sites = sites_of(transition, settings, every_leaf=every_leaf)
  learned, fixed = transition.prelude(params, constants)

  def step(both, constants, state, keys, inputs):
    del constants
    emission, state, _ = transition.step(
      both[1],
      fixed,
      state,
      keys,
      inputs,
      redefine=redefinition(settings.leak, state),
    )
    return emission, state

  def readout(both, constants, emission):
    return cell.readout(both[0], constants, emission)

  opened = cell._replace(step=step, readout=readout)
  return Opened(transition, sites, learned, fixed, opened)


def begin(
  cell: interfaces.Cell,
  settings: Settings,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  key: jax.Array,
  trials: interfaces.Trials,
) -> Traced:
  """Trials at their first step."""
  state = unroll.initial_state(cell, constants, key, trials.index)
  keys = unroll.trial_keys(key, trials.index)
  opened = open_cell(
    cell, settings, params, constants, state, keys, trials.inputs[0]
  )
  steps = jnp.zeros(trials.index.shape, jnp.int32)
  traces = no_traces(
    opened.sites,
    trials.index.shape[0],
    trials.inputs.dtype,
    settings.trace_dtype,
  )
  return Traced(state, steps, traces)


def reverse(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  settings: Settings,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  now: Traced,
  keys: jax.Array,
  trials: interfaces.Trials,
) -> tuple[base.Estimate, Traced]:
  """The gradient through the cut cell in one pass, without traces."""

  def objective(params):
    opened = open_cell(
      cell, settings, params, constants, now.state, keys, trials.inputs[0]
    )
    return unroll.unroll(
      opened.cell,
      loss,
      (params, opened.learned),
      constants,
      now.state,
      keys,
      now.steps,
      trials,
    )

  (total, (metrics, state)), gradient = jax.value_and_grad(
    objective, has_aux=True
  )(params)
  after = Traced(state, now.steps + trials.mask.shape[0], now.traces)
  return base.Estimate(gradient, total, metrics), after


def forward(
  cell: interfaces.Cell,
  loss: interfaces.StepLoss,
  settings: Settings,
  params: interfaces.ArrayTree,
  constants: interfaces.ArrayTree,
  now: Traced,
  keys: jax.Array,
  trials: interfaces.Trials,
) -> tuple[base.Estimate, Traced]:
  """The gradient in windows, with what traces bring across their borders."""
  opened = open_cell(
    cell, settings, params, constants, now.state, keys, trials.inputs[0]
  )
  transition, sites, learned, fixed, cut_cell = opened

  def objective(params, learned, state, steps, window):
    inside = (cell, params) if settings.exact else (cut_cell, (params, learned))
    total, (metrics, _) = unroll.unroll(
      inside[0], loss, inside[1], constants, state, keys, steps, window
    )
    return total, metrics

  def learn(state, steps, window):
    (total, metrics), (by_params, by_learned, signal) = jax.value_and_grad(
      objective, argnums=(0, 1, 2), has_aux=True, allow_int=True
    )(params, learned, state, steps, window)
    signal = jax.tree.map(
      lambda g, x: jnp.zeros_like(x) if g.dtype == jax.dtypes.float0 else g,
      signal,
      state,
    )
    return (by_params, by_learned, total, metrics), signal

  def one_window(carry, window):
    now, said, sums = carry
    window = dataclasses.replace(trials, **window)
    asked = jnp.any(window.mask != 0)
    more, signal = jax.lax.cond(
      asked, learn, lambda *_: nothing, now.state, now.steps, window
    )
    traces, sums = add_past(sites, now.traces, signal, asked, sums)

    def advance(state, at):
      step, inputs = at
      _, state, local = local_derivative(
        transition,
        sites,
        settings,
        learned,
        fixed,
        state,
        unroll.step_keys(keys, step),
        inputs,
      )
      return state, local

    num_steps = window.mask.shape[0]
    at = now.steps[None] + jnp.arange(num_steps)[:, None]
    state, local = jax.lax.scan(advance, now.state, (at, window.inputs))
    traces = advance_traces(local, sites, traces)
    after = Traced(state, now.steps + num_steps, traces)
    return (after, jax.tree.map(jnp.add, said, more), sums), None

  num_steps = trials.mask.shape[0]
  size = min(settings.window or num_steps, num_steps)
  timed = unroll.timed(trials)
  first = dataclasses.replace(trials, **jax.tree.map(lambda x: x[:size], timed))
  nothing = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype),
    jax.eval_shape(learn, now.state, now.steps, first),
  )
  sums = _no_sums(sites, trials.index.shape[0], trials.inputs.dtype)
  now, (by_params, by_learned, total, metrics), sums = over_windows(
    one_window, (now, nothing[0], sums), timed, size
  )
  by_learned = of_learned(opened, sums, by_learned)
  _, pull = jax.vjp(lambda p: transition.prelude(p, constants)[0], params)
  gradient = jax.tree.map(jnp.add, by_params, pull(by_learned)[0])
  return base.Estimate(gradient, total, metrics), now


def over_windows(
  body: Callable[[Any, Any], tuple[Any, None]],
  carry: Any,
  timed: dict[str, jax.Array],
  size: int,
) -> Any:
  """Scans over windows of `size` steps; the last may be shorter."""
  num_steps = timed['mask'].shape[0]
  whole = num_steps // size

  def cut_up(x):
    return x[: whole * size].reshape(whole, size, *x.shape[1:])

  carry, _ = jax.lax.scan(body, carry, jax.tree.map(cut_up, timed))
  if num_steps % size:
    carry, _ = body(carry, jax.tree.map(lambda x: x[whole * size :], timed))
  return carry


def check_choice(setting: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless a setting is one of its choices."""
  if value not in choices:
    raise ValueError(
      f'learner.{setting} is {value!r}; choose one of {", ".join(choices)}.'
    )


def checked_window(window: int) -> int:
  """The window; ValueError unless it has a step."""
  if window < 1:
    raise ValueError(
      f'learner.window is {window}; a window has at least 1 step.'
    )
  return window


def checked_dtype(name: str) -> Any:
  """The type named; ValueError unless it is floating."""
  dtype = jnp.dtype(name)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f'learner.trace_dtype is {name!r}; traces are floating, e.g. float32 or '
      'bfloat16.'
    )
  return dtype


def check_trials(trials: interfaces.Trials) -> None:
  """Raises TypeError unless the inputs are floating."""
  if not jnp.issubdtype(trials.inputs.dtype, jnp.floating):
    raise TypeError(
      f'inputs are {trials.inputs.dtype}; rules with traces need floating '
      'inputs: make them one-hot, or cast them.'
    )
