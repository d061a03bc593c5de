# SPDX-License-Identifier: Apache-2.0
"""The form of a program by the platform that it is traced for.

The value is the same, up to rounding. On a CPU a step that is skipped costs
nothing, so conditionals and loops pay, and a loop that is unrolled only takes
longer to compile. An accelerator waits for the host at every conditional in a
loop, and at every short step for its kernels to be launched: there all is
computed, what nobody asks for is left out, and loops over steps are unrolled.

The choice falls while a program is traced: by JAX's default backend, or by
`traced_for`. It is made here and nowhere else.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  'platform', default=None
)
_UNROLLED = 10  # steps of a loop's body; compile time grows with them


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
  """Programs that are traced inside have the form of this platform.

  To look at, or to try, another platform's form on any machine:

    with platforms.traced_for('cuda'):
      jax.jit(update).trace(*args).lower(lowering_platforms=('cuda',))

  What `jax.jit` holds a trace of already keeps its form: make the function
  inside.

  Args:
    platform: 'cpu', or the name of an accelerator, e.g. 'cuda'.
  """
  token = _PLATFORM.set(platform)
  try:
    yield
  finally:
    _PLATFORM.reset(token)


def accelerated() -> bool:
  """Whether what is being traced will run on an accelerator."""
  return (_PLATFORM.get() or jax.default_backend()) != 'cpu'


def scan(
  body: Callable[[Any, Any], tuple[Any, Any]],
  carry: Any,
  xs: Any,
  *,
  length: int | None = None,
  reverse: bool = False,
  steps: int = 1,
) -> tuple[Any, Any]:
  """`jax.lax.scan` over steps, unrolled on an accelerator.

  Args:
    body: as in `jax.lax.scan`.
    carry: likewise.
    xs: likewise.
    length: likewise.
    reverse: likewise.
    steps: how many steps of a trial the body has itself, each of them written
      out on an accelerator.
  """
  unroll = max(1, _UNROLLED // steps) if accelerated() else 1
  return jax.lax.scan(
    body, carry, xs, length=length, reverse=reverse, unroll=unroll
  )


def if_asked(
  mask: jax.Array,
  function: Callable[..., Any],
  *args: Any,
  otherwise: Callable[..., Any] | None = None,
) -> Any:
  """`function(*args)` where any trial is asked, else `otherwise(*args)`.

  On a CPU the one or the other is computed. On an accelerator both are, and one
  of them, with its derivative, is left out: there the function must be finite
  for what it is given where nobody is asked.

  Args:
    mask: of a step `[B]`, or of a window `[K, B]`.
    function: `(*args) -> tree`.
    *args: its arguments.
    otherwise: `(*args) -> tree` of the same shapes; None: zeros, whose shapes
      are found by tracing the function.
  """
  if otherwise is None:
    shapes = jax.eval_shape(function, *args)
    return if_asked(mask, function, *args, otherwise=lambda *_: _zeros(shapes))
  is_asked = jnp.any(mask != 0)
  if not accelerated():
    return jax.lax.cond(is_asked, function, otherwise, *args)
  return jax.tree.map(
    lambda x, y: jnp.where(is_asked, x, y), function(*args), otherwise(*args)
  )


def zeros_of(function: Callable[..., Any], *args: Any) -> Any:
  """Zeros like the result of a function, which is only traced."""
  return _zeros(jax.eval_shape(function, *args))


def _zeros(shapes):
  return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
