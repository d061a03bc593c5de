# SPDX-License-Identifier: Apache-2.0
"""Programs that several runs share are compiled once.

Runs of these tests last milliseconds and compile for seconds. JAX's own cache
of compiled programs is on in this folder, empty at the start: what is equal is
compiled once, and what is not misses the cache.
"""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope='package', autouse=True)
def compiled(tmp_path_factory):
  """The folder of compiled programs."""
  folder = str(tmp_path_factory.mktemp('compiled'))
  settings = {
    'jax_compilation_cache_dir': folder,
    'jax_persistent_cache_min_compile_time_secs': 0,
    'jax_persistent_cache_min_entry_size_bytes': 0,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield folder
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
