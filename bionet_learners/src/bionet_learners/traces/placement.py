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
from bionet_learners.synapses import anatomy, cut_step
from bionet_learners.synapses import synapse as synapses
from bionet_learners.traces import unit_matrix


class Site(NamedTuple):
  """A synapse and a group of units that it drives.

  Attributes:
    number: the synapse's.
    synapse: the synapse.
    leaves: the leaves of the state that it has traces of.
    columns: of a product: the outputs that drive them.
    units: the unit of each of these outputs, or of each parameter, flat.
  """

  number: int
  synapse: synapses.Synapse
  leaves: tuple[int, ...]
  columns: np.ndarray
  units: np.ndarray

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
  kept = structure.alive
  if every_leaf:
    kept = [leaf for leaf, group in enumerate(structure.groups) if group >= 0]
  sites = []
  for number, synapse in enumerate(structure.synapses):
    for group in structure.driven_by(number):
      leaves = tuple(n for n in kept if structure.groups[n] == group)
      driven = [synapse.drives[n] for n in leaves if n in synapse.drives]
      # A gate that acts through another synapse drives no unit directly.
      if not driven or np.max(driven) < 0:
        continue
      units = np.max(
        [
          synapse.drives[n]
          for n in structure.members(group)
          if n in synapse.drives
        ],
        axis=0,
      )
      columns = np.arange(0)
      if synapse.product is not None:
        # Of fused weights some columns may drive a unit and others only a gate:
        # the others would have traces of zeros.
        columns = np.flatnonzero(np.max(driven, axis=(0, 1)) >= 0)
        units = units[:, columns]
      sites.append(Site(number, synapse, leaves, columns, units.ravel()))
  return sites


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
    site.of_units(leaves[n].reshape(leaves[n].shape[0], -1))
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
