# SPDX-License-Identifier: Apache-2.0
"""Cell fates in rows, and a utility of one's own.

Truth: patterns by hand; the utility's own formula on the parts that
`information` has tests for.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import information
from bionet_tasks import cell_fate
from bionet_tasks.population.cell_fate import PATTERNS

SHORT = {'num_cells': 6, 'duration': 0.04, 'held_out_duration': 0.04}
OWN = 'utilities_test:half'


def half(states, temperature, weights):
  """S_pat less half of S_rep, of graded fates."""
  parts = information.exact_soft_utility(
    states, temperature=temperature, weights=weights
  )
  return parts._replace(utility=parts.s_pat - parts.s_rep / 2)


def per_replicate(states, temperature, weights):
  del temperature, weights
  return information.Utility(*[states[:, 0]] * 3)


def a_number(states, temperature, weights):
  del temperature, weights
  return jnp.mean(states)


@pytest.fixture(autouse=True)
def found_by_name(monkeypatch):
  monkeypatch.syspath_prepend(__file__.rpartition('/')[0])


def test_patterns_are_written_row_by_row():
  """Truth: by hand: six cells in one, two and three rows."""
  states = jnp.array([[0.9, 0.1, 0.9, 0.8, 0.2, 0.3]] * 4)[None]
  for rows, word in ((1, '101100'), (2, '101/100'), (3, '10/11/00')):
    task = cell_fate(rows=rows, **SHORT)
    trials = task.sample(jax.random.key(0), jnp.arange(4))
    assert task.describe(states, trials)[PATTERNS] == {word: 1.0}


def test_a_utility_of_ones_own_is_descended_and_reported():
  """Truth: its formula; the hard utility stays the main metric."""
  states = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 6)))
  task = cell_fate(loss=OWN, temperature=0.2, **SHORT)
  parts = information.exact_soft_utility(states, temperature=0.2)
  wanted = float(parts.s_pat - parts.s_rep / 2)
  loss, metrics = task.loss(states, jnp.full((8, 1), 0.2), jnp.ones(8))
  assert float(loss) == pytest.approx(-wanted, rel=1e-5)
  assert float(metrics['own_utility']) == pytest.approx(wanted, rel=1e-5)
  trials = task.sample(jax.random.key(0), jnp.arange(8))
  outputs = jnp.broadcast_to(states, (4, 8, 6))
  scores = task.metrics(outputs, trials)
  assert float(scores['own_utility']) == pytest.approx(wanted, rel=1e-5)
  assert float(scores['own_s_rep']) == pytest.approx(float(parts.s_rep))
  hard = information.hard_utility(states).utility
  assert float(scores['utility']) == pytest.approx(float(hard))
  assert task.spec.metric == 'utility'
  assert not any(
    name.startswith('own')
    for name in cell_fate(**SHORT).metrics(outputs, trials)
  )


@pytest.mark.parametrize(
  'settings, kind, message',
  [
    ({'rows': 4}, ValueError, r'^rows=4: must be .* divide the 6 cells'),
    ({'rows': 0}, ValueError, r'^rows=0: must be at least 1'),
    (
      {'loss': 'sharp'},
      ValueError,
      r"^loss='sharp': must be one of hard, soft, exact, or a module:function",
    ),
    ({'loss': 'nowhere:at_all'}, KeyError, "loss=.*no module 'nowhere'"),
    (
      {'loss': 'utilities_test:a_number'},
      ValueError,
      r"^loss='utilities_test:a_number': must return a bionet_core",
    ),
    (
      {'loss': 'utilities_test:per_replicate'},
      ValueError,
      r'^loss=.*of three numbers',
    ),
  ],
)
def test_what_cannot_be_is_refused(settings, kind, message):
  """Truth: the sentence that names the setting."""
  with pytest.raises(kind, match=message):
    cell_fate(**{**SHORT, **settings})
