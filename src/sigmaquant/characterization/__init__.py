"""From a cell library to the figures of a hardware profile: synthesis, timing, gate-level simulation, energy.

The arrows go one way: `liberty_text` -> `liberty` -> `netlist` -> `timing` -> `functional`, `waveforms` -> `testbench`
-> `power` -> `flow`. Nothing here is needed to use a profile.
"""

from sigmaquant.characterization.flow import characterize
from sigmaquant.characterization.mac_units import MAC_UNITS
from sigmaquant.characterization.memory import memory_energy
from sigmaquant.characterization.stimuli import LayerSample

__all__ = ["MAC_UNITS", "LayerSample", "characterize", "memory_energy"]
