# SPDX-License-Identifier: Apache-2.0
"""How much a pattern says, and how much of it comes out the same each time.

A population of R replicates of N cells has the utility, in bits,

  U = S_pat - S_rep,
  S_pat = H(fate of a random cell of a random replicate),
  S_rep = H(pattern of a random replicate) / N,

large where both fates are used and every replicate makes the same pattern. For
two fates U <= H(ceil(N / 2) / N) if all replicates agree: `ceiling`.

Every estimate from R replicates is biased: patterns never seen count for
nothing, so S_rep is too small and U too large. Random fates of 7 cells, true
U = 0, read about .33 at R = 30 and .013 at R = 1,000.

Source: D. B. Brueckner and G. Tkacik, PNAS 121, e2322326121 (2024).
"""

import itertools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bionet_core import surrogate

_LN2 = math.log(2.0)

MAX_CELLS = 12
"""The most cells of the exact utility, which enumerates 2^N patterns."""


class Utility(NamedTuple):
  """The utility of a population and its parts, in bits.

  Attributes:
    utility: `[]`, S_pat - S_rep.
    s_pat: `[]`, entropy of the pooled fates.
    s_rep: `[]`, entropy of the patterns, a cell.
  """

  utility: jax.Array
  s_pat: jax.Array
  s_rep: jax.Array


def binary_entropy(p: chex.Numeric) -> jax.Array:
  """-p log2 p - (1 - p) log2 (1 - p), in bits; 0 at p = 0 and 1.

  A mean of float32 ones may exceed 1, and its logarithm would be NaN: `p` is
  clipped to [0, 1].
  """
  p = jnp.clip(p, 0.0, 1.0)
  return -_xlog2x(p) - _xlog2x(1 - p)


def ceiling(num_cells: int) -> float:
  """The largest utility of N cells: all replicates in one balanced pattern."""
  return float(binary_entropy((num_cells // 2) / num_cells))


def chance(num_cells: int, num_replicates: int) -> float:
  """What the hard utility of random fates reads from R replicates: its bias.

    U = 1 - 1 / (2 R N ln 2) - E[H] / N
    E[H] = -2^N sum_k Bin(k; R, 2^-N) (k / R) log2(k / R)

  E[H] is exact, S_pat to first order in 1 / (R N).
  """
  counts = np.arange(1, num_replicates + 1)
  share = counts / num_replicates
  patterns = 2.0**num_cells
  log_choose = np.array(
    [
      math.lgamma(num_replicates + 1)
      - math.lgamma(k + 1)
      - math.lgamma(num_replicates - k + 1)
      for k in counts
    ]
  )
  log_p = (
    log_choose
    - counts * num_cells * _LN2
    + (num_replicates - counts) * math.log1p(-1 / patterns)
  )
  entropy = -patterns * np.sum(np.exp(log_p) * share * np.log2(share))
  s_pat = 1 - 1 / (2 * num_replicates * num_cells * _LN2)
  return float(s_pat - entropy / num_cells)


def hard_utility(
  states: jax.Array,
  *,
  threshold: float = 0.5,
  miller_madow: bool = False,
  weights: jax.Array | None = None,
) -> Utility:
  """The utility of the fates as they are, patterns counted exactly.

    z = 1{s >= threshold},  p(z) = share of the replicates with pattern z

  Not differentiable. Any N; O(R log R) time.

  Args:
    states: float `[R, N]`.
    threshold: from where on a cell has fate 1.
    miller_madow: add (K - 1) / (2 n ln 2) bits to both entropies, K values seen
      in n draws: the bias to first order, for populations that see most of the
      patterns they can make.
    weights: float `[R]`, how often each replicate counts, of mean 1.

  Raises:
    ValueError: for a single replicate, which always agrees with itself.
  """
  num_replicates, num_cells = _check(states)
  fates = surrogate.fates(states, threshold)
  counts = _where_counted(pattern_counts(fates, weights), weights)
  # Each replicate's pattern has a share of counts / R, and R of them: sum over
  # replicates of log2 p is R sum_z p log2 p.
  entropy = -_mean(jnp.log2(counts / num_replicates), weights)
  # NaN is on neither side of the threshold: then the utility is NaN, too.
  ones = _mean(jnp.where(jnp.isnan(states), jnp.nan, fates), weights)
  s_pat = binary_entropy(ones)
  if miller_madow:
    # Each pattern seen adds up to 1.
    seen = num_replicates * _mean(1 / counts, weights)
    entropy += (seen - 1) / (2 * num_replicates * _LN2)
    both = ((ones > 0) & (ones < 1)).astype(s_pat.dtype)
    s_pat += both / (2 * num_replicates * num_cells * _LN2)
  s_rep = entropy / num_cells
  return Utility(s_pat - s_rep, s_pat, s_rep)


def soft_utility(
  states: jax.Array,
  *,
  temperature: float | jax.Array = 0.1,
  bandwidth: float = 0.1,
  straight_through: bool = False,
  weights: jax.Array | None = None,
) -> Utility:
  """The utility by a Gaussian kernel between patterns of graded fates.

    z = sigmoid((s - .5) / temperature)
    S_pat = H(mean z),  S_rep = -mean_r log2 mean_r' k(z_r, z_r') / N
    k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)),  r' = r included

  As the temperature falls and while bandwidth << 1 it tends to `hard_utility`,
  and its gradient dies: binary patterns differ by a squared distance of 1 or
  more, so at bandwidth .1 the kernel is exp(-50) and the gradient of S_rep is
  exactly 0. O(R^2 N) time and memory.

  Args:
    states: float `[R, N]`.
    temperature: of the graded fates; unused with `straight_through`.
    bandwidth: of the kernel.
    straight_through: fates 0 or 1 with the gradient of the states.
    weights: float `[R]`, how often each replicate counts, of mean 1.

  Raises:
    ValueError: for a single replicate.
  """
  _, num_cells = _check(states)
  if straight_through:
    fates = surrogate.straight_through_threshold(states)
  else:
    fates = jax.nn.sigmoid((states - 0.5) / temperature)
  # |a - b|^2 by products: the differences themselves would take R^2 N memory.
  norms = jnp.sum(fates**2, axis=1)
  distances = norms[:, None] + norms[None, :] - 2 * fates @ fates.T
  # Equal patterns are 0 apart, with no slope: rounding is no gradient.
  distances = jnp.where(distances > 0, distances, 0.0)
  kernel = jnp.exp(-distances / (2 * bandwidth**2))
  if weights is not None:
    kernel = kernel * weights[None, :]
  density = jnp.minimum(jnp.mean(kernel, axis=1), 1.0)
  log_density = jnp.log2(_where_counted(density, weights))
  s_rep = -_mean(log_density, weights) / num_cells
  s_pat = binary_entropy(_mean(fates, weights))
  return Utility(s_pat - s_rep, s_pat, s_rep)


def exact_soft_utility(
  states: jax.Array,
  *,
  temperature: float | jax.Array = 0.1,
  straight_through: bool = False,
  weights: jax.Array | None = None,
) -> Utility:
  """The utility of graded fates, over all 2^N patterns: no kernel.

    q = sigmoid((s - .5) / temperature)
    p(z) = mean_r prod_i q_ri^z_i (1 - q_ri)^(1 - z_i)
    U = H(mean q) - H(p) / N

  Differentiable; tends to `hard_utility` as the temperature falls, and is equal
  to it with `straight_through`. O(R 2^N) time and memory.

  Args:
    states: float `[R, N]`, N <= 12.
    temperature: of the graded fates; unused with `straight_through`.
    straight_through: fates 0 or 1 with the gradient of the states.
    weights: float `[R]`, how often each replicate counts, of mean 1.

  Raises:
    ValueError: for too many cells, or a single replicate.
  """
  num_replicates, num_cells = _check(states)
  if num_cells > MAX_CELLS:
    raise ValueError(
      f'N={num_cells}: must be at most {MAX_CELLS} cells, since the exact '
      'utility enumerates 2^N patterns. Use the soft utility.'
    )
  if straight_through:
    fates = surrogate.straight_through_threshold(states)
  else:
    fates = jax.nn.sigmoid((states - 0.5) / temperature)
  shares = jnp.ones((num_replicates, 1), fates.dtype)
  for cell in range(num_cells):
    fate = fates[:, cell : cell + 1]
    shares = jnp.concatenate([shares * (1 - fate), shares * fate], axis=1)
  shares = jnp.mean(_weighted(shares, weights), axis=0)
  entropy = -jnp.sum(_xlog2x(shares))
  s_pat = binary_entropy(_mean(fates, weights))
  s_rep = entropy / num_cells
  return Utility(s_pat - s_rep, s_pat, s_rep)


def pattern_counts(
  fates: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """How many replicates have each replicate's pattern: float `[R]`.

  Args:
    fates: `[R, N]`, 0 or 1.
    weights: float `[R]`, how often each replicate counts; None: once.
  """
  # Patterns are sorted as numbers of up to 24 bits a word, and runs counted.
  num_replicates = fates.shape[0]
  words = [
    fates[:, start : start + 24].astype(jnp.int32)
    @ (1 << jnp.arange(min(24, fates.shape[1] - start), dtype=jnp.int32))
    for start in range(0, fates.shape[1], 24)
  ]
  *words, order = jax.lax.sort(
    (*words, jnp.arange(num_replicates)), num_keys=len(words)
  )
  differs = sum(jnp.diff(word, prepend=word[:1]) != 0 for word in words)
  run = jnp.cumsum(differs > 0)
  counted = 1 if weights is None else weights[order].astype(fates.dtype)
  sizes = jnp.zeros(num_replicates, fates.dtype).at[run].add(counted)
  return jnp.zeros(num_replicates, fates.dtype).at[order].set(sizes[run])


def most_frequent_patterns(
  fates: np.ndarray, count: int = 10
) -> list[tuple[str, float]]:
  """The most frequent patterns as strings with their shares, on the host."""
  patterns, counts = np.unique(
    np.asarray(fates, int), axis=0, return_counts=True
  )
  order = np.argsort(-counts, kind='stable')[:count]
  return [
    (''.join(map(str, patterns[i])), float(counts[i] / len(fates)))
    for i in order
  ]


def all_patterns(num_cells: int) -> np.ndarray:
  """All 2^N patterns, int `[2^N, N]`."""
  return np.array(list(itertools.product((0, 1), repeat=num_cells)))


def _xlog2x(p: jax.Array) -> jax.Array:
  """P log2 p with 0 at p = 0, and no NaN in its derivative there.

  Of NaN it is NaN, to be seen.
  """
  zero = p <= 0
  safe = jnp.where(zero, 1.0, p)
  return jnp.where(zero, 0.0, p * jnp.log2(safe))


def _weighted(values: jax.Array, weights: jax.Array | None) -> jax.Array:
  """Values `[R, ...]`, each times its replicate's weight."""
  if weights is None:
    return values
  chex.assert_shape(weights, values.shape[:1])
  return values * jnp.expand_dims(weights, tuple(range(1, values.ndim)))


def _mean(values: jax.Array, weights: jax.Array | None) -> jax.Array:
  return jnp.mean(_weighted(values, weights))


def _where_counted(values: jax.Array, weights: jax.Array | None) -> jax.Array:
  """Values `[R]`, 1 for replicates that do not count: theirs may be 0."""
  return values if weights is None else jnp.where(weights > 0, values, 1.0)


def _check(states: jax.Array) -> tuple[int, int]:
  chex.assert_rank(states, 2)
  chex.assert_type(states, float)
  if states.shape[0] < 2:
    raise ValueError(
      'a single replicate always agrees with itself: the utility needs 2 or '
      'more.'
    )
  num_replicates, num_cells = states.shape
  return num_replicates, num_cells
