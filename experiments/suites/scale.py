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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import bionet_core as core
from bionet_core import unroll
from bionet_learners import base
from experiments.figures import scale as figure
from experiments.suites import growth

SEEDS = (0,)
TOLERANCE: Mapping[str, float] = {'memory': 0.05, 'time': 0.2}
"""How far an exponent may be from theory's."""
draw = figure.draw

_MOST_BYTES = 4 * 2**30
_SECONDS = (0.02, 30.0)
_ROUNDS = 3
_FITTED = 3  # sizes that memory is fitted over


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
  programs: Callable[..., Program], variable: str, law: growth.Law
) -> tuple[dict[int, float], dict[int, float], str]:
  """MiB by size: all points, those that are fitted, and what is left out."""
  points, left = {}, []
  for size in law.sizes or growth.SIZES[variable]:
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
  programs: Callable[..., Program], variable: str, law: growth.Law, seed: int
) -> tuple[dict[int, float], dict[int, float], str]:
  """CPU seconds by size: likewise."""
  sizes = law.sizes or growth.SIZES[variable]
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


def verdict(measured: float, law: growth.Law, cost: str) -> str:
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
  for name, rule in tqdm.tqdm(growth.RULES.items(), unit='rule', disable=None):
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
