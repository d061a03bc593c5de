# SPDX-License-Identifier: Apache-2.0
"""How memory and time of each rule grow, beside what theory says.

Steps T, units N and trials B in turn, the other two at a base where one term of
the cost is larger than the others. The exponent is the slope of log cost over
log size, by least squares. A program is an estimate of whole trials, from
`begin` to the gradient, without an optimizer.

Memory is what the compiler says that a program takes beside its arguments:
nothing is allocated or run. It is fitted over the largest three sizes within
4 GiB. The trials are arguments, O(T B). Traced rules keep nothing of steps in
which nobody is asked (`silent_mib=0`). K is the window, 10 where a base does
not say; where memory by N is that of traces, B N^2, it is 1, since what a
window keeps of its steps, O(K B N), is as large up to some hundred units.

Time is CPU time on one core, the median of three runs, every step asked. It is
fitted over the upper decade of the sizes at which a program takes 20 ms to
30 s; bases keep nearly all programs below 5 s. What each step passes over,
traces or influences, is timed at sizes beyond the processor's cache: where it
fits in for few trials alone, the exponent is the cache's.

The cell is hk.GRU(N), unless another is named, with one input and one output:
its weights are 3 N^2, and the data of a step a few numbers.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import bionet_core as core
import bionet_learners as learners
from bionet_core import unroll
from bionet_learners import base
from experiments.figures import scale as figure

SEEDS = (0,)
SIZES: Mapping[str, tuple[int, ...]] = {
  'T': (70, 10_000, 30_000, 100_000),
  'N': (32, 128, 256, 512, 1024),
  'B': (1, 128, 256, 512, 1024),
}
"""What each variable goes through, unless a law says otherwise."""
TOLERANCE: Mapping[str, float] = {'memory': 0.05, 'time': 0.2}
"""How far an exponent may be from theory's."""
draw = figure.draw

_MOST_BYTES = 4 * 2**30
_SECONDS = (0.02, 30.0)
_ROUNDS = 3
_FITTED = 3  # sizes that memory is fitted over


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


def squared_error(
  outputs: jax.Array, targets: jax.Array, mask: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of a step: the mean over trials of the squared error."""
  return jnp.mean(jnp.mean((outputs - targets) ** 2, axis=-1) * mask), {}


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


# What is measured -------------------------------------------------------------


class Program(NamedTuple):
  """An estimate, compiled for some sizes.

  Attributes:
    compiled: the program.
    shapes: of its arguments.
  """

  compiled: jax.stages.Compiled
  shapes: tuple

  @property
  def temporary(self) -> int:
    """The bytes that it takes beside its arguments and results."""
    return self.compiled.memory_analysis().temp_size_in_bytes


def program(
  make: Callable[[int, int], base.GradientRule],
  *,
  T: int,
  N: int,
  B: int,
  K: int = 10,
) -> Program:
  """Compiles an estimate of trials that begin anew, out of shapes alone.

  Args:
    make: `(units, window) -> GradientRule`.
    T: steps.
    N: units.
    B: trials.
    K: steps of a window, where the rule has windows.
  """
  rule = make(N, K)
  estimate = rule.estimate_last or rule.estimate

  def from_beginning(params, constants, shared, key, trials):
    start = base.RuleState(shared, ())
    start = rule.begin(params, constants, start, key, trials)
    result, after = estimate(params, constants, start, key, trials)
    return result, after.shared

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)

  trials = core.Trials(
    inputs=shape(T, B, 1),
    targets=shape(T, B, 1),
    mask=shape(T, B),
    index=shape(B, dtype=jnp.int32),
  )
  key = jax.eval_shape(lambda: unroll.seed_key(0))
  params, constants = jax.eval_shape(rule.model.init, key, trials)
  shared = jax.eval_shape(rule.init, key, params, constants, trials).shared
  shapes = params, constants, shared, key, trials
  return Program(jax.jit(from_beginning).lower(*shapes).compile(), shapes)


def seconds(subject: Program, seed: int) -> float:
  """CPU seconds of a program on numbers of its shapes, every step asked."""
  rng = np.random.default_rng(seed)

  def drawn(shape):
    if not jnp.issubdtype(shape.dtype, jnp.floating):
      return jnp.arange(shape.size, dtype=shape.dtype).reshape(shape.shape)
    rows = shape.shape[0] if shape.ndim > 1 else 1
    values = rng.normal(size=shape.shape) / np.sqrt(rows)
    return jnp.asarray(values, shape.dtype)

  *learned, _, trials = subject.shapes
  learned = jax.tree.map(drawn, learned)
  num_steps = trials.mask.shape[0]
  trials = trials.replace(
    inputs=jnp.asarray(rng.normal(size=trials.inputs.shape), jnp.float32),
    targets=jnp.asarray(rng.normal(size=trials.targets.shape), jnp.float32),
    mask=jnp.full(trials.mask.shape, 1 / num_steps),
    index=drawn(trials.index),
  )
  key, times = unroll.seed_key(seed), []
  for _ in range(_ROUNDS):
    began = time.process_time()
    jax.block_until_ready(subject.compiled(*learned, key, trials))
    times.append(time.process_time() - began)
  return statistics.median(times)


def exponent(points: Mapping[int, float]) -> float:
  """The slope of log cost over log size, by least squares; NaN of one point."""
  if len(points) < 2:
    return float('nan')
  sizes, costs = np.log(list(points)), np.log(list(points.values()))
  return float(np.polyfit(sizes, costs, 1)[0])


def memory(
  programs: Callable[..., Program], variable: str, law: Law
) -> tuple[dict[int, float], dict[int, float], str]:
  """MiB by size: all points, those that are fitted, and what is left out."""
  points, left = {}, []
  for size in law.sizes or SIZES[variable]:
    # Memory grows with each variable: what is larger is beyond, too.
    if not left:
      temporary = programs(**law.base, **{variable: size}).temporary
      if temporary <= _MOST_BYTES:
        points[size] = temporary / 2**20
        continue
    left.append(size)
  fitted = dict(list(points.items())[-_FITTED:])
  return points, fitted, _listed({'over 4 GiB': left})


def cpu_time(
  programs: Callable[..., Program], variable: str, law: Law, seed: int
) -> tuple[dict[int, float], dict[int, float], str]:
  """CPU seconds by size: likewise."""
  sizes = law.sizes or SIZES[variable]
  points, large, long, short = {}, [], [], []
  last = None
  for size in sizes:
    if size < sizes[-1] / 10:
      continue
    if last and last[1] * (size / last[0]) ** law.exponent > _SECONDS[1]:
      long.append(size)
      continue
    subject = programs(**law.base, **{variable: size})
    if subject.temporary > _MOST_BYTES:
      large.append(size)
      continue
    last = size, seconds(subject, seed)
    if last[1] < _SECONDS[0]:
      short.append(size)
    elif last[1] > _SECONDS[1]:
      long.append(size)
    else:
      points[size] = last[1]
  left = {'over 4 GiB': large, 'over 30 s': long, 'under 20 ms': short}
  return points, points, _listed(left)


def _listed(left: Mapping[str, Sequence[int]]) -> str:
  parts = [
    f'{why}: {", ".join(map(str, sizes))}'
    for why, sizes in left.items()
    if sizes
  ]
  return '; '.join(parts) or '-'


def verdict(measured: float, law: Law, cost: str) -> str:
  """Whether a measured exponent is within the tolerance of a law's."""
  if np.isnan(measured):
    return 'not measured'
  near = abs(measured - law.exponent) <= TOLERANCE[cost]
  return 'holds' if near else 'off'


def run(seeds: list[int], only: str = '') -> list[dict]:
  """Rows: a rule, a cost and a variable; exponents measured and of theory."""
  # Threads that wait for each other burn CPU time; one core is comparable. This
  # must come before JAX starts its own threads.
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  rows = []
  # A bar where somebody looks, since the whole takes minutes.
  for name, rule in tqdm.tqdm(RULES.items(), unit='rule', disable=None):
    # Memory and time of a size are those of one program.
    programs = functools.cache(functools.partial(program, rule.make))
    for cost, laws in (('memory', rule.memory), ('time', rule.time)):
      for variable, law in laws.items():
        if only not in f'{name}, {cost} by {variable}':
          continue
        if cost == 'memory':
          points, fitted, left = memory(programs, variable, law)
        else:
          points, fitted, left = cpu_time(programs, variable, law, seeds[0])
        measured = exponent(fitted)
        rows.append(
          {
            'rule': name,
            'cost': cost,
            'by': variable,
            'at': ', '.join(f'{k} {v}' for k, v in law.base.items()),
            'measured': measured,
            'theory': law.exponent,
            'verdict': verdict(measured, law, cost),
            'why': law.why,
            'left out': left,
            'MiB or CPU s': {n: float(f'{x:.3g}') for n, x in points.items()},
          }
        )
  return rows
