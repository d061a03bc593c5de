# SPDX-License-Identifier: Apache-2.0
"""The paths of a random core: which are cut, which lead on, what reaches what.

All of it follows from the core's program, operation by operation; no value and
no derivative is computed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import interfaces
from tests.learners.random_cores import grammar, language


class Layout(NamedTuple):
  """The numbers of the sources of `language.Reach`."""

  num_inputs: int
  params: dict[str, tuple[int, tuple[int, ...]]]
  states: dict[str, tuple[int, tuple[int, ...]]]
  new_sources: dict[str, int]
  products: int
  num_products: int
  num_sources: int


class Paths(NamedTuple):
  """What the grammar knows of a core's paths.

  Attributes:
    groups: of each state variable, by name, its group.
    floats: of each of the S floats of the state, its group.
    cut: bool `[G, K]`: whether product k is cut for group g.
    whole: whether no credit passes a product on its way to a state, save where
      it is cut: then windows change nothing.
    through: bool `[P]`: the parameters that reach a state through a further
      product.
    direct: bool `[R, P]`: what a parameter reaches in one step.
    recurrent: bool `[R, S]`: what a float of the state reaches in one step.
  """

  groups: dict[str, int]
  floats: np.ndarray
  cut: np.ndarray
  whole: bool
  through: np.ndarray
  direct: np.ndarray
  recurrent: np.ndarray


def follow(core: grammar.Core) -> Paths:
  """Follows the paths of a core's program by `language.Reach`."""
  layout = _layout(core)
  num_params = sum(size for size in sizes(core.shapes))
  num_states = sum(size for size in sizes(core.floats))
  products = slice(layout.products, layout.products + layout.num_products)

  def reach(local):
    ops = language.Reach(layout, core.constants, local)
    emission = core.program(ops)
    rows = [ops.after[name] for name in core.floats]
    flat = [x.depends.reshape(-1, layout.num_sources) for x in rows]
    return (
      ops,
      [np.any(x, 0) for x in flat],
      np.concatenate([*flat, emission.depends[0]]),
    )

  names = list(core.floats)
  _, by_leaf, _ = reach(local=True)
  groups = {name: at for at, name in enumerate(names)}
  for name, row in zip(names, by_leaf, strict=True):
    for other in names:
      start, shape = layout.states[other]
      acts = row[start : start + int(np.prod(shape))].any()
      if acts or row[layout.new_sources[other]]:
        joined = groups[other]
        groups = {
          n: groups[name] if g == joined else g for n, g in groups.items()
        }
  order = sorted(set(groups.values()))
  groups = {name: order.index(g) for name, g in groups.items()}
  ops, by_leaf, rows = reach(local=False)
  cut = np.zeros((len(order), layout.num_products), bool)
  for name, row in zip(names, by_leaf, strict=True):
    cut[groups[name]] |= row[products]
  floats = np.concatenate(
    [np.full(np.prod(core.floats[n], dtype=int), groups[n]) for n in names]
  )
  leads_on = cut.any(axis=0)
  through = np.zeros(num_params, bool)
  whole = True
  for number, entering in enumerate(ops.entering):
    if leads_on[number]:
      through |= entering[:num_params]
      states = entering[num_params : num_params + num_states]
      whole &= not np.any(states & ~cut[floats, number])
  return Paths(
    groups=groups,
    floats=floats,
    cut=cut,
    whole=bool(whole and not through.any()),
    through=through,
    direct=rows[:, :num_params],
    recurrent=rows[:, num_params : num_params + num_states],
  )


def sizes(shapes):
  return [int(np.prod(shape)) for shape in shapes.values()]


def _layout(core) -> Layout:
  params, states, start = {}, {}, 0
  for name in sorted(core.shapes):  # the order of `ravel_pytree`
    params[name] = start, core.shapes[name]
    start += int(np.prod(core.shapes[name]))
  for name, shape in core.floats.items():
    states[name] = start, shape
    start += int(np.prod(shape))
  new = {name: start + at for at, name in enumerate(core.floats)}
  start += len(new)
  products = _num_products(core)
  return Layout(
    grammar.I, params, states, new, start, products, start + products
  )


def _num_products(core) -> int:
  """How many products a step has."""

  def count(core_params, x):
    ops = language.Hooked(
      (core_params, core.constants, first_state(core, 1), None, x), {}, [], {}
    )
    ops.noise = lambda number, size: jnp.ones((1, size))
    core.program(ops)
    numbers.append(len(ops.data))
    return x

  numbers = []
  jax.eval_shape(
    count,
    {n: jnp.zeros(s) for n, s in core.shapes.items()},
    jnp.zeros((1, grammar.I)),
  )
  return numbers[0]


def cut_cell(core: grammar.Core, known: Paths) -> interfaces.Cell:
  """The cell with the cut derivative: explicit stop-gradients, by group."""
  stop = jax.lax.stop_gradient

  def step(params, constants, state, keys, inputs):
    before = core.unpack(state)

    def run(params, live, kept):
      state = {
        n: x if x is not None and known.groups.get(n) == live else stop(x)
        for n, x in before.items()
      }
      ones = {n: 1.0 for n in core.floats}
      zeros = {n: jnp.zeros_like(before[n]) for n in core.floats}
      ops = language.Hooked(
        (params['core'], constants, state, keys, inputs),
        {
          'data': kept,
          'weight': 1.0,
          'new': ones,
          'leak': {n: 0.0 for n in core.floats},
        },
        [0.0] * known.cut.shape[1],
        zeros,
      )
      emission = core.program(ops)
      return emission, ops.after

    result = run(params, -1, np.ones(known.cut.shape[1]))
    for group, cut in enumerate(known.cut):
      more = run(stop(params), group, 1.0 - cut)
      result = jax.tree.map(
        lambda a, b: (
          a + (b - stop(b)) if jnp.issubdtype(a.dtype, jnp.floating) else a
        ),
        result,
        more,
      )
    return result[0], core.pack(result[1])

  return core.cell._replace(step=step)


def first_state(core, batch):
  keys = jax.random.split(jax.random.key(0), batch)
  return core.unpack(core.cell.initial_state({}, keys))
