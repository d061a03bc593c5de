# SPDX-License-Identifier: Apache-2.0
"""How the memory of each rule grows, and all exponents beside theory's."""

import pathlib
from collections.abc import Mapping, Sequence

from matplotlib import figure, ticker

_AXES = {'T': 'steps T', 'N': 'units N', 'B': 'trials B'}
_MARKERS = 'osD^vP*Xhd<>p8os'
_COLUMNS = [(cost, by) for cost in ('memory', 'time') for by in 'TNB']


def draw(rows: Sequence[Mapping], path: pathlib.Path) -> None:
  """Draws memory against T, N and B, and a table of exponents.

  Both axes are logarithmic; a line a rule, and dashed behind it, from its
  largest size down, the slope of theory. The table has an exponent as measured
  and, after a stroke, of theory; what is off is red.

  Args:
    rows: rows of `experiments.suites.scale`.
    path: the PNG to write.
  """
  rules = list(dict.fromkeys(row['rule'] for row in rows))
  canvas = figure.Figure(figsize=(13, 9.5), layout='constrained')
  grid = canvas.add_gridspec(2, 3, height_ratios=(1.15, 1))
  panels = {by: canvas.add_subplot(grid[0, i]) for i, by in enumerate(_AXES)}
  for row in rows:
    if row['cost'] == 'memory' and row['MiB or CPU s']:
      _line(panels[row['by']], row, rules.index(row['rule']))
  for by, panel in panels.items():
    panel.set(xscale='log', yscale='log', xlabel=_AXES[by])
    panel.set_title(f'memory by {by}', fontsize=10)
    panel.yaxis.set_major_formatter(ticker.FuncFormatter(_plain))
    panel.xaxis.set_major_formatter(ticker.FuncFormatter(_plain))
    panel.grid(color='0.92')
    panel.spines[['top', 'right']].set_visible(False)
  panels['T'].set_ylabel('compiled temporary memory (MiB)')
  handles = {}
  for panel in panels.values():
    lines, labels = panel.get_legend_handles_labels()
    handles |= dict(zip(labels, lines, strict=True))
  canvas.legend(
    [handles[rule] for rule in rules if rule in handles],
    [rule for rule in rules if rule in handles],
    loc='outside right upper',
    frameon=False,
    fontsize=8,
  )
  _table(canvas.add_subplot(grid[1, :]), rows, rules)
  canvas.suptitle(
    'How an estimate grows; dashed: the slope of theory. '
    'Each line has a base of its own.'
  )
  canvas.savefig(path, dpi=150)


def _line(panel, row, number):
  points = {float(n): mib for n, mib in row['MiB or CPU s'].items()}
  sizes, costs = list(points), list(points.values())
  color = 'black' if row['rule'].startswith('bptt') else f'C{number % 10}'
  panel.plot(
    sizes,
    costs,
    color=color,
    marker=_MARKERS[number % len(_MARKERS)],
    markersize=4.5,
    markerfacecolor=color if number % 2 else 'white',
    linewidth=1.2,
    label=row['rule'],
  )
  theory = [costs[-1] * (n / sizes[-1]) ** row['theory'] for n in sizes]
  # Far below what there is the slope says nothing, and would stretch the axis.
  seen = [(n, y) for n, y in zip(sizes, theory, strict=True) if y > 1e-3]
  panel.plot(*zip(*seen, strict=True), color=color, linestyle='--', alpha=0.5)


def _plain(value, _):
  return f'{value:,.0f}' if value >= 1 else f'{value:g}'


def _table(panel, rows, rules):
  panel.set_axis_off()
  found = {(row['rule'], row['cost'], row['by']): row for row in rows}
  texts = [
    [_cell(found.get((rule, *column))) for column in _COLUMNS] for rule in rules
  ]
  table = panel.table(
    cellText=texts,
    rowLabels=rules,
    colLabels=[f'{cost} by {by}' for cost, by in _COLUMNS],
    cellLoc='center',
    loc='center',
  )
  table.auto_set_font_size(False)
  table.set_fontsize(8)
  for (line, column), cell in table.get_celld().items():
    cell.set_edgecolor('0.85')
    if line and column >= 0:
      row = found.get((rules[line - 1], *_COLUMNS[column]))
      if row and row['verdict'] == 'off':
        cell.get_text().set(color='C3', weight='bold')
  panel.set_title('exponents: measured / theory (red: off)', fontsize=10)


def _cell(row):
  if row is None:
    return ''
  if row['verdict'] == 'not measured':
    return f'- / {row["theory"]}'
  measured = round(row['measured'], 2) + 0.0  # -0.0 has a sign
  return f'{measured:.2f} / {row["theory"]}'
