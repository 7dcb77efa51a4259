"""Supervised fine-tuning on rewritten examples. This module exports the config classes and imports no torch.

- `config`       recipe, hardware and loggers, as a config names them
- `data`         token sequences -> packed batches in a seeded order
- `module`       the Lightning module: objective, AdamW, warm-up and cosine schedule
- `fit`          one training: trainer, checkpoints, resuming
- `loggers`      runs Lightning's loggers in a thread, so that none can stop a run
- `distributed`  coordinates the processes of a training on several devices
"""

from alttrain.training.config import (
    Csv,
    Hardware,
    LoggedRun,
    Mlflow,
    NoTraining,
    ResponseLoss,
    SafeKeyLoss,
    SupervisedFineTuning,
    TensorBoard,
    Wandb,
)

__all__ = [
    "Csv",
    "Hardware",
    "LoggedRun",
    "Mlflow",
    "NoTraining",
    "ResponseLoss",
    "SafeKeyLoss",
    "SupervisedFineTuning",
    "TensorBoard",
    "Wandb",
]
