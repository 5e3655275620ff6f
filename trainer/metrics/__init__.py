"""AUC, GAUC, log loss, calibration and RelaImpr, each exact and without a Python loop over rows or users."""

from trainer.metrics.ranking import GroupedAUC, auc, gauc, rela_impr
from trainer.metrics.scoring import calibration, log_loss

__all__ = ["GroupedAUC", "auc", "calibration", "gauc", "log_loss", "rela_impr"]
