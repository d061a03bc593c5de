# SPDX-License-Identifier: Apache-2.0
"""What JAX is told of precision and determinism; it counts on accelerators.

Products of float32 are rounded to fewer bits there unless JAX is told
otherwise, and programs are chosen by timing, so that two starts differ in bits.
"""

import os

import jax
import ml_collections

from bionet_core import platforms

PRECISIONS = ('highest', 'high', 'default')
_DETERMINISTIC = '--xla_gpu_deterministic_ops'


def tell(config: ml_collections.ConfigDict) -> None:
  """Tells JAX, for this process, what a config says.

  XLA reads its flags when JAX first computes: what a process has computed
  before leaves it with the determinism that it began with. On a CPU nothing is
  told, for there products are computed in full.

  Args:
    config: of a run: `matmul_precision`, `deterministic`.

  Raises:
    ValueError: for a precision that there is not.
  """
  precision = config.matmul_precision
  if precision not in PRECISIONS:
    raise ValueError(
      f'matmul_precision={precision!r}: must be one of {", ".join(PRECISIONS)}.'
    )
  flags = os.environ.get('XLA_FLAGS', '').split()
  flags = [flag for flag in flags if not flag.startswith(_DETERMINISTIC)]
  if config.deterministic:
    flags.append(f'{_DETERMINISTIC}=true')
  os.environ['XLA_FLAGS'] = ' '.join(flags)
  if platforms.accelerated():
    jax.config.update('jax_default_matmul_precision', precision)


def notes(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Why a run of this config may not go on bit for bit: a clause each."""
  if config.deterministic or not platforms.accelerated():
    return ()
  return ('deterministic=False, and an accelerator chooses programs by timing',)
