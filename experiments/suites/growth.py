# SPDX-License-Identifier: Apache-2.0
"""How memory and time of each rule grow by theory, for the suite `scale`.

By steps T, units N and trials B, the other two at a base where one term of the
cost is larger than the others.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import bionet_core as core
import bionet_learners as learners
from bionet_learners import base
from bionet_tasks.base import squared_error

SIZES: Mapping[str, tuple[int, ...]] = {
  'T': (70, 10_000, 30_000, 100_000),
  'N': (32, 128, 256, 512, 1024),
  'B': (1, 128, 256, 512, 1024),
}
"""What each variable goes through, unless a law says otherwise."""


class Law(NamedTuple):
  """How a cost grows with one variable, by theory.

  Attributes:
    exponent: the power of the variable in the leading term.
    why: what the leading term is.
    base: the other variables, e.g. `{'N': 32, 'B': 8}`; K where it is not 10.
    sizes: of the variable; None: those of `SIZES`.
  """

  exponent: int
  why: str
  base: Mapping[str, int]
  sizes: tuple[int, ...] | None = None


class Rule(NamedTuple):
  """A rule and its laws.

  Attributes:
    make: `(units, window) -> GradientRule`.
    memory: `{variable: Law}`.
    time: likewise.
  """

  make: Callable[[int, int], base.GradientRule]
  memory: Mapping[str, Law]
  time: Mapping[str, Law]


class Spec(NamedTuple):
  """What a cell knows of the task: one input, one output."""

  input_shape: tuple[int, ...] = (1,)
  num_outputs: int = 1


def on(
  make_cell: Callable[[int], Any], rule: Callable[..., Any], **settings
) -> Callable[[int, int], base.GradientRule]:
  """`(units, window) -> GradientRule`, of a rule without windows."""
  return lambda units, window: rule(make_cell(units), squared_error, **settings)


def in_windows(
  make_cell: Callable[[int], Any], rule: Callable[..., Any], **settings
) -> Callable[[int, int], base.GradientRule]:
  """`(units, window) -> GradientRule`, of a rule with windows."""
  return lambda units, window: rule(
    make_cell(units), squared_error, window=window, **settings
  )


def _gru(units: int) -> core.Cell:
  return core.gru(Spec(), hidden=units)


def _noisy_gru(units: int) -> core.Cell:
  return core.noisy(_gru(units), 0.1)


def _vanilla_rnn(units: int) -> core.Cell:
  return core.vanilla_rnn(Spec(), hidden=units)


_ALL_N = (32, 64, 128, 256, 512, 1024)
_STEPS = 'each step keeps some numbers a unit'
_EACH = 'each step costs the same'


def _time(
  exponent: int,
  why: str,
  *,
  T: Mapping[str, int],
  N: Mapping[str, int],
  B: Mapping[str, int],
  sizes: tuple[int, ...] | None = None,
) -> Mapping[str, Law]:
  """Laws of time by the bases of each variable; the exponent is N's."""
  return {
    'T': Law(1, _EACH, T),
    'N': Law(exponent, why, N, sizes),
    'B': Law(1, 'each trial costs the same', B),
  }


_SMALL = {'N': 32, 'B': 8}
_PRODUCTS = 'products of the weights with each state, 3 N^2'

# In reverse: B N numbers a step, for enough steps that weights are few beside.
_REVERSE_TIME = _time(
  2,
  _PRODUCTS,
  T=_SMALL,
  N={'T': 50, 'B': 64},
  B={'T': 300, 'N': 32},
)


def _reverse(kept: str, steps: int) -> Mapping[str, Law]:
  return {
    'T': Law(1, kept, _SMALL),
    'N': Law(1, kept, {'T': steps, 'B': 64}),
    'B': Law(1, kept, {'T': 300, 'N': 32}),
  }


_TRACE = 'a trace a synapse and trial, B N^2'
_TRACES = {
  'T': Law(0, 'traces, and one window', {'N': 64, 'B': 4}),
  'N': Law(2, _TRACE, {'T': 50, 'B': 64, 'K': 1}),
  'B': Law(1, _TRACE, {'T': 150, 'N': 32}),
}
_TRACES_TIME = _time(
  2,
  'products of the weights, and all traces',
  T={'N': 64, 'B': 4},
  N={'T': 50, 'B': 64},
  B={'T': 30, 'N': 128},
)
_OTHERS = 'the losses of all others, for each trial'
_SEVERAL = (2, *SIZES['B'][1:])  # a trial alone has none to be compared with
_FILTERS = 'two filters a synapse and trial, B N'
_INFLUENCE = 'an influence of N states by 3 N^2 weights a trial, B N^3'
_INFLUENCE_LAWS = {
  'T': Law(0, 'one influence', {'N': 8, 'B': 1}),
  'N': Law(3, _INFLUENCE, {'T': 20, 'B': 1}, _ALL_N),
  'B': Law(1, _INFLUENCE, {'T': 20, 'N': 16}),
}
_INFLUENCE_TIME = _time(
  4,
  'the Jacobian N^2 times the influence 3 N^2 wide',
  T={'N': 8, 'B': 1},
  N={'T': 20, 'B': 1},
  B={'T': 4, 'N': 32},
  sizes=(64, 128, 256),
)

RULES: Mapping[str, Rule] = {
  'bptt': Rule(on(_gru, learners.bptt), _reverse(_STEPS, 1000), _REVERSE_TIME),
  'bptt, remat': Rule(
    on(_gru, learners.bptt, remat=True),
    _reverse('each step keeps its state alone', 4000),
    _REVERSE_TIME,
  ),
  'd_rtrl, in reverse': Rule(
    on(_gru, learners.d_rtrl, execution='reverse'),
    _reverse(_STEPS, 1000),
    _REVERSE_TIME,
  ),
  'truncated_bptt, K 100': Rule(
    in_windows(_gru, learners.truncated_bptt),
    {
      'T': Law(0, 'one window', {'N': 32, 'B': 8, 'K': 100}),
      'N': Law(1, 'one window, K B N', {'T': 200, 'B': 512, 'K': 100}),
      'B': Law(1, 'one window, K B N', {'T': 200, 'N': 32, 'K': 100}),
    },
    _time(
      2,
      _PRODUCTS,
      T={**_SMALL, 'K': 100},
      N={'T': 100, 'B': 64, 'K': 50},
      B={'T': 200, 'N': 32, 'K': 100},
    ),
  ),
  **{
    name: Rule(
      in_windows(_gru, rule, silent_mib=0.0, **settings), _TRACES, _TRACES_TIME
    )
    for name, rule, settings in (
      ('d_rtrl', learners.d_rtrl, {}),
      ('e_prop, random', learners.e_prop, {'feedback': 'random'}),
      ('rflo', learners.rflo, {}),
      ('three_factor', learners.three_factor, {}),
    )
  },
  'pp_prop': Rule(
    on(_gru, learners.pp_prop),
    {
      'T': Law(0, 'weights and filters', {'N': 32, 'B': 8}),
      'N': Law(1, _FILTERS, {'T': 20, 'B': 1024}, (32, 64, 128)),
      'B': Law(1, _FILTERS, {'T': 200, 'N': 32}),
    },
    _time(
      2,
      _PRODUCTS,
      T=_SMALL,
      N={'T': 50, 'B': 64},
      B={'T': 200, 'N': 32},
    ),
  ),
  'pp_prop, one trial': Rule(
    on(_gru, learners.pp_prop),
    {'N': Law(2, 'weights: the filters are N', {'T': 20, 'B': 1})},
    {},
  ),
  'uoro': Rule(
    on(_gru, learners.uoro),
    {
      'T': Law(0, 'two factors', _SMALL),
      'N': Law(2, 'a factor of the weights a trial', {'T': 20, 'B': 16}),
      'B': Law(1, 'a factor of the weights a trial', {'T': 50, 'N': 32}),
    },
    _time(
      2,
      'a gradient of all weights a trial',
      T=_SMALL,
      N={'T': 20, 'B': 16},
      B={'T': 10, 'N': 128},
    ),
  ),
  'snap 1': Rule(
    on(_gru, learners.snap, order=1), _INFLUENCE_LAWS, _INFLUENCE_TIME
  ),
  'snap 1, vanilla RNN': Rule(
    on(_vanilla_rnn, learners.snap, order=1),
    {
      'T': Law(0, 'one influence', {'N': 8, 'B': 1}),
      'N': Law(2, 'one number a weight, and J', {'T': 40, 'B': 8}),
      'B': Law(1, 'one number a weight, and J', {'T': 50, 'N': 32}),
    },
    _time(
      3,
      'a forward pass of N^2 for each of N columns of J',
      T={'N': 8, 'B': 1},
      N={'T': 40, 'B': 8},
      B={'T': 50, 'N': 32},
    ),
  ),
  'rtrl': Rule(on(_gru, learners.rtrl), _INFLUENCE_LAWS, _INFLUENCE_TIME),
  'score_function, noisy GRU': Rule(
    on(_noisy_gru, learners.score_function),
    {
      'T': Law(0, 'one step', _SMALL),
      'N': Law(2, 'weights', {'T': 50, 'B': 2}),
      'B': Law(2, _OTHERS, {'T': 300, 'N': 8}, _SEVERAL),
    },
    {
      'T': Law(1, _EACH, _SMALL),
      'N': Law(2, _PRODUCTS, {'T': 50, 'B': 64}),
      'B': Law(2, _OTHERS, {'T': 300, 'N': 8}, _SEVERAL),
    },
  ),
}
"""Each rule, and how it grows by theory."""
