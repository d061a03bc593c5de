# SPDX-License-Identifier: Apache-2.0
"""The training loop, and what a run keeps: checkpoints and metrics."""

from bionet_learners.training.checkpoints import (
  load_checkpoint,
  save_checkpoint,
)
from bionet_learners.training.loop import train_loop
from bionet_learners.training.metrics import (
  Metrics,
  average_metrics,
  format_metrics,
)
from bionet_learners.training.state import TrainState
from bionet_learners.training.stopping import EarlyStopping

__all__ = [
  'EarlyStopping',
  'Metrics',
  'TrainState',
  'average_metrics',
  'format_metrics',
  'load_checkpoint',
  'save_checkpoint',
  'train_loop',
]
