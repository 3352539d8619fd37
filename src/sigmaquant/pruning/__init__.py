"""Channels that are removed together with bitwidths: groups of dependent channels, what removing costs, the choice."""
