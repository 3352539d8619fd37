"""A hardware profile that is made up, for tests."""

from __future__ import annotations

DOCUMENT = {
    "schema_version": 1,
    "name": "toy",
    "description": "for tests",
    "compute": {
        "clock_mhz": 100.0,
        "parallel_macs": 4,
        "table": [
            {"w_bits": 2, "a_bits": 8, "cycles_per_mac": 1.0, "energy_per_mac_fj": 10.0},
            {"w_bits": 8, "a_bits": 8, "cycles_per_mac": 4.0, "energy_per_mac_fj": 40.0},
        ],
    },
    "method": {"date": "2026-01-02", "command": "made up"},
}
