# SPDX-License-Identifier: Apache-2.0
"""Learning rules, and the loop that trains with them."""

import types

from bionet_core import version
from bionet_learners.base import (
  BeginFn,
  CollectiveFn,
  DeviceIndexFn,
  Devices,
  Estimate,
  EstimateFn,
  GradientRule,
  Learner,
  LearnerInitFn,
  LearnerPredictFn,
  LearnerState,
  LearningSignalFn,
  RuleInitFn,
  RuleState,
  TakeOverFn,
  UpdateFn,
  descend,
)
from bionet_learners.description import describe
from bionet_learners.influence.rtrl import rtrl
from bionet_learners.influence.snap import snap
from bionet_learners.influence.uoro import uoro
from bionet_learners.local.local_plasticity import local_plasticity
from bionet_learners.populations.evolution import evolution
from bionet_learners.populations.evosax_strategy import evosax_strategy
from bionet_learners.populations.open_es import open_es
from bionet_learners.replicas import restarts
from bionet_learners.reverse.bptt import bptt
from bionet_learners.reverse.truncated_bptt import truncated_bptt
from bionet_learners.sampling.score_function import score_function
from bionet_learners.traces.d_rtrl import d_rtrl
from bionet_learners.traces.e_prop import e_prop
from bionet_learners.traces.pp_prop import pp_prop
from bionet_learners.traces.rflo import rflo
from bionet_learners.traces.three_factor import three_factor
from bionet_learners.training.notebook import train

__version__ = version.installed_version('bionet-learners')
"""The version of the distribution that installed this package."""

LEARNERS = types.MappingProxyType(
  {
    'bptt': 'bionet_learners:bptt',
    'd_rtrl': 'bionet_learners:d_rtrl',
    'e_prop': 'bionet_learners:e_prop',
    'evolution': 'bionet_learners:evolution',
    'evosax': 'bionet_learners:evosax_strategy',
    'local_plasticity': 'bionet_learners:local_plasticity',
    'open_es': 'bionet_learners:open_es',
    'pp_prop': 'bionet_learners:pp_prop',
    'rflo': 'bionet_learners:rflo',
    'rtrl': 'bionet_learners:rtrl',
    'score_function': 'bionet_learners:score_function',
    'snap': 'bionet_learners:snap',
    'three_factor': 'bionet_learners:three_factor',
    'truncated_bptt': 'bionet_learners:truncated_bptt',
    'uoro': 'bionet_learners:uoro',
  }
)
"""Built-in learners, `name -> 'module:factory'`; others' by entry point."""

__all__ = [
  'LEARNERS',
  'BeginFn',
  'CollectiveFn',
  'DeviceIndexFn',
  'Devices',
  'Estimate',
  'EstimateFn',
  'GradientRule',
  'Learner',
  'LearnerInitFn',
  'LearnerPredictFn',
  'LearnerState',
  'LearningSignalFn',
  'RuleInitFn',
  'RuleState',
  'TakeOverFn',
  'UpdateFn',
  '__version__',
  'bptt',
  'd_rtrl',
  'descend',
  'describe',
  'e_prop',
  'evolution',
  'evosax_strategy',
  'local_plasticity',
  'open_es',
  'pp_prop',
  'restarts',
  'rflo',
  'rtrl',
  'score_function',
  'snap',
  'three_factor',
  'train',
  'truncated_bptt',
  'uoro',
]
