"""AUC, GAUC, log loss, calibration and RelaImpr, each exact and without a Python loop over rows or users."""

from crossmedia.trainer.metrics.ranking import GroupedAUC, auc, gauc, rela_impr
from crossmedia.trainer.metrics.scoring import base_log_loss, calibration, log_loss

__all__ = ["GroupedAUC", "auc", "base_log_loss", "calibration", "gauc", "log_loss", "rela_impr"]
