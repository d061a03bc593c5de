# SPDX-License-Identifier: Apache-2.0
"""Per-unit traces are exact where a cell's state stays in its units.

Truth: BPTT. The LRU and minGRU carry their state elementwise, whatever their
weights; leaky and spiking units do while their recurrent weights are 0. Traces
cross window borders; the targets lie behind a delay.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bionet_core import CELLS, plugins
from bionet_learners.reverse import bptt
from bionet_learners.traces import d_rtrl
from bionet_tasks import base
from bionet_tasks.temporal import copying
from tests import small

pytestmark = pytest.mark.oracle

KEY = jax.random.key(0)
TASK = copying.copying(num_symbols=2, time_lag=3)  # T = 7
SETTINGS = {
  'lru': {'hidden': 4},
  'min_gru': {'hidden': 4},
  'leaky': {'hidden': 4, 'tau': 3.0},
  'spiking': {'hidden': 6, 'adaptive': 0.5, 'tau': 5.0, 'scale_in': 4.0},
}
RECURRENT = {
  'leaky': ('leaky/recurrent', 'w'),
  'spiking': ('spiking', 'w_recurrent'),
}


@functools.cache
def made(name):
  """`(cell, params, constants, trials)`."""
  factory = plugins.load('bionet.cells', name, CELLS)
  cell = factory(TASK.spec, **SETTINGS[name])
  trials = TASK.sample(KEY, jnp.arange(3))
  params, constants = jax.jit(cell.init)(KEY, trials.inputs[0])
  if name in RECURRENT:
    module, weight = RECURRENT[name]
    params[module][weight] *= 0
  return cell, params, constants, trials


def gradient(rule, params, constants, trials):
  state = rule.init(KEY, params, constants, trials)
  state = rule.begin(params, constants, state, KEY, trials)
  return rule.estimate(params, constants, state, KEY, trials)[0].gradient


@pytest.mark.parametrize('name', SETTINGS)
def test_traces_are_the_gradient(name):
  """Truth: BPTT, group by group, with windows of 2 of 7 steps.

  Mutant: without D, credit of one step alone, every group of the cell is off.
  """
  cell, *rest = made(name)
  loss = base.cross_entropy
  exact = jax.jit(functools.partial(gradient, bptt.bptt(cell, loss)))(*rest)
  traced = d_rtrl.d_rtrl(cell, loss, window=2)
  found = jax.jit(functools.partial(gradient, traced))(*rest)
  assert max(small.errors(found, exact).values()) < 1e-5

  def forgets(params, constants, state, keys, inputs):
    state = jax.lax.stop_gradient(state)
    return cell.step(params, constants, state, keys, inputs)

  mutant = bptt.bptt(cell._replace(step=forgets), loss)
  lost = small.errors(
    jax.jit(functools.partial(gradient, mutant))(*rest), exact
  )
  cells_own = [v for k, v in lost.items() if 'readout' not in k]
  assert len(cells_own) >= 2 and np.min(cells_own) > 0.05
