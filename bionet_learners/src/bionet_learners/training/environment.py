# SPDX-License-Identifier: Apache-2.0
"""What the numbers of a run depend on beside its settings and its seed.

A run draws the same trials everywhere: its keys name their generator
(`unroll.seed_key`). Sums are another matter: other versions, another processor
or device, other precision and other flags of the compiler round them otherwise.
"""

import os
import platform
from importlib import metadata
from typing import Any

import jax

from bionet_core import version

_PACKAGES = (
  'jax',
  'jaxlib',
  'dm-haiku',
  'optax',
  'chex',
  'jmp',
  'numpy',
  'evosax',
)
_FLAGS = (
  'jax_enable_x64',
  'jax_default_matmul_precision',
  'jax_numpy_dtype_promotion',
  'jax_disable_jit',
  'jax_disable_most_optimizations',
  'jax_optimization_level',
)
_VARIABLES = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE')
# Options of XLA_FLAGS that change no number.
_HARMLESS = ('--xla_force_host_platform_device_count', '--xla_dump')


def record() -> dict[str, dict[str, Any]]:
  """What may change the rounding, to be saved as JSON beside a run.

  Returns:
    'versions' of Python, of this package and of those it computes with; the
    'device', its kind and how many there are; and 'numerics': the processor,
    the device's runtime, and JAX's and XLA's flags of precision, optimization
    and determinism.
  """
  devices = jax.devices()
  packages = {
    name: metadata.version(name) for name in _PACKAGES if _is_installed(name)
  }
  return {
    'versions': {
      'python': platform.python_version(),
      'bionet': version.installed_version('bionet-learners'),
      **packages,
    },
    'device': {'kind': devices[0].device_kind, 'count': len(devices)},
    'numerics': {
      'processor': _processor(),
      'runtime': ' '.join(devices[0].client.platform_version.split()),
      **{name: getattr(jax.config, name, None) for name in _FLAGS},
      **{name: _variable(name, devices[0].platform) for name in _VARIABLES},
    },
  }


def differences(
  before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]
) -> tuple[str, ...]:
  """One clause for each thing that differs between two records.

  The number of devices is none of them: a run may share its updates out.
  """

  def flat(entries):
    return {
      'device': entries.get('device', {}).get('kind'),
      **entries.get('versions', {}),
      **entries.get('numerics', {}),
    }

  old, new = flat(before), flat(after)
  return tuple(
    f'{name} was {_said(old.get(name))} and is {_said(new.get(name))}'
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
  )


def _said(value) -> str:
  return 'not set' if value in (None, '') else str(value)


def _is_installed(distribution: str) -> bool:
  try:
    metadata.version(distribution)
  except metadata.PackageNotFoundError:
    return False
  return True


def _processor() -> str:
  """The processor's name: its vector units decide in which order it sums."""
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as lines:
      for line in lines:
        if line.startswith('model name'):
          return line.partition(':')[2].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()


def _variable(name: str, device: str) -> str:
  """A variable of the environment, its options in order.

  Those for GPUs alone count for nothing on a CPU.
  """
  harmless = (*_HARMLESS, '--xla_gpu') if device == 'cpu' else _HARMLESS
  options = os.environ.get(name, '').split()
  return ' '.join(sorted({x for x in options if not x.startswith(harmless)}))
