"""One self-contained HTML page about one or more runs, with its numbers beside it."""

from sigmaquant.report.layers import LayersDocument, describe_layers
from sigmaquant.report.write import write_report

__all__ = ["LayersDocument", "describe_layers", "write_report"]
