# SPDX-License-Identifier: Apache-2.0
"""The cut transition of a cell, and the synapses of its step.

A synapse is an operation in which a value that depends on parameters alone
meets one that depends on data. Synapses that mix units (products with a matrix,
convolutions) are where an approximate rule cuts credit:

  s_t = F(s_{t-1}, y_t),   y_t = W x_t,   x_t = G(s_{t-1}, inputs_t)
  D_t = dF/ds_{t-1} at fixed y_t          kept: elementwise, unit by unit
  dF/dy_t W dG/ds_{t-1}                   cut

so the cut step has the values of the cell's own, and a stop-gradient on
s_{t-1} where it enters a synapse whose output comes back to the same units.
Parameters keep all they do within the step (a GRU's reset gate acts through a
second synapse), and synapses that lead on to the next layer stay whole.

A step is read as a jaxpr, so that any unmodified core works: fused, sliced and
tied weights are values of the prelude, the part of the step that depends on
parameters alone. This is the only module that reads jaxprs, in one piece
because its tables mean something together only.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jaxprs

from bionet_core import interfaces
from bionet_learners.synapses import places, products

_CALLS = frozenset(
  'call checkpoint closed_call core_call jit pjit remat remat2'.split()
)
_CUSTOM = frozenset(
  'custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr'.split()
)
_FIXED, _LEARNED, _DATA = range(3)

_ADVICE = 'Rules that need no such structure: rtrl, snap, bptt, truncated_bptt.'


class Synapse(NamedTuple):
  """A place where parameters meet data.

  The synapse's variable is its output, `[B, P, n]`, for a product of inputs
  `[B, P, m]` with weights `[m, n]` (P positions share the weights), and for
  elementwise operations the parameter itself, as it is broadcast to `[B, ...]`.

  Attributes:
    operation: the primitive's name.
    weight: which of the prelude's learned values.
    product: a product, or an elementwise operation.
    shape: a trial's variable: `(P, n)`, or the parameter's broadcast shape.
    fan_in: m, of a product; else 0.
    group: the group of units it drives; -1 for none.
    unit: int, of `shape`: the one unit of the group that each element drives
      without passing another synapse; -1 for none.
    drives: of each leaf of the state, which elements drive it so: bool of
      `shape`.
    through: bool, of `shape`: which elements reach a state through a further
      synapse: credit that no trace carries.
    emits: whether it reaches the emission.
  """

  operation: str
  weight: int
  product: bool
  shape: tuple[int, ...]
  fan_in: int
  group: int
  unit: np.ndarray
  drives: dict[int, np.ndarray]
  through: np.ndarray
  emits: bool


class _Line(NamedTuple):
  """An equation with every variable numbered; literals stand for themselves."""

  primitive: Any
  settings: dict[str, Any]
  ins: tuple[Any, ...]
  outs: tuple[int, ...]

  @property
  def name(self) -> str:
    return self.primitive.name

  def bind(self, values: list[Any]) -> list[Any]:
    settings = self.primitive.get_bind_params(self.settings)
    made = self.primitive.bind(*values, **settings)
    return list(made) if self.primitive.multiple_results else [made]


class _Program:
  """A jaxpr with its calls written out."""

  def __init__(self):
    self.lines: list[_Line] = []
    self.shapes: list[tuple[int, ...]] = []
    self.floating: list[bool] = []
    self.closed: dict[int, Any] = {}

  def new(self, variable) -> int:
    self.shapes.append(tuple(variable.aval.shape))
    self.floating.append(jnp.issubdtype(variable.aval.dtype, jnp.inexact))
    return len(self.shapes) - 1

  def write_out(self, jaxpr, consts, ins) -> list[Any]:
    """Appends a jaxpr's lines; returns the numbers of its results."""
    known = dict(zip(jaxpr.invars, ins, strict=True))
    for variable, value in zip(jaxpr.constvars, consts, strict=True):
      known[variable] = self.new(variable)
      self.closed[known[variable]] = value

    def number(atom):
      return atom if isinstance(atom, jaxprs.Literal) else known[atom]

    for equation in jaxpr.eqns:
      atoms = tuple(number(atom) for atom in equation.invars)
      if equation.primitive.name in _CALLS:
        outs = self.write_out(*_opened(equation.params), atoms)
      else:
        outs = tuple(self.new(variable) for variable in equation.outvars)
        self.lines.append(
          _Line(equation.primitive, equation.params, atoms, outs)
        )
      known.update(zip(equation.outvars, outs, strict=True))
    return [number(atom) for atom in jaxpr.outvars]


def _opened(settings) -> tuple[Any, Any]:
  """The jaxpr of a call and its constants, closed or not."""
  for name in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
    if name in settings:
      inner = settings[name]
      return getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ())
  raise TypeError(f'a call without a jaxpr: {sorted(settings)}')


class Transition:
  """A cell's step, taken apart.

  Attributes:
    synapses: the step's synapses.
    groups: of each floating leaf of the state, which group of units it is a
      variable of; leaves of a group act on each other elementwise. -1 for
      leaves that are not floating.
    alive: the leaves of the state, by number, through which the past reaches
      later states or emissions uncut: those whose traces are needed.
    sources: of each learned value, the numbers of the parameters' leaves that
      it is made of.
    num_states: the number of leaves of the state.
  """

  def __init__(
    self,
    cell: interfaces.Cell,
    params: interfaces.ArrayTree,
    constants: interfaces.ArrayTree,
    state: interfaces.ArrayTree,
    keys: jax.Array,
    inputs: jax.Array,
  ):
    """Reads one step; arrays may be tracers or shapes.

    Raises:
      TypeError: if a state changes its shape or type in a step, or is complex.
      ValueError: if units meet outside of synapses in the recurrence.
    """
    args = (params, constants, state, keys, inputs)
    closed, out = jax.make_jaxpr(cell.step, return_shape=True)(*args)
    _check_state(state, out[1])
    self._state_tree = jax.tree.structure(state)
    self._batch = inputs.shape[0]
    counts = [len(jax.tree.leaves(arg)) for arg in args]
    self._names = [
      jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)
    ]
    self.num_states = counts[2]
    self._program = program = _Program()
    numbers = [program.new(variable) for variable in closed.jaxpr.invars]
    outs = program.write_out(closed.jaxpr, closed.consts, numbers)
    borders = np.cumsum([0, *counts])
    self._params, self._constants, self._states, _, _ = (
      numbers[a:b] for a, b in itertools.pairwise(borders)
    )
    self._data = numbers[borders[2] :]
    self._emission, self._after = outs[0], outs[1:]
    self._classify()
    self._find_synapses()
    self._spread_places()
    self._group()
    self._place_cuts()
    self.synapses = self._make_synapses()
    self.alive = self._find_alive()

  # Reading ------------------------------------------------------------------

  def _classify(self) -> None:
    """What each value depends on: nothing, parameters alone, or data."""
    program = self._program
    self._kind = [_FIXED] * len(program.shapes)
    self._made_of = [frozenset[int]()] * len(program.shapes)
    for leaf, number in enumerate(self._params):
      self._kind[number] = _LEARNED
      self._made_of[number] = frozenset((leaf,))
    for number in self._data:
      self._kind[number] = _DATA
    for line in program.lines:
      ins = [i for i in line.ins if isinstance(i, int)]
      kind = max((self._kind[i] for i in ins), default=_FIXED)
      made_of = frozenset().union(*(self._made_of[i] for i in ins))
      for number in line.outs:
        self._kind[number] = kind
        self._made_of[number] = made_of
    self._prelude = [
      line for line in program.lines if self._kind[line.outs[0]] != _DATA
    ]
    self._body = [
      line for line in program.lines if self._kind[line.outs[0]] == _DATA
    ]
    read = {i for line in self._body for i in line.ins if isinstance(i, int)}
    read |= {o for o in (self._emission, *self._after) if isinstance(o, int)}
    self._learned = sorted(i for i in read if self._kind[i] == _LEARNED)
    self._fixed = sorted(i for i in read if self._kind[i] == _FIXED)
    self.sources = [sorted(self._made_of[i]) for i in self._learned]

  def _find_synapses(self) -> None:
    """Where learned values meet data: (line, operand) of each synapse."""
    self._sites: list[tuple[int, int]] = []
    self._mixes = [False] * len(self._body)
    for at, line in enumerate(self._body):
      kinds = [
        self._kind[i] if isinstance(i, int) else _FIXED for i in line.ins
      ]
      self._mixes[at] = line.name in products.PRIMITIVES and min(kinds) < _DATA
      for operand, kind in enumerate(kinds):
        number = line.ins[operand]
        if kind == _LEARNED and self._program.floating[number]:
          self._sites.append((at, operand))
    self._at_line: dict[int, list[int]] = {}
    for site, (at, _) in enumerate(self._sites):
      self._at_line.setdefault(at, []).append(site)

  def _spread_places(self) -> None:
    """Which element of each source each element comes from."""
    self._places: list[dict[Any, places.Several]] = [
      {} for _ in self._program.shapes
    ]
    for leaf, number in enumerate(self._states):
      if self._program.floating[number]:
        shape = self._program.shapes[number]
        self._places[number][('state', leaf)] = places.Several(
          [places.own(shape)]
        )
    for at, line in enumerate(self._body):
      found = [
        dict(self._places[i]) if isinstance(i, int) else {} for i in line.ins
      ]
      if self._mixes[at]:
        found = [{} for _ in line.ins]
      for site in self._at_line.get(at, ()):
        operand = self._sites[site][1]
        if not self._mixes[at]:
          shape = self._site_shape(site)
          found[operand][('synapse', site)] = places.Several(
            [places.own(shape)]
          )
      shapes = [self._program.shapes[o] for o in line.outs]
      ins = [_shape(self._program, i) for i in line.ins]
      made = _spread(line, found, ins, shapes)
      for number, several in zip(line.outs, made, strict=True):
        if self._program.floating[number] and line.name != 'stop_gradient':
          self._places[number] = several
      if self._mixes[at]:
        for site in self._at_line.get(at, ()):
          form = _product_form(line, self._sites[site][1], self._program)
          self._places[line.outs[0]][('synapse', site)] = (
            places.Several([form.places()])
            if isinstance(form, products.Product)
            else places.Several(mixed=form)
          )

  def _site_shape(self, site) -> tuple[int, ...]:
    """The whole shape of an elementwise synapse's variable."""
    at, operand = self._sites[site]
    line = self._body[at]
    if line.name in places.ELEMENTWISE:
      return self._program.shapes[line.outs[0]]
    return self._program.shapes[line.ins[operand]]

  def _group(self) -> None:
    """Unites the leaves of the state that act on each other elementwise."""
    parent = list(range(self.num_states))

    def root(leaf):
      while parent[leaf] != leaf:
        leaf = parent[leaf]
      return leaf

    driven: dict[Any, int] = {}
    for leaf, number in enumerate(self._after):
      if not isinstance(number, int):
        continue
      for source in self._places[number]:
        other = (
          source[1] if source[0] == 'state' else driven.setdefault(source, leaf)
        )
        parent[root(leaf)] = root(other)
    roots = [root(leaf) for leaf in range(self.num_states)]
    order = sorted(set(roots))
    self.groups = [
      order.index(r) if self._program.floating[s] else -1
      for r, s in zip(roots, self._states, strict=True)
    ]
    self._check_units()

  def _check_units(self) -> None:
    """Raises where the state's own paths leave the unit."""
    for leaf, number in enumerate(self._after):
      if not isinstance(number, int) or self.groups[leaf] < 0:
        continue
      for source, several in self._places[number].items():
        if several.mixed:
          raise ValueError(self._across(source, leaf, several.mixed))
        if source[0] != 'state':
          continue
        shapes = [self._program.shapes[i] for i in (self._states[source[1]],)]
        own = places.own(shapes[0])
        for found in several.maps:
          if found.shape != own.shape or not np.all(
            (found == own) | (found < 0)
          ):
            raise ValueError(
              self._across(source, leaf, 'an operation that moves units')
            )

  def _across(self, source, leaf, operation) -> str:
    kind, number = source
    begin = (
      f'state{self._names[number]}'
      if kind == 'state'
      else f'the synapse of {self._body[self._sites[number][0]].name}'
    )
    return (
      f'units meet outside of synapses in the recurrence: from {begin} to '
      f'state{self._names[leaf]}, {operation} reaches several units, so there '
      f'is no trace unit by unit. {_ADVICE}'
    )

  def _place_cuts(self) -> None:
    """Which groups each mixing line detaches, and what stays alive after."""
    size = len(self._program.shapes)
    ahead = [frozenset[int]()] * size
    for leaf, number in enumerate(self._after):
      if isinstance(number, int) and self.groups[leaf] >= 0:
        ahead[number] = ahead[number] | {self.groups[leaf]}
    for line in reversed(self._body):
      reached = frozenset().union(*(ahead[o] for o in line.outs))
      for i in line.ins:
        if isinstance(i, int):
          ahead[i] = ahead[i] | reached
    self._ahead = ahead
    self._live = [frozenset[int]()] * size
    for leaf, number in enumerate(self._states):
      if self.groups[leaf] >= 0:
        self._live[number] = frozenset((self.groups[leaf],))
    self._cuts = [frozenset[int]()] * len(self._body)
    for at, line in enumerate(self._body):
      live = frozenset().union(
        *(self._live[i] for i in line.ins if isinstance(i, int))
      )
      reached = frozenset().union(*(ahead[o] for o in line.outs))
      if self._mixes[at]:
        self._cuts[at] = live & reached
      for o in line.outs:
        if self._program.floating[o] and line.name != 'stop_gradient':
          self._live[o] = live - self._cuts[at]

  def _make_synapses(self) -> list[Synapse]:
    made = []
    emits = self._reaches_emission()
    for site, (at, operand) in enumerate(self._sites):
      line = self._body[at]
      product = self._mixes[at]
      if product:
        form = _product_form(line, operand, self._program)
        formed = isinstance(form, products.Product)
        shape = (form.positions, form.outputs) if formed else (0, 0)
        fan_in = form.inputs if formed else 0
      else:
        shape, fan_in = self._site_shape(site)[1:], 0
      unit, drives, group = self._units(site, shape)
      made.append(
        Synapse(
          operation=line.name,
          weight=self._learned.index(line.ins[operand]),
          product=product,
          shape=shape,
          fan_in=fan_in,
          group=group,
          unit=unit,
          drives=drives,
          through=self._enters(site, shape),
          emits=any(emits[o] for o in line.outs),
        )
      )
    return made

  def _enters(self, site, shape) -> np.ndarray:
    """Which elements enter a product that leads on to a state."""
    size = math.prod(shape)
    entered = np.zeros(size, bool)
    for at, line in enumerate(self._body):
      if not self._mixes[at] or not self._ahead[line.outs[0]]:
        continue
      for i in line.ins:
        several = (
          self._places[i].get(('synapse', site)) if isinstance(i, int) else None
        )
        if not several:
          continue
        if several.mixed:
          entered[:] = True
        for found in several.maps:
          entered[found[(found >= 0) & (found < size)]] = True
    return entered.reshape(shape)

  def _reaches_emission(self) -> list[bool]:
    emits = [False] * len(self._program.shapes)
    if isinstance(self._emission, int):
      emits[self._emission] = True
    for line in reversed(self._body):
      if any(emits[o] for o in line.outs):
        for i in line.ins:
          if isinstance(i, int):
            emits[i] = True
    return emits

  def _units(self, site, shape):
    """The one unit that each element of a synapse's variable drives."""
    size = math.prod(shape)
    unit, group = np.full(size, -1, np.int64), -1
    drives = {}
    for leaf, number in enumerate(self._after):
      several = (
        self._places[number].get(('synapse', site))
        if isinstance(number, int)
        else None
      )
      if not several or self.groups[leaf] < 0:
        continue
      group = self.groups[leaf]
      drives[leaf] = np.zeros(size, bool)
      for found in several.maps:
        by_trial = found.reshape(self._batch, -1)
        first = by_trial[0]
        shifts = size * np.arange(self._batch)[:, None]
        taken = np.flatnonzero(first >= 0)
        same = np.where(first >= 0, first + shifts, -1)
        clash = (unit[first[taken]] >= 0) & (unit[first[taken]] != taken)
        repeated = len(np.unique(first[taken])) < len(taken)
        if not np.array_equal(same, by_trial) or repeated or clash.any():
          raise ValueError(self._across(('synapse', site), leaf, 'a broadcast'))
        unit[first[taken]] = taken
        drives[leaf][first[taken]] = True
    drives = {leaf: which.reshape(shape) for leaf, which in drives.items()}
    return unit.reshape(shape), drives, group

  def _find_alive(self) -> list[int]:
    ends = [n for n in (self._emission, *self._after) if isinstance(n, int)]
    direct = {
      source[1]
      for n in range(len(self._program.shapes))
      for source in self._places[n]
      if source[0] == 'state' and n in ends
    }
    entering = set()
    for at, line in enumerate(self._body):
      for i in line.ins:
        if self._mixes[at] and isinstance(i, int):
          entering |= {
            source[1]
            for source in self._places[i]
            if source[0] == 'state'
            and self.groups[source[1]] not in self._cuts[at]
          }
    return sorted(direct | entering)

  # Running ------------------------------------------------------------------

  def prelude(
    self, params: interfaces.ArrayTree, constants: interfaces.ArrayTree
  ) -> tuple[list[jax.Array], list[jax.Array]]:
    """What of a step depends on no data: its learned and its fixed values."""
    values = dict(self._program.closed)
    values.update(zip(self._params, jax.tree.leaves(params), strict=True))
    values.update(zip(self._constants, jax.tree.leaves(constants), strict=True))
    for line in self._prelude:
      ins = [_value(values, i) for i in line.ins]
      values.update(zip(line.outs, line.bind(ins), strict=True))
    return [values[i] for i in self._learned], [values[i] for i in self._fixed]

  def step(
    self,
    learned: list[jax.Array],
    fixed: list[jax.Array],
    state: interfaces.ArrayTree,
    keys: jax.Array,
    inputs: jax.Array,
    *,
    nudges: list[jax.Array] | None = None,
    local: bool = False,
    redefine: Callable[[int, jax.Array], jax.Array] | None = None,
  ) -> tuple[jax.Array, interfaces.ArrayTree, list[jax.Array | None]]:
    """The cut step: the cell's values, and what is kept of its derivative.

    Args:
      learned: values of `prelude`.
      fixed: values of `prelude`.
      state: the state before.
      keys: `[B]`.
      inputs: `[B, *I]`.
      nudges: added to each synapse's variable, `[B, *shape]`.
      local: let nothing pass a product: what is left is what nudges and state
        do elementwise.
      redefine: `(leaf, value) -> value`: gives the new state's derivative; the
        value it gets carries none of that group's state.

    Returns:
      The emission, the new state, and each product's inputs `[B, P, m]` (None
      for elementwise synapses).
    """
    now = dict(zip(self._learned, learned, strict=True))
    now.update(zip(self._fixed, fixed, strict=True))
    now.update(
      zip(
        self._data,
        jax.tree.leaves((state, keys, inputs)),
        strict=True,
      )
    )
    run = _Run(self, now, nudges, local, redefine)
    for at in range(len(self._body)):
      run.advance(at)
    after = [run.get(n) for n in self._after]
    return (
      run.get(self._emission),
      jax.tree.unflatten(self._state_tree, after),
      run.inputs,
    )

  def flat_gradient(
    self, synapse: int, gradient: jax.Array, value: jax.Array
  ) -> jax.Array:
    """The gradient of a learned value, from that of its normal form.

    Args:
      synapse: the synapse's number.
      gradient: float `[m, n]` for a product; `[B, ...]`, by trial, otherwise.
      value: the learned value.
    """
    at, operand = self._sites[synapse]
    line = self._body[at]
    if self._mixes[at]:
      form = _product_form(line, operand, self._program)
      if not isinstance(form, products.Product):
        raise ValueError(f'{form} has no traces. {_ADVICE}')
      normal = form.weights
    else:
      shape = (gradient.shape[0], *self.synapses[synapse].shape)

      def broadcast(w):
        return jnp.broadcast_to(w, shape)

      normal = broadcast

    (back,) = jax.linear_transpose(normal, value)(gradient)
    return back


class _Run:
  """One evaluation of the body, every value in the versions asked for."""

  def __init__(self, transition, now, nudges, local, redefine):
    self._of, self._nudges = transition, nudges
    self._local, self._redefine = local, redefine
    self.inputs: list[jax.Array | None] = [None] * len(transition._sites)
    self._live = list(transition._live)
    self._leaf = {}
    if redefine is not None:
      for leaf, number in enumerate(transition._after):
        if isinstance(number, int) and transition.groups[leaf] >= 0:
          self._leaf.setdefault(number, leaf)
      self._keep_redefined_alive()
    self._asked = self._demand()
    self._values: dict[int, dict[frozenset, Any]] = {}
    states = set(transition._states)
    for number, value in now.items():
      stopped = jax.lax.stop_gradient(value) if number in states else value
      self._values[number] = {
        asked: stopped if asked else value
        for asked in {frozenset(), *self._asked.get(number, ())}
      }

  def _keep_redefined_alive(self):
    for at, line in enumerate(self._of._body):
      live = frozenset().union(
        *(self._live[i] for i in line.ins if isinstance(i, int))
      )
      for o in line.outs:
        if self._of._program.floating[o] and line.name != 'stop_gradient':
          self._live[o] = live - self._of._cuts[at]
        if o in self._leaf:
          self._live[o] |= {self._of.groups[self._leaf[o]]}

  def _cut(self, at) -> frozenset:
    return frozenset() if self._local else self._of._cuts[at]

  def _demand(self):
    """The detachments that each value is asked for in."""
    asked: dict[int, set[frozenset]] = {}
    for number in (self._of._emission, *self._of._after):
      if isinstance(number, int):
        asked.setdefault(number, set()).add(frozenset())
    for at in reversed(range(len(self._of._body))):
      line = self._of._body[at]
      detached = set()
      for o in line.outs:
        for want in asked.get(o, ()):
          detached.add(want)
          if o in self._leaf:
            full = want | {self._of.groups[self._leaf[o]]}
            asked[o] = asked[o] | {full & self._live[o]}
            detached.add(full & self._live[o])
      for want in detached:
        for i in line.ins:
          if isinstance(i, int):
            part = (want | self._cut(at)) & self._live[i]
            asked.setdefault(i, set()).add(part)
    return asked

  def get(self, atom, detached=frozenset()):
    if not isinstance(atom, int):
      return atom.val
    return self._values[atom][detached & self._live[atom]]

  def advance(self, at) -> None:
    line = self._of._body[at]
    wants = set().union(*(self._asked.get(o, set()) for o in line.outs))
    made = {}
    for want in sorted(wants, key=len, reverse=True):
      made[want] = self._bind(at, line, want)
    for o_at, o in enumerate(line.outs):
      versions = {}
      for want in sorted(self._asked.get(o, ()), key=len, reverse=True):
        value = made[want][o_at]
        leaf = self._leaf.get(o)
        if leaf is not None and self._of.groups[leaf] not in want:
          full = (want | {self._of.groups[leaf]}) & self._live[o]
          value = self._redefine(leaf, versions[full])
        versions[want] = value
      self._values[o] = versions

  def _bind(self, at, line, want):
    mixes = self._of._mixes[at]
    values = [self.get(i, want | self._cut(at)) for i in line.ins]
    if mixes and self._local:
      values = [jax.lax.stop_gradient(v) for v in values]
    sites = self._of._at_line.get(at, ())
    for site in sites:
      operand = self._of._sites[site][1]
      if mixes:
        form = _product_form(line, operand, self._of._program)
        if isinstance(form, products.Product):
          self.inputs[site] = form.data(
            jax.lax.stop_gradient(values[1 - operand])
          )
      else:
        values[operand] = jnp.broadcast_to(
          values[operand], self._of._site_shape(site)
        )
        if self._nudges is not None:
          values[operand] = values[operand] + self._nudges[site]
    made = line.bind(values)
    if mixes and sites and self._nudges is not None:
      form = _product_form(
        line, self._of._sites[sites[0]][1], self._of._program
      )
      if isinstance(form, products.Product):
        made[0] = made[0] + form.output(self._nudges[sites[0]])
    return made


# Operations -----------------------------------------------------------------


def _shape(program, atom) -> tuple[int, ...]:
  if isinstance(atom, int):
    return program.shapes[atom]
  return tuple(np.shape(atom.val))


def _value(values, atom):
  return values[atom] if isinstance(atom, int) else atom.val


def _spread(line, found, ins, shapes):
  """The places of a line's results, by source, from its operands'."""
  sources = sorted({source for operand in found for source in operand})
  made: list[dict[Any, places.Several]] = [{} for _ in shapes]
  for source in sources:
    several = [operand.get(source, places.Several()) for operand in found]
    mixed = next((s.mixed for s in several if s.mixed), None)
    results = (
      [places.Several(mixed=mixed)] * len(shapes)
      if mixed
      else _spread_source(line, several, ins, shapes)
    )
    for out, result in zip(made, results, strict=True):
      if result:
        out[source] = result
  return made


def _spread_source(line, several, ins, shapes):
  if line.name in places.ELEMENTWISE:
    if len(shapes) > 1:  # optimization_barrier: one result an operand
      return several
    return [
      places.Several(
        [places.fitted(m, shapes[0]) for s in several for m in s.maps]
      )
    ]
  if line.name in places.STRUCTURAL:
    results = [[] for _ in shapes]
    for at, own in enumerate(several):
      for found in own.maps:
        operands = [
          found if other == at else places.nowhere(shape)
          for other, shape in enumerate(ins)
        ]
        moved = places.moved(line.name, line.settings, operands, shapes)
        if moved is None:
          return [places.Several(mixed=line.name)] * len(shapes)
        for result, new in zip(results, moved, strict=True):
          result.append(new)
    return [places.Several(result) for result in results]
  if line.name in _CUSTOM:
    return _spread_inside(line, several)
  return [places.Several(mixed=line.name)] * len(shapes)


def _spread_inside(line, several):
  """Places through an operation with a derivative of its own."""
  inner = _Program()
  jaxpr, consts = _opened(line.settings)
  numbers = [inner.new(variable) for variable in jaxpr.invars]
  outs = inner.write_out(jaxpr, consts, numbers)
  known = [places.Several() for _ in inner.shapes]
  for number, own in zip(numbers, several, strict=True):
    known[number] = own
  for each in inner.lines:
    own = [
      {0: known[i]} if isinstance(i, int) and known[i] else {} for i in each.ins
    ]
    made = _spread(
      each,
      own,
      [_shape(inner, i) for i in each.ins],
      [inner.shapes[o] for o in each.outs],
    )
    for number, result in zip(each.outs, made, strict=True):
      known[number] = result.get(0, places.Several())
  return [known[o] if isinstance(o, int) else places.Several() for o in outs]


def _product_form(line, operand, program) -> products.Product | str:
  shapes = [_shape(program, i) for i in line.ins]
  out = program.shapes[line.outs[0]]
  return products.normal_form(line.name, line.settings, operand, shapes, out)


def _check_state(before, after) -> None:
  """Raises TypeError unless a step keeps the state as it is."""
  if jax.tree.structure(before) != jax.tree.structure(after):
    raise TypeError(
      'a step changes the tree of the state, from '
      f'{jax.tree.structure(before)} to {jax.tree.structure(after)}.'
    )
  pairs = zip(
    jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
  )
  for (path, old), new in pairs:
    name = f'state{jax.tree_util.keystr(path)}'
    if (old.shape, old.dtype) != (new.shape, new.dtype):
      raise TypeError(
        f'a step changes {name} from {old.dtype}{list(old.shape)} to '
        f'{new.dtype}{list(new.shape)}; a state keeps its shape and type.'
      )
    if jnp.issubdtype(old.dtype, jnp.complexfloating):
      raise TypeError(
        f'{name} is complex; traces are real. Keep the real and the imaginary '
        'part as two leaves of the state.'
      )


def cut(cell: interfaces.Cell) -> interfaces.Cell:
  """The cell whose step has the same values and the cut derivative.

  `bptt(cut(cell), loss)` is D-RTRL in reverse. What is cut is said at the head
  of this module.

  Args:
    cell: any Cell.

  Returns:
    A Cell. Tracing its step raises what `Transition` raises.
  """

  def step(params, constants, state, keys, inputs):
    transition = Transition(cell, params, constants, state, keys, inputs)
    learned, fixed = transition.prelude(params, constants)
    emission, state, _ = transition.step(learned, fixed, state, keys, inputs)
    return emission, state

  return cell._replace(step=step)


def used_inputs(closed: Any) -> list[bool]:
  """Which inputs of a jaxpr its results depend on."""
  program = _Program()
  numbers = [program.new(variable) for variable in closed.jaxpr.invars]
  outs = program.write_out(closed.jaxpr, closed.consts, numbers)
  used = {o for o in outs if isinstance(o, int)}
  for line in reversed(program.lines):
    if used & set(line.outs):
      used |= {i for i in line.ins if isinstance(i, int)}
  return [number in used for number in numbers]
