# SPDX-License-Identifier: Apache-2.0
"""What the numbers of a run depend on, and what is said where it differs.

Truth: Python, the installed packages and JAX; differences put there by hand.
"""

import json
import platform
from importlib import metadata

import jax
import jax.numpy as jnp
import pytest

from bionet_learners.training import environment, loop


def test_the_record_is_of_here():
  """Truth: Python's and JAX's own words; it is JSON."""
  record = environment.record()
  assert json.loads(json.dumps(record)) == record
  assert record['versions']['python'] == platform.python_version()
  assert record['versions']['jax'] == metadata.version('jax')
  assert record['device']['kind'] == jax.devices()[0].device_kind
  assert record['numerics']['processor']
  assert environment.differences(record, environment.record()) == ()


def test_each_difference_is_a_clause(monkeypatch):
  """Truth: what was set; the number of devices and GPU flags change nothing."""
  before = environment.record()
  monkeypatch.setenv(
    'XLA_FLAGS',
    '--xla_cpu_enable_fast_math=true --xla_gpu_deterministic_ops=true '
    '--xla_force_host_platform_device_count=3 --xla_dump_to=/nowhere',
  )
  with (
    jax.enable_x64(True),
    jax.default_matmul_precision('highest'),
    jax.disable_jit(),
  ):
    after = environment.record()
  after['device'] = {'kind': 'abacus', 'count': 9}
  after['versions'] = {**after['versions'], 'optax': '0.0.1'}
  del after['versions']['chex']
  kind = before['device']['kind']
  optax, chex = (metadata.version(name) for name in ('optax', 'chex'))
  flags = before['numerics']['XLA_FLAGS'] or 'not set'
  assert set(environment.differences(before, after)) == {
    f'device was {kind} and is abacus',
    f'optax was {optax} and is 0.0.1',
    f'chex was {chex} and is not set',
    f'XLA_FLAGS was {flags} and is --xla_cpu_enable_fast_math=true',
    'jax_enable_x64 was False and is True',
    'jax_default_matmul_precision was not set and is highest',
    'jax_disable_jit was False and is True',
  }


def test_a_loop_that_goes_on_says_what_differs(tmp_path, capsys):
  """Truth: the version that was put into its folder by hand."""

  def step(state, batch, key):
    return state + 1, {'loss': jnp.sum(state)}

  def run(epochs):
    loop.train_loop(jnp.ones(2), step, [jnp.ones(3)], epochs, 1, KEY, tmp_path)

  run(1)
  assert 'bit for bit' not in capsys.readouterr().err
  begun = json.loads((tmp_path / 'loop.json').read_text())
  begun['versions']['jax'] = '0.0.1'
  (tmp_path / 'loop.json').write_text(json.dumps(begun))
  run(2)
  assert (
    f'{tmp_path}: it may not go on bit for bit: jax was 0.0.1 and is '
    f'{metadata.version("jax")}.'
  ) in capsys.readouterr().err


def test_a_loop_of_another_generator_is_refused(tmp_path):
  """Truth: two generators whose keys have the same words."""

  def run(impl):
    key = jax.random.key(4, impl=impl)
    loop.train_loop(
      jnp.ones(2), lambda s, b, k: (s, {}), [jnp.ones(3)], 1, 1, key, tmp_path
    )

  run('rbg')
  with pytest.raises(ValueError, match='with generator=rbg, not unsafe_rbg'):
    run('unsafe_rbg')


KEY = jax.random.key(4)
