# SPDX-License-Identifier: Apache-2.0
"""Cell-fate patterning: the cells of a tissue agree on a pattern."""

import functools
import math
import textwrap

import jax.numpy as jnp
import numpy as np

from bionet_core import information, interfaces, surrogate
from bionet_core.cells import lattice
from bionet_tasks import base
from bionet_tasks.population import utilities

PATTERNS = 'most_frequent_patterns'
"""What the task calls the ten most frequent patterns, with their shares.

A pattern is a word of 0 and 1, a letter per cell; where cells lie in several
rows, '/' stands between two of them: '1010/0101'.
"""


_MEASURES = {
  'loss': base.Measure('bits', 'minus the utility that is descended'),
  'utility': base.Measure('bits', 'S_pat - S_rep of fates that are 0 or 1'),
  's_pat': base.Measure('bits', 'entropy of the pooled fates'),
  's_rep': base.Measure('bits', 'entropy of the patterns, a cell'),
  'soft_utility': base.Measure('bits', 'the utility of graded fates'),
  'soft_s_pat': base.Measure('bits', 's_pat of graded fates'),
  'soft_s_rep': base.Measure('bits', 's_rep of graded fates'),
  'own_utility': base.Measure('bits', 'the descended utility, your own'),
  'own_s_pat': base.Measure('bits', 'its s_pat'),
  'own_s_rep': base.Measure('bits', 'its s_rep'),
  'mean_fate': base.Measure('', 'share of the fates that are 1'),
  'distinct_patterns': base.Measure('', 'patterns that came out, a count'),
}

_REFINED = {'held_out': 1, 'half_dt': 2, 'quarter_dt': 4}


def cell_fate(
  *,
  num_cells: int = 7,
  rows: int = 1,
  dt: float = 0.01,
  duration: float = 10.0,
  sigma: float = 0.1,
  loss: str = 'exact',
  final_sigma: float | None = None,
  temperature: float = 0.1,
  final_temperature: float | None = None,
  anneal_updates: int = 0,
  bandwidth: float = 0.1,
  straight_through: bool = False,
  num_groups: int = 1,
  refinements: int = 1,
  num_held_out: int = 3000,
  held_out_dt: float = 0.01,
  held_out_duration: float = 10.0,
) -> base.Task:
  """Makes patterns that carry information and come out the same every time.

  A trial is a replicate of the tissue: inputs (dt, sigma) at each of T =
  duration / dt steps, its noise its own. At the last step all replicates are
  judged together by minus the utility (`information`), in bits:

    loss = -(S_pat - S_rep)

  Chance is what random fates score: nothing but the bias of the estimate, .004
  for 7 cells and 3,000 replicates; the ceiling is H(3 / 7) = .9852 for 7 cells.
  A high utility does not say which pattern came out.

  Evaluations: 'held_out', fresh replicates at `held_out_dt`, whatever dt was
  trained at; 'half_dt' and 'quarter_dt', the same at a half and a quarter of
  it. A solution that lives on its time step shows there. Described are the most
  frequent patterns, and how many come out a replicate.

  Args:
    num_cells: N.
    rows: rows of equal length in which the cells lie, numbered row by row: how
      patterns are written and drawn. Which cells read each other is a matter of
      the tissue.
    dt: time step of training.
    duration: time simulated in training, a multiple of dt.
    sigma: strength of the noise, 0 or more.
    loss: the utility to be descended: 'hard' (evolution), 'soft' or 'exact'; or
      the path `module:function` of a `utilities.UtilityFn`. The evaluations
      then report 'own_utility', 'own_s_pat' and 'own_s_rep' of that one, beside
      the hard utility, which stays the main metric.
    final_sigma: strength of the noise in training after `anneal_updates`, to
      which it goes geometrically; None: it stays. Evaluations have `sigma`.
    temperature: of the graded fates of 'soft' and 'exact'.
    final_temperature: likewise.
    anneal_updates: updates over which the two change.
    bandwidth: of the kernel of 'soft'.
    straight_through: fates 0 or 1 with the states' gradient, for both.
    num_groups: the loss is the mean over this many groups of replicates.
    refinements: train on dt, dt / 2, ... dt / 2^(refinements - 1) at once: each
      takes an equal share of the replicates, and the loss is that of the share
      with the least utility, so that what is learned holds as dt shrinks. T is
      that of the finest; a coarser one rests (dt = 0) when its time is over.
    num_held_out: replicates of an evaluation, 3,000 or more to be believed.
    held_out_dt: time step of 'held_out'.
    held_out_duration: time simulated there.

  Raises:
    KeyError: for a utility that there is not.
    ValueError: for a setting out of range, too many cells for 'exact', or a
      utility of one's own that is no Utility of three numbers.
  """
  _check_sizes(num_cells, rows, num_groups, refinements, num_held_out)
  _check_settings(
    sigma=sigma,
    final_sigma=final_sigma,
    temperature=temperature,
    final_temperature=final_temperature,
    anneal_updates=anneal_updates,
    bandwidth=bandwidth,
  )
  coarse_steps = _num_steps('', duration, dt)
  num_steps = coarse_steps * 2 ** (refinements - 1)
  held_out_steps = _num_steps('held_out_', held_out_duration, held_out_dt)

  built_in = utilities.built_in(bandwidth, straight_through)
  descended = utilities.find(loss, built_in, num_cells)
  custom = None if loss in built_in else descended

  def sample(key, index, batch_size=None):
    del key
    batch_size = batch_size or index.shape[0]
    update = index // batch_size
    share = jnp.minimum(update / max(anneal_updates, 1), 1.0)

    def annealed(start, end):
      ratio = 1.0 if end is None else end / start
      return start * ratio**share

    sigmas = annealed(sigma, final_sigma)
    temperatures = annealed(temperature, final_temperature)
    # Which refinement a trial is of, by its place in the batch: [B].
    refined = 2 ** ((index % batch_size) * refinements // batch_size)
    runs = jnp.arange(num_steps)[:, None] < coarse_steps * refined[None]
    dts = jnp.where(runs, dt / refined[None], 0.0)
    return _trials(index, dts, sigmas, temperatures)

  def sample_held_out(key, index, refined):
    del key
    same = jnp.ones(index.shape)
    steps = held_out_steps * refined
    dts = jnp.full((steps, *index.shape), held_out_dt / refined)
    return _trials(index, dts, sigma * same, temperature * same)

  return base.Task(
    spec=base.TaskSpec(
      name='cell_fate',
      input_shape=(2,),
      num_outputs=num_cells,
      num_steps=num_steps,
      metric='utility',
      chance={'utility': information.chance(num_cells, num_held_out)},
      ceiling={'utility': information.ceiling(num_cells)},
      loss_kind='population',
      measures=_MEASURES,
    ),
    sample=sample,
    evaluations={
      name: base.Evaluation(
        num_held_out, functools.partial(sample_held_out, refined=refined)
      )
      for name, refined in _REFINED.items()
    },
    loss=utilities.step_loss(
      descended,
      num_groups,
      refinements,
      prefix={'hard': ''}.get(loss, 'soft_' if custom is None else 'own_'),
    ),
    metrics=utilities.make_metrics(num_cells, built_in, custom),
    describe=functools.partial(_describe, columns=num_cells // rows),
  )


def _check_sizes(num_cells, rows, num_groups, refinements, num_held_out):
  """Raises ValueError for a size out of range."""
  base.check_positive(
    num_cells=num_cells,
    rows=rows,
    num_groups=num_groups,
    refinements=refinements,
    num_held_out=num_held_out,
  )
  lattice.check_rows(num_cells, rows)
  if num_held_out < 2:
    raise ValueError(
      f'num_held_out={num_held_out}: must be at least 2; a single replicate '
      'always agrees with itself.'
    )


def _check_settings(
  *,
  sigma,
  final_sigma,
  temperature,
  final_temperature,
  anneal_updates,
  bandwidth,
):
  """Raises ValueError for what is out of range, or does not fit together."""
  for name, value in (
    ('temperature', temperature),
    ('final_temperature', final_temperature),
    ('final_sigma', final_sigma),
    ('bandwidth', bandwidth),
  ):
    if value is not None and not value > 0:
      raise ValueError(f'{name}={value}: must be above 0.')
  if not sigma >= 0 or (final_sigma is not None and not sigma > 0):
    raise ValueError(
      f'sigma={sigma}: must be 0 or more, and above 0 where final_sigma is set.'
    )
  anneals = final_sigma is not None or final_temperature is not None
  if anneal_updates < 0 or anneals != (anneal_updates > 0):
    raise ValueError(
      f'anneal_updates={anneal_updates}: must be above 0 where final_sigma or '
      'final_temperature is set, and else 0.'
    )


def _trials(index, dts, sigmas, temperatures) -> interfaces.Trials:
  """Replicates of these inputs, judged at the last step."""
  steps = dts.shape[0]

  def at_each_step(x):  # [B] -> [steps, B]
    return jnp.broadcast_to(x, (steps, *index.shape))

  last = jnp.arange(steps)[:, None] == steps - 1
  return interfaces.Trials(
    inputs=jnp.stack([dts, at_each_step(sigmas)], axis=-1),
    targets=at_each_step(temperatures)[..., None],
    mask=jnp.where(at_each_step(last), 1.0, 0.0),
    index=index,
  )


def _describe(outputs, trials, *, columns: int) -> dict:
  """The most frequent patterns, and how many come out a replicate."""
  del trials
  fates = np.asarray(surrogate.fates(outputs[-1]))
  distinct = len(np.unique(fates, axis=0))
  frequent = information.most_frequent_patterns(fates)
  return {
    'patterns_per_replicate': distinct / len(fates),
    PATTERNS: {
      '/'.join(textwrap.wrap(pattern, columns)): share
      for pattern, share in frequent
    },
  }


def _num_steps(which: str, duration: float, dt: float) -> int:
  for name, value in ((f'{which}dt', dt), (f'{which}duration', duration)):
    if not 0 < value < math.inf:
      raise ValueError(f'{name}={value}: must be above 0, and finite.')
  steps = round(duration / dt)
  if steps < 1 or abs(steps * dt - duration) > 1e-6 * duration:
    raise ValueError(
      f'{which}duration={duration}: must be a multiple of {which}dt={dt}.'
    )
  return steps
