# SPDX-License-Identifier: Apache-2.0
"""Dynamics computed in another precision than the parameters are kept in."""

from typing import Any

import jax.numpy as jnp
import jmp

from bionet_core import interfaces


def with_policy(dynamics: Any, policy: str | jmp.Policy) -> Any:
  """A Cell or RelaxationNetwork that computes by a jmp policy.

  Parameters and constants are kept in the policy's parameter type; states and
  all products are of its compute type; answers, and the local loss, of its
  output type. A rule's updates are of the parameters' type, since the cast is
  inside what it differentiates. Integer arrays and keys stay as they are.

  Args:
    dynamics: a Cell or a RelaxationNetwork.
    policy: e.g. 'params=float32,compute=bfloat16,output=float32'.

  Raises:
    TypeError: for other dynamics.
    ValueError: for a policy that jmp does not read, or float16: it would need
      loss scaling, which means nothing to a rule that is no gradient.

  Source: P. Micikevicius et al., arXiv 1710.03740 (2018), without its scaling.
  """
  if not isinstance(policy, jmp.Policy):
    try:
      policy = jmp.get_policy(policy)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
      raise ValueError(
        f'policy={policy!r}: must be a policy such as '
        "'params=float32,compute=bfloat16,output=float32'."
      ) from error
  kinds = (policy.param_dtype, policy.compute_dtype, policy.output_dtype)
  if any(jnp.dtype(kind) == jnp.float16 for kind in kinds):
    raise ValueError(
      f'policy={_text(policy)!r}: must not use float16, which needs loss '
      'scaling; that means nothing to a rule that is no gradient. Use bfloat16.'
    )
  if isinstance(dynamics, interfaces.Cell):
    return _cell(dynamics, policy)
  if isinstance(dynamics, interfaces.RelaxationNetwork):
    return _network(dynamics, policy)
  raise TypeError(
    f'precision is of a Cell or a RelaxationNetwork, not of a '
    f'{type(dynamics).__name__}.'
  )


def _text(policy: jmp.Policy) -> str:
  """The policy as `jmp.get_policy` reads it; jmp prints its own types alone."""
  dtypes = (policy.param_dtype, policy.compute_dtype, policy.output_dtype)
  names = ('params', 'compute', 'output')
  return ','.join(
    f'{name}={jnp.dtype(dtype).name}'
    for name, dtype in zip(names, dtypes, strict=True)
  )


def _cell(cell: interfaces.Cell, policy: jmp.Policy) -> interfaces.Cell:
  compute, output = policy.cast_to_compute, policy.cast_to_output
  if cell.penalty is not None and policy.compute_dtype == jnp.bfloat16:
    raise ValueError(
      f'policy={_text(policy)!r}: must compute in float32, for the cell has a '
      'penalty on its state: it counts, and bfloat16 counts to 256.'
    )

  def init(key, inputs):
    return policy.cast_to_param(cell.init(key, inputs))

  def initial_state(constants, keys):
    return compute(cell.initial_state(compute(constants), keys))

  def step(params, constants, state, keys, inputs):
    params, constants, inputs = compute((params, constants, inputs))
    return compute(cell.step(params, constants, state, keys, inputs))

  def readout(params, constants, emission):
    return output(cell.readout(*compute((params, constants, emission))))

  converted = interfaces.Cell(init, initial_state, step, readout)
  density, cost = cell.log_density, cell.penalty
  if density is not None:

    def log_density(params, constants, state, keys, inputs):
      params, constants, inputs = compute((params, constants, inputs))
      return output(density(params, constants, state, keys, inputs))

    converted = converted._replace(log_density=log_density)
  if cost is not None:
    converted = converted._replace(
      penalty=lambda c, s: output(cost(compute(c), s))
    )
  return converted


def _network(
  network: interfaces.RelaxationNetwork, policy: jmp.Policy
) -> interfaces.RelaxationNetwork:
  compute, output = policy.cast_to_compute, policy.cast_to_output

  def init(key, inputs):
    return policy.cast_to_param(network.init(key, inputs))

  def initial_state(params, constants, inputs, targets):
    return compute(
      network.initial_state(*compute((params, constants, inputs, targets)))
    )

  def settle(params, constants, state, keys, *, messages, sweeps):
    params, constants = compute((params, constants))
    state, changed = network.settle(
      params, constants, state, keys, messages=messages, sweeps=sweeps
    )
    return compute(state), output(changed)

  def readout(params, constants, state):
    return output(network.readout(*compute((params, constants)), state))

  def local_loss(params, constants, state, targets, gate=None):
    params, constants, targets, gate = compute(
      (params, constants, targets, gate)
    )
    return output(network.local_loss(params, constants, state, targets, gate))

  return interfaces.RelaxationNetwork(
    init, initial_state, settle, readout, local_loss
  )
