# SPDX-License-Identifier: Apache-2.0
"""Small runs: the smoke variants of the configs, and what they leave behind."""

import importlib
import itertools
import json
import pathlib
import re
import subprocess

import jax
import numpy as np

from bionet_learners.training import checkpoints
from experiments import session
from experiments.configs import memory
from experiments.runs import build, saved
from experiments.shell import workdirs

REPO = pathlib.Path(__file__).parents[2]
CONFIGS = REPO / 'experiments' / 'configs'
SHARED = ('__init__', 'base', 'compose')  # files that are no experiment
FILES = sorted(p.stem for p in CONFIGS.glob('*.py') if p.stem not in SHARED)
# A config of many tasks has a small variant of each.
NAMES = [name for name in FILES if name != 'memory'] + [*memory.TASKS]


def head() -> str | None:
  answer = subprocess.run(
    ['git', 'rev-parse', 'HEAD'],
    cwd=REPO,
    capture_output=True,
    text=True,
    check=False,
  )
  return answer.stdout.strip() or None


def config(name: str):
  if name in memory.TASKS:
    return memory.get_config(f'{name},smoke')
  module = importlib.import_module(f'experiments.configs.{name}')
  small = module.get_config('smoke')
  if name == 'cell_fate':  # one stage after the first, and one time step each
    del small.stages['c_robust']
    small.task.refinements = 1
  return small


def run(config, workdir, **kwargs) -> dict:
  """Trains to the end, from where the folder stands; its result."""
  run = build.build(config)
  if workdirs.find(workdir, config).status == 'nothing':
    workdirs.create(workdir, config, run.first.task.spec)
  state, first = saved.begin(config, run, workdir)
  return session.train_from(config, run, workdir, state, first, **kwargs)


def table(lines) -> dict[str, str]:
  """The numbers of the trained state in the first block of a judgement."""
  start = next(i for i, line in enumerate(lines) if 'untrained' in line) + 1
  block = itertools.takewhile(
    lambda line: re.match(r'  \w+ ', line), lines[start:]
  )
  return {line.split()[0]: line.split()[1] for line in block}


def read_json(path: pathlib.Path):
  return json.loads(path.read_text())


def read_rows(workdir) -> list[dict]:
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def final_state(workdir):
  """The final state, restored from the run's last checkpoint."""
  return saved.restore(workdir)[1]


def saved_steps(workdir) -> list[int]:
  """The updates whose checkpoints stayed."""
  return checkpoints.all_steps(workdir / 'checkpoints')


def bits(tree) -> list[bytes]:
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
