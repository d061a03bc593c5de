# SPDX-License-Identifier: Apache-2.0
"""What must be set before the first JAX call of any test."""

import jax

jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')

try:
  from absl import flags
except ImportError:  # tests/core runs where bionet_core alone is installed
  pass
else:
  flags.FLAGS.mark_as_parsed()
