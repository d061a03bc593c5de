# SPDX-License-Identifier: Apache-2.0
"""What is said of a trained run: numbers for a program, a table, figures."""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from bionet_core import interfaces
from bionet_learners import base as learners
from bionet_learners.training import writers
from experiments import build, figures
from experiments import workdir as workdirs


class Judged(NamedTuple):
  """A run, judged on every evaluation of its task.

  Attributes:
    run: what the config built.
    state: the state that is judged.
    untrained: the state that the run's seed gives, before any update.
    step: updates behind `state`.
    rows: rows of metrics.jsonl up to there.
    evaluations: `{name: {'num_trials', 'trained', 'untrained', 'gain'}}`: the
      metrics of both states and their difference, and where the task describes
      answers, 'described', the descriptions of both.
    trials: those of 'held_out'.
    outputs: the answers of `state` to them, float `[T, B, O]`.
    untrained_outputs: those of `untrained`.
  """

  run: build.Run
  state: learners.LearnerState
  untrained: learners.LearnerState
  step: int
  rows: Sequence[writers.Row]
  evaluations: Mapping[str, Mapping]
  trials: interfaces.Trials
  outputs: jax.Array
  untrained_outputs: jax.Array


def write(judged: Judged, workdir: pathlib.Path) -> None:
  """Writes evaluation.json, atomically, and the figures that apply."""
  content = {'steps': judged.step, 'evaluations': dict(judged.evaluations)}
  workdirs.write_json(workdir / 'evaluation.json', content)
  folder = workdir / 'figures'
  folder.mkdir(exist_ok=True)
  figures.draw_all(judged, folder)


def table(judged: Judged) -> str:
  """All numbers of the judgement, to be read: a block for each evaluation."""
  spec = judged.run.task.spec
  blocks = [
    _block(name, content, spec) for name, content in judged.evaluations.items()
  ]
  return '\n'.join(blocks)


def _block(name: str, content: Mapping, spec) -> str:
  described = content.get('described', {'trained': {}, 'untrained': {}})
  numbers = {
    side: {**content[side], **_scalars(described[side])}
    for side in ('trained', 'untrained')
  }
  # The main metric is what a reader looks for.
  names = sorted(numbers['trained'], key=lambda metric: metric != spec.metric)
  width = max(map(len, names))
  lines = [
    f'{name}: {content["num_trials"]:,} trials',
    f'  {"":{width}}   trained  untrained      gain',
  ]
  for metric in names:
    after, before = (numbers[s][metric] for s in ('trained', 'untrained'))
    levels = [
      f'{level} {values[metric]:.4f}'
      for level, values in (('chance', spec.chance), ('ceiling', spec.ceiling))
      if metric in values
    ]
    numbers_shown = f'{_plain(after):8.4f}   {_plain(before):8.4f}'
    lines.append(
      f'  {metric:{width}}  {numbers_shown}  {after - before:+8.4f}'
      + (f'  ({", ".join(levels)})' if levels else '')
    )
  for side, facts in described.items():
    for fact, shares in facts.items():
      if isinstance(shares, Mapping):
        words = '  '.join(
          f'{label}\N{NO-BREAK SPACE}{share:.4f}'
          for label, share in shares.items()
        )
        lines.append(f'  {fact}, {side}:')
        wrapped = textwrap.wrap(words, 76)
        lines += [f'    {line}'.replace('\xa0', ' ') for line in wrapped]
  return '\n'.join(lines)


def _plain(value: float) -> float:
  """The value to four digits; what is 0 so has no sign."""
  return round(value, 4) + 0.0


def _scalars(facts: Mapping) -> dict[str, float]:
  return {k: v for k, v in facts.items() if not isinstance(v, Mapping)}
