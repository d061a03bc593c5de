# SPDX-License-Identifier: Apache-2.0
"""Factories of another package, each of them wrong in its own way."""

import dataclasses

import jax.numpy as jnp

from bionet_core.cells import cores
from bionet_core.relaxation import layer_map, layers, orchestrator
from bionet_learners.local import local_plasticity
from bionet_learners.reverse import bptt
from bionet_tasks.temporal import copying


def _network(spec, own, size):
  rows = {
    1: {0: layers.FullyConnected(size), **own},
    2: {
      1: layers.FullyConnected(spec.num_outputs),
      2: layers.OutputLayer(spec.num_outputs),
    },
  }
  made = layer_map.LayerMap.from_dict(rows)
  return orchestrator.SequentialOrchestrator(made).network()


def no_diagonal(spec, *, hidden: int = 4):
  return _network(spec, {}, hidden)


def no_fit(spec, *, hidden: int = 4):
  return _network(spec, {1: layers.RecurrentDiscrete(hidden, 0.5)}, hidden + 1)


def misfiltered(network, loss=None, *, sweeps: int = 2):
  def settle(*args, messages, **kwargs):
    return network.settle(*args, messages='forwards', **kwargs)

  return local_plasticity.local_plasticity(network._replace(settle=settle))


def projected(spec, *, hidden: int = 4):
  cell = cores.vanilla_rnn(spec, hidden=hidden)

  def init(key, inputs):
    params, constants = cell.init(key, inputs)
    return {'cell': params, 'q': jnp.eye(hidden)}, constants

  def step(params, constants, *args):
    emission, state = cell.step(params['cell'], constants, *args)
    return emission @ params['q'], state

  def readout(params, constants, emission):
    return cell.readout(params['cell'], constants, emission)

  return cell._replace(init=init, step=step, readout=readout)


def hiding(spec, **settings):
  return None


def talkative(spec):
  raise ValueError('one thing\n\n  and another')


def number(spec):
  return 3


def needy(spec, *, size: 'int', other=None):
  return None


def wrong_tree(cell, loss):
  rule = bptt.bptt(cell, loss)

  def estimate(*args):
    found, state = rule.estimate(*args)
    return found._replace(gradient={'gru': found.gradient['gru']}), state

  return rule._replace(estimate=estimate)


def reserved(cell, loss, *, every: int = 3):
  return bptt.bptt(cell, loss)


def silent():
  task = copying.copying(num_symbols=2, time_lag=1)

  def sample(key, index, batch_size=None):
    trials = task.sample(key, index)
    return trials.replace(mask=trials.mask * (index % 8 != 5))

  return task._replace(sample=sample)


def unmeasured():
  task = copying.copying(num_symbols=2, time_lag=1)
  spec = dataclasses.replace(task.spec, metric='utility')
  return task._replace(spec=spec)
