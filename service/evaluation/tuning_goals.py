"""What is tuned for, and when a bad trial ends: the choices of the command line, which is to start without Optuna."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Objective", "Pruner"]


class Objective(StrEnum):
    """What is tuned for."""

    LOG_LOSS = "log_loss"
    AUC = "auc"
    GAUC = "gauc"
    HIT_RATE = "hit_rate"
    NDCG = "ndcg"
    REWARD = "reward"
    OFF_POLICY = "off_policy"
    CPU = "cpu"


class Pruner(StrEnum):
    """When a trial is stopped at a checkpoint: it is worse than the median, or not in the better half of a rung, or never."""

    MEDIAN = "median"
    HALVING = "halving"
    NONE = "none"
