"""Several plans of a network in one folder of C: each is its own integer model, and touches its own planes only."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from c_cases import STRICT, check_codes, random_codes
from torch import Tensor, nn

from nested_networks import nested
from sigmaquant.errors import ArtifactError, ExportError
from sigmaquant.export.c import CRunner, export_c, export_c_plans
from sigmaquant.lowering import lower
from sigmaquant.measurement import qemu

WIDTHS = ((8, 6, 4, 7, 5), (5, 6, 3, 7, 2), (3, 4, 2, 7, 2))


class Several(nn.Module):
    """Every kind of layer: ordinary, grouped, depthwise and pointwise convolutions, one vector and several."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.grouped = nn.Conv2d(12, 8, 3, groups=2, stride=2)
        self.last = nn.Linear(8 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.pointwise(torch.relu(self.depthwise(x))))
        return self.last(torch.relu(self.grouped(x)).flatten(1))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    network = Several().eval()
    with torch.no_grad():
        network.norm.weight[::2] *= -1  # codes that are flipped
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    models = {name: lower(found) for name, found in nested(network, images, WIDTHS).items()}
    folder = tmp_path_factory.mktemp("plans") / "net"
    return models, export_c_plans(models, folder, name="net")


@pytest.mark.parametrize("plan", range(3))
def test_every_plan_is_its_own_integer_model(made, plan):
    models, report = made
    model = list(models.values())[plan]
    runner = CRunner(report.folder, flags=("-std=c99", "-O1"), plan=plan)
    check_codes(runner, model, random_codes(model, 4))
    watched = runner.watch(*random_codes(model, 2))
    assert set(watched) <= set(model.edges)


def test_switching_there_and_back_needs_nothing_else(made, tmp_path):
    """The folder's own example runs every plan in turn and back, under strict flags, and with memory of its own."""
    _, report = made
    sources = [str(file) for file in report.folder.glob("*.c")]
    for number, flags in enumerate((("-DSQ_CHECK",), ("-DSQ_SEPARATE", "-fsanitize=address,undefined"))):
        program = tmp_path / f"run{number}"
        command = ["gcc", *STRICT, "-O1", *flags, "-I", str(report.folder), "-o", str(program), *sources]
        subprocess.run(command, check=True)
        done = subprocess.run([program], capture_output=True, text=True, check=True)
        assert done.stdout.count("as the reference") == 4
        assert "NOT" not in done.stdout


def test_codes_are_stored_once(made, tmp_path):
    models, report = made
    alone = export_c(next(iter(models.values())), tmp_path / "alone")
    rows = 8 + 2 + 12 + 8 + 5  # each row of each plane begins at a byte
    assert alone.weight_bytes <= report.weight_bytes <= alone.weight_bytes + 8 * rows
    assert report.arena_bytes == alone.arena_bytes
    read = [item.report.weight_bytes for item in report.plans]
    assert read[0] == report.weight_bytes
    assert read == sorted(read, reverse=True)
    assert read[2] < 0.7 * read[0]


def test_bad_folders(made, tmp_path):
    models, report = made
    with pytest.raises(ArtifactError, match="no plan 3"):
        CRunner(report.folder, plan=3)
    again = export_c_plans(models, shutil.copytree(report.folder, tmp_path / "net"), name="net")
    assert again.weight_bytes == report.weight_bytes
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ExportError, match="no earlier C export"):
        export_c_plans(models, tmp_path / "other")
    first, second, third = models
    with pytest.raises(ExportError, match="Order the plans"):
        export_c_plans({first: models[first], third: models[third], second: models[second]}, tmp_path / "wrong")
    layer = models[second].operators[0]
    other = replace(layer, codes=-layer.codes)
    flipped = replace(models[second], operators=(other, *models[second].operators[1:]))
    with pytest.raises(ExportError, match="another sign"):
        export_c_plans({first: models[first], second: flipped}, tmp_path / "wrong")


# -- under QEMU ------------------------------------------------------------------------------------------------------

TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")


@pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason=f"needs {' and '.join(TOOLS)}")
def test_planes_of_unused_plans_are_never_read(made, tmp_path):
    """On a Cortex-M4 the planes that the smaller plans do not use lie where there is no memory: a read of one faults.

    A larger plan does read them, and ends there.
    """
    _, report = made
    flash = planes_apart(2)
    build(report.folder, tmp_path, flash, 2)
    printed = run_board(tmp_path / "board.elf")
    assert printed.splitlines() == ["plan 2: as the reference", "as the reference"]
    build(report.folder, tmp_path, flash, 1)
    assert "as the reference" not in run_board(tmp_path / "board.elf", code=3)


def planes_apart(smallest: int) -> str:
    """The benchmark's linker script, with planes that only plans before `smallest` read beyond the end of memory."""
    script = qemu.LINKER_SCRIPT
    names = " ".join(f"*(.rodata.*_planes_{plan})" for plan in range(smallest))
    script = script.replace("} SECTIONS", "}\nSECTIONS").replace(
        "RAM (rwx)", "NOWHERE (r): ORIGIN = 0xA0000000, LENGTH = 4M  RAM (rwx)"
    )
    return script.replace("  .text :", f"  .nowhere (NOLOAD) : {{ {names} }} > NOWHERE\n  .text :") if names else script


def build(folder: Path, to: Path, script: str, plan: int) -> None:
    (to / "board.ld").write_text(script)
    (to / "startup.c").write_text(qemu.STARTUP)
    main = (folder / "main.c").read_text()
    main = main.replace("int main(int argc, char **argv)", "int board_main(void)")
    main = re.sub(r"const int32_t from = .*", f"const int32_t from = {plan};", main)
    (to / "main.c").write_text(main)
    sources = [str(file) for file in folder.glob("*.c") if file.name != "main.c"]
    flags = ["-mcpu=cortex-m4", "-mthumb", "-std=c99", "-O2", "-ffunction-sections", "-fdata-sections"]
    link = ["-nostartfiles", "--specs=rdimon.specs", "-Wl,--gc-sections", "-T", str(to / "board.ld")]
    subprocess.run(
        ["arm-none-eabi-gcc", *flags, "-I", str(folder), *link, "-o", str(to / "board.elf"), str(to / "main.c"),
         str(to / "startup.c"), *sources],
        check=True,
    )  # fmt: skip


def run_board(elf: Path, code: int = 0) -> str:
    command = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native"]
    done = subprocess.run([*command, "-kernel", str(elf)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done
    return done.stdout
