# SPDX-License-Identifier: Apache-2.0
"""The trace equation, and the credit that traces give.

  e <- (prod D) e + sum_k S_k c_k x_k,   S_k = D_K ... D_{k+1}

over a window of K steps, per trial and synapse: a batched product of matrices.
"""

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners.synapses import local
from bionet_learners.traces import sites as places
from bionet_learners.traces import unit_matrix


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
  past = _over_inputs(total, inputs) @ traces
  return _sum(past, _outer_sum(inputs, suffix @ drive))


def _sum(a: unit_matrix.Vector, b: unit_matrix.Vector) -> unit_matrix.Vector:
  return tuple(x + y for x, y in zip(a, b, strict=True))


def _over_inputs(total, inputs) -> unit_matrix.UnitMatrix:
  """A matrix of variables `[B, Q, n]` as one of traces `[B, Q, 1, n]`."""
  return total if inputs is None else total.map(lambda x: x[:, :, None])


def _outer_sum(inputs, drive: unit_matrix.Vector) -> unit_matrix.Vector:
  """`sum_k x_k drive_k`: one product of matrices per trial."""
  if inputs is None:
    return tuple(jnp.sum(c, axis=0) for c in drive)
  return tuple(jnp.einsum('kbqi,kbqj->bqij', inputs, c) for c in drive)


def advance_all(
  sites: list[places.Site],
  traces: list[unit_matrix.Vector],
  window: local.Local,
) -> list[unit_matrix.Vector]:
  """All traces after a window; the leaves of `window` lead with K."""
  matrices = {}
  for site in sites:  # the sites of a group share its matrix
    if site.leaves not in matrices:
      matrices[site.leaves] = unit_matrix.suffix_products(
        decay_of(window, site.leaves)
      )
  after = []
  for site, old, x in zip(sites, traces, inputs_of(sites, window), strict=True):
    total, suffix = (site.of_matrix(m) for m in matrices[site.leaves])
    new = advance(old, x, drive_of(site, sites, window), total, suffix)
    after.append(
      tuple(e.astype(o.dtype) for e, o in zip(new, old, strict=True))
    )
  return after


def decay_of(
  window: local.Local, leaves: tuple[int, ...]
) -> unit_matrix.UnitMatrix:
  """D of these leaves of a group."""

  def entry(i, j):
    d = window.decay[leaves[i], leaves[j]]
    return d.astype(places.precise(d.dtype))

  return unit_matrix.UnitMatrix.of(entry, len(leaves))


def traced(sites: list[places.Site]) -> list[int]:
  """The numbers of the synapses that have traces, each once."""
  return sorted({site.number for site in sites})


def inputs_of(
  sites: list[places.Site], local: local.Local
) -> list[jax.Array | None]:
  """The inputs of each site's product; None of an elementwise one."""
  numbers = traced(sites)
  return [
    None if x is None else x.astype(places.precise(x.dtype))
    for x in (local.inputs[numbers.index(site.number)] for site in sites)
  ]


def drive_of(
  site: places.Site, sites: list[places.Site], local: local.Local
) -> unit_matrix.Vector:
  """The drive c of a site, per leaf; zero where it drives one not directly."""
  by_leaf = local.drive[traced(sites).index(site.number)]
  like = next(iter(by_leaf.values()))
  drive = []
  for leaf in site.leaves:
    c = by_leaf.get(leaf, jnp.zeros_like(like))
    c = c.astype(places.precise(c.dtype))
    if site.synapse.product is not None:
      c = places.take(c, site.columns)
    drive.append(c)
  return tuple(drive)


def add_past(
  sites: list[places.Site],
  traces: list[unit_matrix.Vector],
  signal: interfaces.ArrayTree,
  asked: jax.Array,
  sums: list[jax.Array],
) -> tuple[list[unit_matrix.Vector], list[jax.Array]]:
  """Adds what a signal credits to the past: `sum_b signal[b] e[b]`.

  Args:
    sites: where traces are kept.
    traces: before the window.
    signal: dL/d state before the window.
    asked: `[]`, whether the signal is not zero.
    sums: as `sites.no_sums`.

  Returns:
    The traces as they were, and the new sums. The traces pass through the loop
    that reads them: it then comes before their update, which the compiler can
    make in place.
  """
  kept, after = [], []
  for site, traces_here, total in zip(sites, traces, sums, strict=True):
    along = places.signals_of(site, signal)
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

      # A loop without steps where nothing is asked: traces are large, and
      # a conditional would copy them.
      traces_here, total = jax.lax.fori_loop(
        0, jnp.where(asked, batch, 0), of_trial, (traces_here, total)
      )
    kept.append(traces_here)
    after.append(total)
  return kept, after
