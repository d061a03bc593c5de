# SPDX-License-Identifier: Apache-2.0
"""What `train` does about the credit of a cell that is not built in.

Truth: calls of `check_credit`, counted, and the words a user reads.
"""

import math
from unittest import mock

import jax
import numpy as np
import pytest

from bionet_learners import testing
from experiments.configs import compose
from experiments.configs import copying as copying_config
from tests.experiments import smoke

pytestmark = pytest.mark.usefixtures('compiled_once')

CELLS = """\
from bionet_core.cells import cores
from bionet_core.relaxation import asymmetric


def cell(spec, *, hidden: int = 4):
  return cores.gru(spec, hidden=hidden)


def network(spec, *, hidden: int = 4):
  return asymmetric.asymmetric(spec, hidden=hidden)
"""


@pytest.fixture
def credit(tmp_path, monkeypatch, hollow):
  """The calls of the check, which finds no fault; the module is CELLS."""
  (tmp_path / 'cells_of_train.py').write_text(CELLS)
  monkeypatch.syspath_prepend(tmp_path)
  calls = mock.Mock(return_value='credit checked')
  monkeypatch.setattr(testing, 'check_credit', calls, raising=False)
  return calls


def _composed(choice, **settings):
  config = compose.get_config(choice)
  variant = copying_config._VARIANTS['smoke']
  sizes = {k: v for k, v in variant.items() if '.' not in k}
  config.update_from_flattened_dict({**sizes, **settings})
  return config


@pytest.mark.parametrize(
  'settings',
  [{}, {'precision': 'bfloat16'}, {'restarts.count': 2}],
  ids=['plain', 'precision', 'restarts'],
)
def test_credit_is_checked_on_a_cell_of_others(
  settings, credit, tmp_path, start, capsys
):
  """Truth: the rule's kind, the shapes, float32; printed before the run.

  Mutants: the rule in bfloat16, and the rule hidden in copies.
  """
  config = _composed('copying,cells_of_train:cell,bptt', **settings)
  if 'restarts.count' in settings:
    config.restarts.validate_every = 2
  start(config, tmp_path / 'run')
  [((cell, loss, rule, trials), keywords)] = credit.call_args_list
  assert not keywords
  assert trials.inputs.shape[1] == 4

  def run(key):
    params, constants = cell.init(key, trials.inputs[0])
    state = rule.init(key, params, constants, trials)
    return params, rule.estimate(params, constants, state, key, trials)[0]

  params, estimate = jax.eval_shape(run, jax.random.key(0))
  assert jax.tree.structure(estimate.gradient) == jax.tree.structure(params)
  dtypes = {str(x.dtype) for x in jax.tree.leaves((params, estimate))}
  assert dtypes == {'float32'}
  outputs = np.zeros((*trials.targets.shape[1:], 8), np.float32)
  value, _ = loss(outputs, trials.targets[0], np.ones(4, np.float32))
  assert value == pytest.approx(math.log(8))  # of 8 classes, all alike
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'credit checked'
  assert lines[1].startswith('copying: bptt on cells_of_train:cell')


def test_wrong_credit_ends_in_one_line(credit, tmp_path, start, capsys):
  """Truth: the law's words, status 2, no folder; then a run without a check."""
  config = _composed('copying,cells_of_train:cell,bptt')
  credit.side_effect = AssertionError('gradient of w:\n  0.2 is not 0.3')
  with pytest.raises(SystemExit) as end:
    start(config, tmp_path / 'run')
  assert end.value.code == 2
  out, error = capsys.readouterr()
  assert error == 'error: gradient of w: 0.2 is not 0.3\n' and not out
  assert not (tmp_path / 'run').exists()
  start(config, tmp_path / 'run', check_credit=False)
  assert credit.call_count == 1
  start(config, tmp_path / 'run')  # it is finished
  assert credit.call_count == 1


def test_credit_of_what_is_built_in_is_not_checked(credit, tmp_path, start):
  """Truth: no call; the project's tests check its cells."""
  start(smoke.config('copying'), tmp_path / 'copying')
  start(smoke.config('prototypes'), tmp_path / 'prototypes')
  assert not credit.call_count


@pytest.mark.parametrize(
  'choice',
  [
    'copying,cells_of_train:cell,open_es',
    'prototypes,cells_of_train:network,local_plasticity',
  ],
)
def test_what_gives_no_credit_over_time_says_so(
  choice, credit, tmp_path, start, capsys
):
  """Truth: the words; a population and a network of others still train."""
  start(_composed(choice), tmp_path / 'run')
  assert not credit.call_count
  first, *_ = capsys.readouterr().out.splitlines()
  assert first.startswith('credit not checked: ')
