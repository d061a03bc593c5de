# SPDX-License-Identifier: Apache-2.0
"""The trace equation, and the credit that traces give.

  e <- (prod D) e + sum_k S_k c_k x_k,   S_k = D_K ... D_{k+1}

over a window of K steps, per trial and synapse: a batched product of matrices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces, platforms
from bionet_learners.synapses import slopes
from bionet_learners.traces import placement, unit_matrix


def advance(
  traces: unit_matrix.Vector,
  inputs: jax.Array | None,
  drive: unit_matrix.Vector,
  total: unit_matrix.UnitMatrix,
  suffix: unit_matrix.UnitMatrix,
) -> unit_matrix.Vector:
  """A site's traces after a window, from those before it.

  Args:
    traces: e, `[B, Q, m, n]` of a product, `[B, ...]` otherwise.
    inputs: x, `[K, B, Q, m]` of a product; None: the constant 1.
    drive: c, `[K, B, Q, n]` or `[K, B, ...]`.
    total: the product of all D, of the variables.
    suffix: S, of the variables; entries lead with K.
  """
  # Unlike a scan over the steps, this reads and writes the traces once.
  past = _over_inputs(total, inputs) @ traces
  return _sum(past, _outer_sum(inputs, suffix @ drive))


def _sum(a: unit_matrix.Vector, b: unit_matrix.Vector) -> unit_matrix.Vector:
  return tuple(x + y for x, y in zip(a, b, strict=True))


def _over_inputs(total, inputs) -> unit_matrix.UnitMatrix:
  """A matrix of variables `[B, Q, n]` as one of traces `[B, Q, 1, n]`."""
  return total if inputs is None else total.map(lambda x: x[:, :, None])


def _outer_sum(inputs, drive: unit_matrix.Vector) -> unit_matrix.Vector:
  """`sum_k x_k drive_k`: one product of matrices per trial."""
  # The input of an elementwise parameter is the constant 1.
  if inputs is None:
    return tuple(jnp.sum(c, axis=0) for c in drive)
  return tuple(jnp.einsum('kbqi,kbqj->bqij', inputs, c) for c in drive)


class Window(NamedTuple):
  """What the traces of each site need of a window, or of one step.

  Attributes:
    inputs: x, `[K, B, Q, m]` of a product's site; None otherwise.
    drive: c, per leaf of the site, `[K, B, Q, n]` or `[K, B, ...]`.
    decay: D, of the leaves of each site's group, by its number: entries are
      `[K, B, units]`.
  """

  inputs: list[jax.Array | None]
  drive: list[unit_matrix.Vector]
  decay: dict[int, unit_matrix.UnitMatrix]


def traced(sites: list[placement.Site]) -> list[int]:
  """The numbers of the synapses that have traces, each once."""
  return sorted({site.number for site in sites})


def of_sites(sites: list[placement.Site], local: slopes.Local) -> Window:
  """A step's local derivative, by site: only the columns that have traces.

  Sorted out step by step, since what a window's steps leave is stacked.
  """
  numbers = traced(sites)

  def precise(x):
    return x.astype(placement.precise(x.dtype))

  inputs, drive = [], []
  for site in sites:
    at = numbers.index(site.number)
    received, by_leaf = local.inputs[at], local.drive[at]
    # A site has traces of all variables of its units, and may drive only some.
    zero = jnp.zeros_like(next(iter(by_leaf.values())))
    c = [precise(by_leaf.get(leaf, zero)) for leaf in site.leaves]
    if site.synapse.product is not None:
      c = [placement.take(values, site.columns) for values in c]
    c = [site.counts(leaf, x) for leaf, x in zip(site.leaves, c, strict=True)]
    inputs.append(None if received is None else precise(received))
    drive.append(tuple(c))
  # Only these are stacked over a window.
  decay = {site.group: _matrix(site, local) for site in sites}
  return Window(inputs, drive, decay)


def _matrix(
  site: placement.Site, local: slopes.Local
) -> unit_matrix.UnitMatrix:
  """D of the leaves of a site, unit by unit."""
  leaves = site.leaves
  entries = {}
  for to in leaves:
    for by in leaves:
      if (to, by) in local.decay:
        d = site.by_unit(by, local.decay[to, by])
        entries[to, by] = d.astype(placement.precise(d.dtype))
  # The matrices of a unit are multiplied: their entries have one type.
  dtype = jnp.result_type(*entries.values())
  zero = jnp.zeros_like(next(iter(entries.values())), dtype)
  return unit_matrix.UnitMatrix.of(
    # A sink acts on no other leaf.
    lambda i, j: entries.get((leaves[i], leaves[j]), zero).astype(dtype),
    len(leaves),
  )


def advance_all(
  sites: list[placement.Site],
  traces: list[unit_matrix.Vector],
  window: Window,
) -> list[unit_matrix.Vector]:
  """All traces after a window, in the types that they are stored in."""
  matrices = {  # the sites of a group share its matrix
    group: unit_matrix.suffix_products(matrix)
    for group, matrix in window.decay.items()
  }
  after = []
  for site, old, x, c in zip(
    sites, traces, window.inputs, window.drive, strict=True
  ):
    total, suffix = (site.of_matrix(m) for m in matrices[site.group])
    stored = zip(advance(old, x, c, total, suffix), old, strict=True)
    after.append(tuple(e.astype(before.dtype) for e, before in stored))
  return after


def add_past(
  sites: list[placement.Site],
  traces: list[unit_matrix.Vector],
  signal: interfaces.ArrayTree,
  mask: jax.Array,
  sums: list[jax.Array],
) -> tuple[list[unit_matrix.Vector], list[jax.Array]]:
  """Adds what a signal credits to the past: `sum_b signal[b] e[b]`.

  Args:
    sites: where traces are kept.
    traces: before the window.
    signal: dL/d state before the window.
    mask: of the window, `[K, B]`; where it is zero, the signal is.
    sums: as `sites.no_sums`.

  Returns:
    The traces as they were, and the new sums. The traces pass through the loop
    that reads them: it then comes before their update, which the compiler can
    make in place.
  """
  unchanged, after = [], []
  for site, traces_here, total in zip(sites, traces, sums, strict=True):
    along = placement.signals_of(site, signal)
    if site.synapse.product is None:
      total += sum(e * x for e, x in zip(traces_here, along, strict=True))
    else:
      batch, blocks = traces_here[0].shape[0], site.weights[0]

      def of_trial(b, carry, along=along, blocks=blocks):
        traces, total = carry
        for e, x in zip(traces, along, strict=True):
          credit = e[b] * x[b][:, None]
          credit = credit.reshape(blocks, -1, *credit.shape[1:])
          total += jnp.sum(credit, axis=1)
        return traces, total

      if platforms.accelerated():
        for e, x in zip(traces_here, along, strict=True):
          e, x = (v.reshape(batch, blocks, -1, *v.shape[2:]) for v in (e, x))
          total += jnp.einsum('bpqmn,bpqn->pmn', e, x.astype(total.dtype))
      else:
        # A loop without steps where nothing is asked: traces are large, and
        # a conditional would copy them.
        num_trials = jnp.where(jnp.any(mask != 0), batch, 0)
        traces_here, total = jax.lax.fori_loop(
          0, num_trials, of_trial, (traces_here, total)
        )
    unchanged.append(traces_here)
    after.append(total)
  return unchanged, after
