"""One self-contained HTML page about one or more runs, with its numbers beside it."""

from sigmaquant.report.gather import checkpoint_digest
from sigmaquant.report.layer_records import LayersDocument, describe_layers
from sigmaquant.report.write import refresh_report, write_report

__all__ = ["LayersDocument", "checkpoint_digest", "describe_layers", "refresh_report", "write_report"]
