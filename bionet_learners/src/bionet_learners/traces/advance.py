# SPDX-License-Identifier: Apache-2.0
"""The trace equation, and the credit that traces give.

  e <- (prod D) e + sum_k S_k c_k x_k,   S_k = D_K ... D_{k+1}

over a window of K steps, per trial and synapse: a batched product of matrices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bionet_core import interfaces
from bionet_learners.synapses import slopes
from bionet_learners.traces import parts, placement, unit_matrix


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
  x = jnp.swapaxes(inputs, 0, 1)
  return tuple(
    jnp.einsum('bkqi,bkqj->bqij', x, jnp.swapaxes(c, 0, 1)) for c in drive
  )


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


def silence(step: Window, num_steps: int) -> Window:
  """What traces need of steps that leave them as they are.

  Args:
    step: what they need of one step; its shapes count.
    num_steps: K.
  """

  def zeros(x):
    return jnp.zeros((num_steps, *x.shape), x.dtype)

  inputs, drive = jax.tree.map(zeros, (step.inputs, step.drive))
  decay = {group: d.map(zeros).identity() for group, d in step.decay.items()}
  return Window(inputs, drive, decay)


def advance_all(
  sites: list[placement.Site],
  traces: list[unit_matrix.Vector],
  window: Window,
  needed: bool | jax.Array = True,
  after: jax.Array | None = None,
) -> list[unit_matrix.Vector]:
  """All traces after a window.

  Args:
    sites: where traces are kept.
    traces: before the window, packed.
    window: what they need of it.
    needed: bool `[]`; where it is False, traces may stay as they were.
    after: a number `[]` that was read of these traces; None: nothing was.

  Returns:
    The traces, in the types that they are stored in, packed.
  """
  products = {  # the sites of a group share its matrix
    group: unit_matrix.suffix_products(d) for group, d in window.decay.items()
  }
  if after is not None:
    products = {
      group: (parts.once(after, total), suffix)
      for group, (total, suffix) in products.items()
    }

  def of_trials(site, old, x, c, total, suffix):
    old = parts.unpacked(old)
    new = advance(old, x, c, site.of_matrix(total), site.of_matrix(suffix))
    return parts.packed(
      tuple(e.astype(f.dtype) for e, f in zip(new, old, strict=True))
    )

  def of_site(site, old, x, c):
    total, suffix = products[site.group]
    if site.synapse.product is None:
      return of_trials(site, old, x, c, total, suffix)
    divided = parts.Parts.of(old)

    def of_part(part, old):
      e, d = divided.take((old, total), part)
      x_here, c_here, s = divided.take((x, c, suffix), part, axis=1)
      new = of_trials(site, e, x_here, c_here, d, s)
      return divided.put(old, new, part)

    return divided.loop(of_part, old, needed)

  return [
    of_site(*args)
    for args in zip(sites, traces, window.inputs, window.drive, strict=True)
  ]


def one_of(sums: list[jax.Array]) -> jax.Array | None:
  """A number `[]` that depends on all sums."""
  return jnp.sum(jnp.stack([x.ravel()[0] for x in sums])) if sums else None


def add_past(
  sites: list[placement.Site],
  traces: list[unit_matrix.Vector],
  signal: interfaces.ArrayTree,
  sums: list[jax.Array],
) -> list[jax.Array]:
  """Adds what a signal credits to the past: `sum_b signal[b] e[b]`.

  Args:
    sites: where traces are kept.
    traces: before the window, packed.
    signal: dL/d state before the window.
    sums: as `placement.no_sums`.
  """

  def of_site(site, e, total):
    along = placement.signals_of(site, signal)
    if site.synapse.product is None:
      return total + sum(x * y for x, y in zip(e, along, strict=True))
    divided = parts.Parts.of(e)

    def of_part(part, credit):
      here = divided.take((e, along), part)
      for x, y in zip(parts.unpacked(here[0]), here[1], strict=True):
        credit += x * y[:, :, None]
      return credit

    credit = jnp.zeros((divided.size, *e[0].shape[1:]), total.dtype)
    credit = parts.sum_of_rows(divided.loop(of_part, credit))
    by_block = credit.reshape(site.weights[0], -1, *credit.shape[1:])
    return total + parts.sum_of_rows(jnp.swapaxes(by_block, 0, 1))

  return [of_site(*args) for args in zip(sites, traces, sums, strict=True)]
