# SPDX-License-Identifier: Apache-2.0
"""What a judgement says: a table for a reader, JSON for a program."""

import pathlib
import textwrap
import types
from collections.abc import Mapping

from bionet_tasks import base as tasks
from experiments.judge import measures, scoring
from experiments.shell import workdirs

NOTHING: Mapping[str, tasks.Measure] = types.MappingProxyType({})


def write(judged: scoring.Judged, workdir: pathlib.Path) -> None:
  """Writes evaluation.json, atomically."""
  content = {'updates': judged.update, 'evaluations': dict(judged.evaluations)}
  workdirs.write_json(workdir / 'evaluation.json', content)


def table(judged: scoring.Judged, legend: bool = True) -> str:
  """All numbers of a judgement, to be read: a block for each evaluation.

  Args:
    judged: the judgement.
    legend: say below what each metric is.
  """
  spec = judged.run.first.task.spec
  known = measures.of(spec)
  names = {}  # in their order
  blocks = []
  for name, content in judged.evaluations.items():
    blocks.append(_block(name, content, spec, known))
    names.update(dict.fromkeys(_ordered(content['trained'], spec)))
  lines = measures.legend(names, known) if legend else []
  return '\n'.join([*blocks, *(['metrics:', *lines] if lines else [])])


def _ordered(names, spec) -> list[str]:
  """The main metric, which a reader looks for, before the others."""
  return sorted(names, key=lambda metric: metric != spec.metric)


def _block(name: str, content: Mapping, spec, known) -> str:
  described = content.get('described', {'trained': {}, 'untrained': {}})
  numbers = {
    side: {**content[side], **_scalars(described[side])}
    for side in ('trained', 'untrained')
  }
  names = _ordered(numbers['trained'], spec)
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
    unit = known[metric].unit if metric in known else ''
    lines.append(
      f'  {metric:{width}}  {numbers_shown}  {after - before:+8.4f}'
      + (f'  {unit}' if unit else '')
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


def line(
  metrics: Mapping[str, float], known: Mapping[str, tasks.Measure] = NOTHING
) -> str:
  """Metrics on one line, with units: `accuracy 0.9563  loss 0.1360 nats`."""
  shown = []
  for name, value in metrics.items():
    unit = known[name].unit if name in known else ''
    shown.append(f'{name} {_plain(value):.4f} {unit}'.rstrip())
  return '  '.join(shown)
