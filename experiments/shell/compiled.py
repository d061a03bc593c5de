# SPDX-License-Identifier: Apache-2.0
"""Programs that one start compiles and the next one finds.

They lie in a folder of the user's cache, which may be deleted at any time. What
a program gives does not depend on whether it was found or compiled.
"""

import hashlib
import os
import pathlib
import platform
import sys
import warnings
from importlib import metadata

import jax

NONE = 'none'
_ENTRIES = '*-cache'  # as JAX names its files
_DAMAGED = 'Error reading persistent compilation cache entry'


def keep(asked: str | None) -> None:
  """From now on what is compiled is kept, and found by the next start.

  A folder that cannot be written costs a line on standard error, and the time
  to compile. So does an entry that is damaged, as of a start that was killed;
  JAX would leave it there for ever, so the folder is emptied.

  Args:
    asked: a folder; 'none': keep nothing; None: what the environment says
      (JAX_COMPILATION_CACHE_DIR), or else `folder()`.
  """
  if asked == NONE:
    jax.config.update('jax_compilation_cache_dir', None)
    return
  if asked is None and jax.config.jax_compilation_cache_dir:  # pyright: ignore
    return
  try:
    path = pathlib.Path(asked).expanduser() if asked else folder()
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
      raise PermissionError('it cannot be written')
  except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
    why = getattr(error, 'strerror', None) or str(error)
    _warn(
      f'{asked or "the cache of compiled programs"}: {why}. Programs are '
      'compiled anew; --compilation_cache names another folder.'
    )
    return
  jax.config.update('jax_compilation_cache_dir', str(path))
  # All of them: most compile in less than JAX's threshold of a second.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  # XLA's own caches beside JAX's are for accelerators and name absolute paths.
  jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
  _empty_where_damaged(path)


def folder() -> pathlib.Path:
  """The folder for this version of JAX and this processor."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  features = hashlib.sha256(_processor().encode()).hexdigest()[:8]
  version = metadata.version('jaxlib')
  return pathlib.Path(base) / 'bionet' / f'jaxlib-{version}-{features}'


def _processor() -> str:
  """What the processor can do: programs for another one may not run on it."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:  # not Linux
    lines = []
  can = [line for line in lines if line.startswith(('flags', 'Features'))]
  return f'{platform.machine()} {can[0] if can else platform.processor()}'


def _empty_where_damaged(path: pathlib.Path) -> None:
  """Empties the folder as soon as JAX says that an entry cannot be read."""
  others = warnings.showwarning

  def show(message, *args, **kwargs):
    if not str(message).startswith(_DAMAGED):
      others(message, *args, **kwargs)
      return
    for entry in path.glob(_ENTRIES):
      entry.unlink(missing_ok=True)
    _warn(
      f'{path}: held a damaged program, and was emptied. Programs are '
      'compiled anew.'
    )

  warnings.showwarning = show
  warnings.filterwarnings('always', message=_DAMAGED)


def _warn(text: str) -> None:
  print(f'warning: {text}', file=sys.stderr)
