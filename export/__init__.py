"""PyTorch model → canonical graph: the exporter, clean-up passes (one per file), the parity
check."""

from export.exporter import export_graph
from export.parity import Parity, check_parity

__all__ = ["Parity", "check_parity", "export_graph"]
