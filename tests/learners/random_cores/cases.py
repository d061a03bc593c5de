# SPDX-License-Identifier: Apache-2.0
"""Random cores on trials, and each rule beside what it must give."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bionet_learners as learners
from bionet_core import interfaces
from tests import small
from tests.learners.random_cores import grammar, references
from tests.learners.random_cores import truth as truths

T, B = 8, 2
CALLS = (4, 4)
KEY = jax.random.key(7)
TAU, KAPPA, DECAY = 4.0, 0.6, 0.8


def trials() -> interfaces.Trials:
  """Delayed targets, a ragged mask, and trials whose numbers are not 0, 1."""
  rng = np.random.default_rng(5)
  mask = np.zeros((T, B))
  mask[[2, 5, 7]] = [[0.3, 0.0], [0.2, 0.5], [0.5, 0.5]]
  return interfaces.Trials(
    inputs=jnp.asarray(rng.normal(size=(T, B, grammar.I))),
    targets=jnp.asarray(rng.normal(size=(T, B, grammar.O))),
    mask=jnp.asarray(mask),
    index=jnp.asarray([3, 8]),
  )


class Case:
  """A random core with parameters, on trials; in float64.

  Attributes:
    core: the core.
    truth: the reference.
    params: of the core's cell.
  """

  def __init__(self, number: int, **settings):
    self.core, self.trials = grammar.draw(number), trials()
    key = jax.random.key(100 + number)
    init = self.core.cell.init
    self.params, self.constants = init(key, self.trials.inputs[0])
    self.truth = truths.Truth(
      self.core, self.params, KEY, self.trials, leak=1 - 1 / TAU, **settings
    )

  def run(self, rule, calls=CALLS):
    """The sum of a rule's estimates over calls, and what it shares."""
    state = rule.init(KEY, self.params, self.constants, self.trials)
    shared, estimate, start = state.shared, jax.jit(rule.estimate), 0
    gradient, loss = jax.tree.map(jnp.zeros_like, self.params), 0.0
    for length in calls:
      part = slice(start, start + length)
      window = dataclasses.replace(
        self.trials,
        inputs=self.trials.inputs[part],
        targets=self.trials.targets[part],
        mask=self.trials.mask[part],
      )
      result, state = estimate(self.params, self.constants, state, KEY, window)
      gradient = jax.tree.map(jnp.add, gradient, result.gradient)
      loss += result.loss
      start += length
    return gradient, loss, shared


class Rule(NamedTuple):
  """A deterministic rule, and its reference.

  Attributes:
    make: from a cell and a loss to the rule.
    wanted: from a truth, what the rule shares and the lengths of its calls to
      the gradient.
    calls: from a truth to the lengths of its calls.
  """

  make: Callable[..., Any]
  wanted: Callable[..., Any]
  calls: Callable[..., tuple[int, ...]] = lambda truth: CALLS


def in_windows(calls, window):
  """The lengths of the windows that calls are cut into."""
  return [
    min(window, length - start)
    for length in calls
    for start in range(0, length, window)
  ]


def _traced(window, **settings):
  def wanted(truth, shared, calls):
    del shared
    return references.windowed(truth, in_windows(calls, window), **settings)

  return wanted


def _through_feedback(**settings):
  def wanted(truth, shared, calls):
    (matrix,) = jax.tree.leaves(shared)
    signal = truth.by_outputs @ np.asarray(matrix)
    windows = in_windows(calls, 2)
    return references.windowed(truth, windows, signal=signal, **settings)

  return wanted


def _three_factor(truth, shared, calls):
  del shared
  signal = references.modulated(truth, calls, surprise=True, rate=0.1)
  return references.windowed(truth, in_windows(calls, 2), signal=signal)


def _kappa(truth, shared, calls):
  del shared
  windows = in_windows(calls, 2 if truth.paths.whole else T)
  return references.windowed(truth, windows, kappa=KAPPA)


def _make(name, **settings):
  return lambda cell, loss: getattr(learners, name)(cell, loss, **settings)


def _make_traced(name, **settings):
  return _make(name, trace_dtype='float64', **settings)


def _in_one_call(truth):
  del truth
  return (T,)


def _snap(order):
  return Rule(
    _make('snap', order=order),
    lambda truth, shared, calls: references.snap(truth, order),
  )


def _exact(truth, shared, calls):
  del shared, calls
  return references.rtrl(truth)


RULES = {
  'bptt': Rule(_make('bptt'), _exact, _in_one_call),
  'rtrl': Rule(_make('rtrl'), _exact),
  'snap 1': _snap(1),
  'snap 2': _snap(2),
  'snap 9': Rule(_make('snap', order=9), _exact),
  'd_rtrl 1': Rule(_make_traced('d_rtrl', window=1), _traced(1)),
  'd_rtrl 3': Rule(_make_traced('d_rtrl', window=3), _traced(3)),
  'd_rtrl whole': Rule(
    _make_traced('d_rtrl', window=T), _traced(T), _in_one_call
  ),
  'd_rtrl reverse': Rule(
    _make('d_rtrl', execution='reverse'), _traced(T), _in_one_call
  ),
  'd_rtrl exact': Rule(
    _make_traced('d_rtrl', window=2, within='exact'),
    _traced(2, inside='exact'),
  ),
  'e_prop symmetric': Rule(_make_traced('e_prop', window=2), _traced(2)),
  'e_prop random': Rule(
    _make_traced('e_prop', window=2, feedback='random'), _through_feedback()
  ),
  'e_prop kappa': Rule(
    lambda cell, loss: None,
    _kappa,
    lambda truth: CALLS if truth.paths.whole else (T,),
  ),
  'rflo': Rule(
    _make_traced('rflo', window=2, tau=TAU),
    _through_feedback(inside='leak', leak=1 - 1 / TAU),
  ),
  'pp_prop': Rule(
    _make('pp_prop', decay=DECAY),
    lambda truth, shared, calls: references.pp_prop(truth, DECAY),
  ),
  'three_factor': Rule(
    _make_traced('three_factor', window=2, modulator='surprise'),
    _three_factor,
  ),
}
"""The deterministic rules; those from 'd_rtrl 1' on cut synapses."""


def made(name: str, case: Case):
  """The rule of a name, for the cell of a case."""
  cell = case.core.cell
  if name == 'e_prop kappa':
    window = 2 if case.truth.paths.whole else T
    return learners.e_prop(
      cell,
      small.squared_error,
      kappa=KAPPA,
      window=window,
      trace_dtype='float64',
    )
  return RULES[name].make(cell, small.squared_error)


EXACT = ('bptt', 'rtrl', 'snap 9')


def disagreement(gradient, wanted, core, *, exact, tolerance=1e-9) -> str:
  """Where a gradient is not the wanted one; '' if nowhere.

  Under a rule that is not exact a parameter of a lower layer may have no credit
  at all: the reference is 0 then, and so must be the gradient.
  """
  wrong = []
  leaves = dict(jax.tree.leaves_with_path(wanted))
  for path, leaf in jax.tree.leaves_with_path(gradient):
    name, right = jax.tree_util.keystr(path), np.asarray(leaves[path])
    leaf, size = np.asarray(leaf), np.linalg.norm(right)
    error = np.linalg.norm(leaf - right)
    if size == 0 and (path[-1].key in core.unused or not exact):
      if error:
        wrong.append(f'{name}: {error:.1e} in place of 0')
    elif size < 1e-4:
      wrong.append(f'{name}: the reference is small, {size:.1e}')
    elif not error <= tolerance * size:
      wrong.append(f'{name}: off by {error / size:.1e}')
  return '; '.join(wrong)


def compare(name: str, case: Case) -> str:
  """What is wrong with a rule's gradient or loss on a case; '' if nothing."""
  rule = RULES[name]
  calls = rule.calls(case.truth)
  gradient, loss, shared = case.run(made(name, case), calls)
  wanted = rule.wanted(case.truth, shared, calls)
  wrong = disagreement(gradient, wanted, case.core, exact=name in EXACT)
  if abs(loss - case.truth.loss) > 1e-9 * case.truth.loss:
    wrong += f'; the loss is {loss}, not {case.truth.loss}'
  return wrong
