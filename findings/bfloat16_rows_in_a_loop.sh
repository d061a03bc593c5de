#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A loop that replaces one row at a time of a bfloat16 array, on a CPU.
#
# One would guess that a round touches the row alone, as it does for float32: an
# array that a loop carries is updated in place. XLA's CPU programs make the whole
# array float32 in every round, update that, and round all of it back: 512 rows
# take tens of times as long as those of float32. The same bits, carried as
# uint16 and cast row by row, are updated in place.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cat > "$folder/rows.py" <<'PYTHON'
import re
import statistics
import time

import jax
import jax.numpy as jnp
from jax import lax

ROWS, WIDTH = 512, 4096
print('jax', jax.__version__, jax.default_backend())


def plain(x):
  def one(i, x):
    row = lax.dynamic_slice_in_dim(x, i, 1)
    return lax.dynamic_update_slice_in_dim(x, row + 1, i, 0)

  return lax.fori_loop(0, ROWS, one, x)


def as_bits(x):
  def one(i, bits):
    row = lax.dynamic_slice_in_dim(bits, i, 1)
    row = lax.bitcast_convert_type(row, jnp.bfloat16) + 1
    row = lax.bitcast_convert_type(row, jnp.uint16)
    return lax.dynamic_update_slice_in_dim(bits, row, i, 0)

  bits = lax.bitcast_convert_type(x, jnp.uint16)
  return lax.bitcast_convert_type(lax.fori_loop(0, ROWS, one, bits), jnp.bfloat16)


def seen(name, function, dtype):
  """Milliseconds of CPU time, and whether all rows are ever float32."""
  program = jax.jit(function).lower(jnp.zeros((ROWS, WIDTH), dtype)).compile()
  jax.block_until_ready(program(jnp.zeros((ROWS, WIDTH), dtype)))
  times = []
  for _ in range(5):
    x = jax.block_until_ready(jnp.zeros((ROWS, WIDTH), dtype))
    began = time.process_time()
    jax.block_until_ready(program(x))
    times.append((time.process_time() - began) * 1e3)
  whole = re.search(rf'f32\[{ROWS},{WIDTH}\]', program.as_text()) is not None
  took = statistics.median(times)
  print(f'{name:16s} {took:8.1f} ms, all rows as float32: {whole}')
  return took, whole


one, _ = seen('float32', plain, jnp.float32)
two, whole = seen('bfloat16', plain, jnp.bfloat16)
three, bits_whole = seen('bfloat16 as bits', as_bits, jnp.bfloat16)
assert whole and not bits_whole, 'XLA updates bfloat16 in place now'
assert two > 10 * one and two > 10 * three, 'the rows of bfloat16 are quick now'
PYTHON
"$folder/venv/bin/python" "$folder/rows.py"
