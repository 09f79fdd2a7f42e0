"""Pages about runs, from what lies in their folders alone."""

from pretrain.report.page import write_report

__all__ = ["write_report"]
