# SPDX-License-Identifier: Apache-2.0
"""What an update costs by the length of the trials, rule by rule."""

import pathlib
from collections.abc import Mapping, Sequence

from matplotlib import figure, ticker

_MARKERS = 'osD^vP*Xhd<>p8'  # more than there are colors: a pair tells a rule


def draw(rows: Sequence[Mapping], path: pathlib.Path) -> None:
  """Draws temporary memory and CPU time against T, both axes logarithmic.

  One line a rule: filled markers where the last steps alone are asked, open
  ones and dots where all are; dashes for the smaller core of the rules that the
  large one would take minutes. Backpropagation through time is black.

  Args:
    rows: rows of `experiments.suites.online`.
    path: the PNG to write.
  """
  canvas = figure.Figure(figsize=(10, 4.6), layout='constrained')
  axes = canvas.subplots(1, 2)
  names = list(dict.fromkeys((row['rule'], row['loss on']) for row in rows))
  rules = list(dict.fromkeys(rule for rule, _ in names))
  for rule, on in names:
    line = [row for row in rows if (row['rule'], row['loss on']) == (rule, on)]
    number, backprop = rules.index(rule), rule.startswith('bptt')
    color = 'black' if backprop else f'C{number % 10}'
    style = {
      'color': color,
      'linestyle': _line(rule, on),
      'marker': _MARKERS[number % len(_MARKERS)],
      'markerfacecolor': color if on == 'last 10' else 'white',
      'markersize': 4.5,
      'linewidth': 1.3,
      'label': rule if on == 'last 10' else f'{rule}, loss on {on}',
    }
    for panel, cost in zip(axes, ('temp MiB', 'CPU ms'), strict=True):
      panel.plot(
        [row['T'] for row in line], [row[cost] for row in line], **style
      )
  lengths = sorted({row['T'] for row in rows})
  for panel, label in zip(
    axes,
    ('compiled temporary memory (MiB)', 'CPU time of an update (ms)'),
    strict=True,
  ):
    panel.set(xscale='log', yscale='log', xlabel='steps T', ylabel=label)
    panel.set_xticks(lengths, [str(length) for length in lengths])
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    panel.yaxis.set_minor_formatter(ticker.NullFormatter())
    panel.grid(axis='y', color='0.9')
    panel.spines[['top', 'right']].set_visible(False)
  handles, labels = axes[0].get_legend_handles_labels()
  canvas.legend(
    handles, labels, loc='outside right upper', frameon=False, fontsize=7.5
  )
  canvas.suptitle('An update by the length of its trials')
  canvas.savefig(path, dpi=150)


def _line(rule: str, on: str) -> str:
  if on != 'last 10':
    return ':'
  return '--' if 'GRU 16' in rule else '-'
