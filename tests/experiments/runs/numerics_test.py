# SPDX-License-Identifier: Apache-2.0
"""What JAX is told of precision and determinism before a run."""

import json
import os

import jax
import jax.numpy as jnp
import pytest

from bionet_core import platforms
from bionet_learners.training import ranges
from experiments import session
from experiments.configs import copying
from experiments.runs import build, numerics, saved
from tests.experiments import smoke


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
  """JAX, and the environment, as other tests find them."""
  monkeypatch.setenv('XLA_FLAGS', os.environ.get('XLA_FLAGS', ''))
  before = jax.config.jax_default_matmul_precision
  yield
  jax.config.update('jax_default_matmul_precision', before)


DETERMINISTIC = '--xla_gpu_deterministic_ops=true'
OTHER = '--xla_cpu_enable_fast_math=false'


def config(**changes):
  made = copying.get_config('d_rtrl')
  made.network.hidden, made.batch_size = 3, 2
  made.update(changes)
  return made


def test_the_flags_of_a_config_are_set_beside_those_that_are(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', f'{OTHER} --xla_gpu_deterministic_ops=false')
  numerics.tell(config())
  assert os.environ['XLA_FLAGS'] == f'{OTHER} {DETERMINISTIC}'
  numerics.tell(config(deterministic=False))
  assert os.environ['XLA_FLAGS'] == OTHER


@pytest.mark.parametrize('precision', numerics.PRECISIONS)
def test_all_products_of_an_update_have_the_precision_of_the_config(precision):
  """Truth: the program for CUDA; of 'highest' none is in fewer bits."""
  chosen = config(matmul_precision=precision)
  with platforms.traced_for('cuda'):
    numerics.tell(chosen)
    stage = build.build(chosen).first
    trials = stage.task.sample(stage.keys.data, jnp.arange(2))
    state = jax.eval_shape(stage.learner.init, stage.keys.init, trials)
    update = jax.jit(stage.learner.update)
    traced = update.trace(state, stage.keys.noise, trials)
  text = traced.lower(lowering_platforms=('cuda',)).as_text()
  products = [line for line in text.splitlines() if 'dot_general' in line]
  assert products
  named = precision.upper()
  assert all(f'precision = [{named}, {named}]' in line for line in products)


def test_a_run_that_cannot_go_on_bit_for_bit_says_so():
  assert numerics.notes(config(deterministic=False)) == ()
  with platforms.traced_for('cuda'):
    assert numerics.notes(config()) == ()
    (note,) = numerics.notes(config(deterministic=False))
  assert note.startswith('deterministic=False')


def test_where_it_goes_on_it_says_so(tmp_path, no_figures, capsys):
  """Truth: the clause, of a run that stopped at its first border."""
  small = smoke.config('copying')
  small.deterministic = False
  with pytest.raises(ranges.InterruptedRun):
    smoke.run(small, tmp_path, interrupted=lambda: True)
  capsys.readouterr()
  with platforms.traced_for('cuda'):
    session.train(small, tmp_path)
  said = capsys.readouterr().out
  assert 'it may not go on bit for bit: deterministic=False, and an' in said


def test_a_run_records_and_is_opened_with_what_its_config_says(finished):
  """Truth: the config's own defaults; a CPU is told nothing that counts."""
  workdir = finished('copying')
  content = json.loads((workdir / 'config.json').read_text())
  assert content['config']['matmul_precision'] == 'highest'
  assert content['config']['deterministic'] is True
  said = []
  saved.restore(workdir, report=said.append)
  assert not said
  assert jax.config.jax_default_matmul_precision is None
  assert DETERMINISTIC in os.environ['XLA_FLAGS'].split()
  with platforms.traced_for('cuda'):
    saved.restore(workdir, report=said.append)
  assert jax.config.jax_default_matmul_precision == 'highest'
  assert ['jax_default_matmul_precision' in note for note in said] == [True]


def test_an_unknown_precision_is_refused():
  with pytest.raises(
    ValueError, match=r"^matmul_precision='most': must be one"
  ):
    numerics.tell(config(matmul_precision='most'))
