# SPDX-License-Identifier: Apache-2.0
"""Which rows reach each element of a program's values.

The rows are elements of the program's arguments. Each line hands their sets on:
the set of an element is the union of the sets of all elements that it is
computed from, through whatever operation, and empty where its value is known to
be constant (`folding`). That is exact, element by element, for control flow and
for what `rules.RULES` lists; other operations take anything from anything.
"""

import numpy as np
from jax import core

from bionet_learners.influence import folding, row_sets, rules
from bionet_learners.influence.rules import Value
from bionet_learners.synapses import program


def walk(
  lines: program.Program, arguments: list[Value], store: row_sets.Sets
) -> list[Value]:
  """What the rows in a program's arguments reach.

  Args:
    lines: the program.
    arguments: of each argument, leaf by leaf, the rows in it.
    store: the sets that the arguments name.

  Returns:
    Of each result, the rows that reach it.
  """
  values = {
    # What a caller traces is not known here, whatever it will be.
    number: Value()
    if isinstance(x, core.Tracer)
    else Value(folding.constant(x))
    for number, x in lines.closed.items()
  }
  values.update(zip(lines.ins, arguments, strict=True))

  def value(atom: program.Atom) -> Value:
    if isinstance(atom, int):
      return values[atom]
    return Value(folding.constant(atom.val))

  for line in program.live(lines):
    ins = [value(atom) for atom in line.ins]
    values.update(zip(line.outs, _line(line, lines, ins, store), strict=True))
  return [value(atom) for atom in lines.outs]


def _line(
  line: program.Line,
  lines: program.Program,
  ins: list[Value],
  store: row_sets.Sets,
) -> list[Value]:
  """What there is to say of a line's results."""
  shapes = [lines.shapes[number] for number in line.outs]
  constant = all(x.known is not None and x.known.whole for x in ins)
  if line.name in INSIDES and not constant:
    return INSIDES[line.name](line, ins, shapes, store)
  facts = folding.fold(line, lines, [x.known for x in ins])
  reached = [None] * len(shapes)
  if any(x.sets is not None for x in ins):
    operands = [
      rules.Operand(x.known, _filled(x, lines.shape(atom)))
      for x, atom in zip(ins, line.ins, strict=True)
    ]
    rule = rules.RULES.get(line.name, rules.everything)
    reached = rule(line, operands, shapes, store)
  return [_cut(fact, sets) for fact, sets in zip(facts, reached, strict=True)]


def _cut(fact: folding.Known | None, sets: np.ndarray | None) -> Value:
  """A value; no row reaches what is constant."""
  if sets is not None and fact is not None:
    sets = np.where(fact.where, 0, sets)
  return Value(fact, sets if sets is not None and sets.any() else None)


def _filled(x: Value, shape: tuple[int, ...]) -> np.ndarray:
  return rules.empty(shape) if x.sets is None else x.sets


# Lines with an inside: (line, operands, shapes, store) -> their results.


def _call(line, ins, shapes, store):
  del shapes
  return walk(program.inner(line), ins, store)


def _cond(line, ins, shapes, store):
  which, *operands = ins
  branches = line.settings['branches']
  if which.known is not None:  # it has one element
    last = len(branches) - 1
    branches = [branches[int(np.clip(which.known.value, 0, last))]]
  results, *others = [
    walk(program.written_out(x.jaxpr, x.consts), operands, store)
    for x in branches
  ]
  for other in others:
    results = [
      _cut(folding.join(x.known, y.known), _united(x, y, shape, store))
      for x, y, shape in zip(results, other, shapes, strict=True)
    ]
  return _decided(results, [which], shapes, store)


def _scan(line, ins, shapes, store):
  """Step by step: a counter that is carried is known at each."""
  settings, body = line.settings, program.inner(line)
  num_consts, num_carry = settings['num_consts'], settings['num_carry']
  consts, carry = ins[:num_consts], ins[num_consts:][:num_carry]
  columns = ins[num_consts + num_carry :]
  steps = range(settings['length'])
  done, rows = {}, []
  for t in reversed(steps) if settings['reverse'] else steps:
    moving = [*carry, *(_row(x, t) for x in columns)]
    same = _fingerprint(moving)  # most steps repeat the one before
    if same not in done:
      done[same] = walk(body, [*consts, *moving], store)
    carry = done[same][:num_carry]
    rows.append(done[same][num_carry:])
  if settings['reverse']:
    rows.reverse()
  stacked = []
  for i, shape in enumerate(shapes[num_carry:]):
    column = [row[i] for row in rows]
    sets = [_filled(x, shape[1:]) for x in column]
    fact = folding.stack([x.known for x in column])
    stacked.append(_cut(fact, np.stack(sets) if sets else None))
  return [*carry, *stacked]


def _row(x: Value, t: int) -> Value:
  """Step t of what a scan goes through."""
  fact = None
  if x.known is not None and x.known.where[t].any():
    fact = folding.Known(x.known.value[t], x.known.where[t])
  return _cut(fact, None if x.sets is None else x.sets[t])


def _fingerprint(values: list[Value]) -> tuple:
  """Equal for equal values."""
  parts = []
  for x in values:
    parts.append(None if x.sets is None else x.sets.tobytes())
    parts.append(None if x.known is None else folding.fingerprint(x.known))
  return tuple(parts)


def _while(line, ins, shapes, store):
  """Until no further turn brings a row further."""
  settings = line.settings
  condition, body = (
    program.written_out(settings[name].jaxpr, settings[name].consts)
    for name in ('cond_jaxpr', 'body_jaxpr')
  )
  num_conditions = settings['cond_nconsts']
  num_consts = num_conditions + settings['body_nconsts']
  asks, consts = ins[:num_conditions], ins[num_conditions:num_consts]
  carry = [Value(None, x.sets) for x in ins[num_consts:]]
  while True:
    causes = walk(condition, [*asks, *carry], store)
    turned = _decided(
      walk(body, [*consts, *carry], store), causes, shapes, store
    )
    united = [
      _cut(None, _united(x, y, shape, store))
      for x, y, shape in zip(carry, turned, shapes, strict=True)
    ]
    if _fingerprint(united) == _fingerprint(carry):
      return carry
    carry = united


def _united(
  left: Value, right: Value, shape: tuple[int, ...], store: row_sets.Sets
) -> np.ndarray | None:
  if left.sets is None and right.sets is None:
    return None
  return store.union(_filled(left, shape), _filled(right, shape))


def _decided(results, causes, shapes, store) -> list[Value]:
  """The results, reached by what decides which they are, too."""
  if all(x.sets is None for x in causes):
    return results
  spread = rules.spread([x.sets for x in causes if x.sets is not None], store)
  everywhere = Value(None, spread)
  return [
    Value(x.known, _united(x, everywhere, shape, store))
    for x, shape in zip(results, shapes, strict=True)
  ]


INSIDES = {
  **dict.fromkeys(program.CUSTOM, _call),
  'cond': _cond,
  'scan': _scan,
  'while': _while,
}
"""What is read from its inside, by primitive."""
