# SPDX-License-Identifier: Apache-2.0
"""What must be set before the first JAX call of any test.

Programs that several tests share are compiled once: the tests' arrays are tiny,
and they compile for longer than they run. JAX's own cache of compiled programs
is on; what is equal is found in it, and what is not misses it. It is each
worker's own, since JAX writes its files in place, where another process could
read half of one; between tests, when all are whole, workers link theirs to each
other. It begins empty, or with what is in the folder that the environment names
as BIONET_TEST_CACHE, which also keeps what is new: for several runs in a row.

For the same reason programs are hardly optimized, by these processes and those
that tests start: compiling takes a third of the time then. To test them as
users run them, set the environment's JAX_DISABLE_MOST_OPTIMIZATIONS to 0.

A program takes a third of a megabyte even if its arrays take a few bytes (see
one_context.py). After a test, if those before it and it compiled many, all are
forgotten: a worker stays small.
"""

import contextlib
import ctypes
import gc
import os
import pathlib
from importlib import metadata

if os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1') == '1':
  # No program is cut into parts for threads: each costs more than it saves.
  _flags = [os.environ.get('XLA_FLAGS', '')]
  _flags.append('--xla_cpu_parallel_codegen_split_count=1')
  if metadata.version('jaxlib').startswith('0.10.'):
    # Of two code generators the one that compiles sooner. Later versions have
    # but one, and end the process at a flag that they do not know.
    _flags.append('--xla_cpu_use_fusion_emitters=false')
  os.environ['XLA_FLAGS'] = ' '.join(_flags)

import jax
import pytest

from tests import one_context

jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')

try:
  from absl import flags
except ImportError:  # tests/core runs where bionet_core alone is installed
  pass
else:
  flags.FLAGS.mark_as_parsed()


_MAX_PROGRAMS = 400


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """The tests of a file run in one worker, which compiles what they share."""
  from xdist import scheduler

  return scheduler.LoadFileScheduling(config, log)


@pytest.fixture(scope='session')
def of_all_workers(tmp_path_factory):
  """A folder that all workers share."""
  root = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:  # a worker's own is in that of all
    root = root.parent
  return root


@pytest.fixture(scope='session', autouse=True)
def compiled(tmp_path_factory):
  """The worker's folder of compiled programs."""
  folder = tmp_path_factory.mktemp('compiled')
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)
  # Else the folder's path is part of every program's name in it.
  jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
  return folder


@pytest.fixture(scope='module', autouse=True)
def exchanged(compiled, of_all_workers):
  """Programs that other workers have compiled by now, and back."""
  kept = os.environ.get('BIONET_TEST_CACHE')
  shared = pathlib.Path(kept) if kept else of_all_workers / 'compiled'
  shared.mkdir(exist_ok=True, parents=True)
  _link(shared, compiled)
  yield
  _link(compiled, shared)


@pytest.fixture(scope='session')
def programs():
  """The programs that this process holds, counted: `[number]`."""
  count = [0]

  def counted(event, duration, **kwargs):
    del duration, kwargs
    count[0] += event == '/jax/core/compile/backend_compile_duration'

  jax.monitoring.register_event_duration_secs_listener(counted)
  gc.freeze()  # what was imported stays: no collection need look at it
  return count


@pytest.fixture(autouse=True)
def forgotten(programs):
  """No more than some hundred programs from before the test."""
  yield
  if programs[0] > _MAX_PROGRAMS:
    programs[0] = 0
    jax.clear_caches()
    one_context.forget()
    gc.collect()
    if hasattr(ctypes.CDLL(None), 'malloc_trim'):  # else they stay reserved
      ctypes.CDLL(None).malloc_trim(0)


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
  for name in set(os.listdir(source)) - set(os.listdir(target)):
    with contextlib.suppress(FileExistsError):
      os.link(source / name, target / name)
