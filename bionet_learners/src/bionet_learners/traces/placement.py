# SPDX-License-Identifier: Apache-2.0
"""Where traces are kept: a synapse, the units that it drives, their variables.

A trace is `[B, G P, m, n]` per state variable of the driven units for a product
of m inputs with n outputs, and `[B, ...]` for an elementwise parameter.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces
from bionet_learners.synapses import anatomy, contacts, cut_step
from bionet_learners.traces import unit_matrix


class Site(NamedTuple):
  """A synapse and a group of units that it drives.

  Attributes:
    number: the synapse's.
    synapse: the synapse.
    group: the group's number.
    leaves: the leaves of the state that it has traces of: variables of the
      group's units, and sinks that hear them.
    columns: of a product: the outputs that drive them.
    units: the unit of each of these outputs, or of each parameter, flat.
    sinks: `{leaf: [units]}`: the element of a sink that each unit reaches.
    counted: `{leaf: bool, flat}`: of a sink, the variables whose own drive of
      it counts here, and not at another site.
  """

  number: int
  synapse: contacts.Synapse
  group: int
  leaves: tuple[int, ...]
  columns: np.ndarray
  units: np.ndarray
  sinks: dict[int, np.ndarray]
  counted: dict[int, np.ndarray]

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of a trial's variables that have traces."""
    if self.synapse.product is None:
      return self.synapse.shape
    return self.synapse.shape[0], len(self.columns)

  @property
  def weights(self) -> tuple[int, ...]:
    """The shape `(G, m, n)` of a product's weights that have traces."""
    product = self.synapse.product
    assert product is not None, 'an elementwise synapse has no weights'
    return product.blocks, product.inputs, len(self.columns)

  def by_unit(self, leaf: int, values: jax.Array) -> jax.Array:
    """Values of a leaf `[..., elements]`, as `[..., units]` of the group."""
    return take(values, self.sinks[leaf]) if leaf in self.sinks else values

  def counts(self, leaf: int, drive: jax.Array) -> jax.Array:
    """The part of a drive `[..., *shape]` of a leaf that counts here."""
    counted = self.counted.get(leaf)
    if counted is None or counted.all():
      return drive
    return jnp.where(counted.reshape(self.shape), drive, 0)

  def of_units(self, values: jax.Array) -> jax.Array:
    """Values of units `[..., units]`, as `[..., *shape]` of the variables."""
    return take(values, self.units).reshape(*values.shape[:-1], *self.shape)

  def of_matrix(self, matrix: unit_matrix.UnitMatrix) -> unit_matrix.UnitMatrix:
    """A UnitMatrix of the units as one of the variables."""
    return matrix.map(self.of_units)


def sites_of(
  structure: anatomy.Structure, *, every_leaf: bool = False
) -> list[Site]:
  """The synapses that have traces, once per group that they drive.

  Args:
    structure: of the cell's step.
    every_leaf: of all leaves of the state, those included that no later step
      feels.
  """
  felt = structure.alive
  if every_leaf:
    felt = [leaf for leaf, group in enumerate(structure.groups) if group >= 0]
  sites = []
  for number, synapse in enumerate(structure.synapses):
    # What drives a sink counts once, with the first unit that reaches the same
    # element; what comes by no unit makes a site of the sink alone.
    left = {
      leaf: synapse.drives[leaf] >= 0
      for leaf in structure.sinks
      if leaf in synapse.drives
    }
    sinks = {structure.groups[leaf] for leaf in structure.sinks}
    driven = {structure.groups[leaf] for leaf in synapse.drives}
    for group in [*sorted(driven - sinks), *sorted(driven & sinks)]:
      site = _site(structure, number, group, felt, left)
      if site is not None:
        sites.append(site)
  return sites


def _site(structure, number, group, felt, left) -> Site | None:
  """The site of a synapse at a group; takes from `left` what counts there."""
  synapse = structure.synapses[number]
  sinks = {
    leaf: heard[group]
    for leaf, heard in structure.sinks.items()
    if group in heard and leaf in felt
  }
  variables = [leaf for leaf in felt if structure.groups[leaf] == group]
  units = np.max(
    [
      synapse.drives[leaf]
      for leaf in structure.members(group)
      if leaf in synapse.drives
    ],
    axis=0,
  )
  # A sink that is driven past all units is a group of one leaf, of its own.
  counted = {leaf: left[leaf] for leaf in variables if leaf in left}
  drives = [
    counted.get(leaf, synapse.drives[leaf] >= 0)
    for leaf in variables
    if leaf in synapse.drives
  ]
  for leaf, elements in sinks.items():
    if leaf in synapse.drives:
      reached = np.where(units >= 0, elements[units], -1)
      counted[leaf] = left[leaf] & (reached == synapse.drives[leaf])
      left[leaf] = left[leaf] & ~counted[leaf]
      drives.append(counted[leaf])
  # A gate that acts through another synapse drives no unit directly.
  if not np.any(drives):
    return None
  columns = np.arange(0)
  if synapse.product is not None:
    # Of fused weights some columns may drive a unit and others only a gate: the
    # others would have traces of zeros.
    columns = np.flatnonzero(np.any(drives, axis=(0, 1)))
    units = units[:, columns]
    counted = {leaf: mask[:, columns] for leaf, mask in counted.items()}
  return Site(
    number=number,
    synapse=synapse,
    group=group,
    leaves=(*variables, *sinks),
    columns=columns,
    units=units.ravel(),
    sinks=sinks,
    counted={leaf: mask.ravel() for leaf, mask in counted.items()},
  )


def take(x: jax.Array, where: np.ndarray) -> jax.Array:
  """`x[..., where]` at known places: slices where places come in runs."""
  # Slices keep XLA's loops vectorized, which a gather does not.
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


def precise(dtype: Any) -> Any:
  """The type to compute traces in: float32 at least."""
  return jnp.result_type(jnp.float32, dtype)


def no_traces(
  sites: list[Site], batch: int, dtype: Any, trace_dtype: Any
) -> list[unit_matrix.Vector]:
  """Traces of trials that have no past.

  Args:
    sites: where traces are kept.
    batch: B.
    dtype: of the state.
    trace_dtype: of the traces of products.
  """

  def zeros(site):
    if site.synapse.product is None:
      return jnp.zeros((batch, *site.shape), precise(dtype))
    rows, (_, inputs, columns) = site.shape[0], site.weights
    return jnp.zeros((batch, rows, inputs, columns), trace_dtype)

  return [tuple(zeros(site) for _ in site.leaves) for site in sites]


def no_sums(sites: list[Site], batch: int, dtype: Any) -> list[jax.Array]:
  """Zeros to add credit to: `[G, m, n]` of a product, `[B, ...]` otherwise."""
  return [
    jnp.zeros(
      (batch, *site.shape) if site.synapse.product is None else site.weights,
      precise(dtype),
    )
    for site in sites
  ]


def signals_of(site: Site, signal: interfaces.ArrayTree) -> unit_matrix.Vector:
  """The gradient on the state as one on a site's variables, per leaf."""
  leaves = jax.tree.leaves(signal)
  return tuple(
    site.of_units(site.by_unit(n, leaves[n].reshape(leaves[n].shape[0], -1)))
    for n in site.leaves
  )


def to_learned(
  transition: cut_step.Transition,
  sites: list[Site],
  learned: list[jax.Array],
  sums: list[jax.Array],
  gradient: list[jax.Array],
) -> list[jax.Array]:
  """The gradient of the learned values, with the sums of the sites added."""
  gradient = list(gradient)
  for site, total in zip(sites, sums, strict=True):
    if site.synapse.product is not None:
      size = (*total.shape[:2], site.synapse.shape[1])
      # Columns without traces have had all their credit within the step.
      total = jnp.zeros(size, total.dtype).at[..., site.columns].set(total)
    weight = site.synapse.weight
    gradient[weight] += transition.flat_gradient(
      site.number, total, learned[weight]
    )
  return gradient
