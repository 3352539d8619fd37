"""The code compiles everywhere without a warning, computes with integers alone, and runs on a Cortex-M."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from c_cases import STRICT, mixed_model

from sigmaquant.export.c import CReport, export_c
from sigmaquant.measurement import qemu

CORTEX = {"cortex-m4": "with DSP instructions", "cortex-m0": "without"}


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> CReport:
    return export_c(mixed_model(), tmp_path_factory.mktemp("build") / "mixed", name="mixed")


def compile_all(report: CReport, build: Path, compiler: str, *flags: str, skip: tuple[str, ...] = ()) -> None:
    sources = [str(path) for path in sorted(report.folder.glob("*.c")) if path.name not in skip]
    done = subprocess.run([compiler, *flags, "-c", *sources], cwd=build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warnings(report, compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    compile_all(report, tmp_path, compiler, *STRICT, "-O2")
    compile_all(report, tmp_path, compiler, *STRICT, "-O0", "-DSQ_SEPARATE", "-DSQ_CHECK", "-DSQ_STDIN")


@pytest.mark.parametrize("core", CORTEX)
def test_no_warnings_for_microcontrollers(report, core, tmp_path):
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("needs arm-none-eabi-gcc")
    compile_all(report, tmp_path, "arm-none-eabi-gcc", *STRICT, "-O2", f"-mcpu={core}", "-mthumb")


def test_a_warning_would_fail(report, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(report.folder, bad)
    (bad / "sq_move.c").write_text("int narrow(long x); int narrow(long x) { return x; }\n")
    with pytest.raises(AssertionError, match="conversion"):
        compile_all(CReport(**{**vars(report), "folder": bad}), tmp_path, "gcc", *STRICT)


def test_the_network_needs_no_floating_point_and_nothing_of_the_library_but_copying(report, tmp_path):
    compile_all(report, tmp_path, "gcc", "-std=c99", "-O2", "-mgeneral-regs-only", skip=("sq_float.c", "main.c"))
    symbols = subprocess.run(
        ["nm", "-u", "-A", *sorted(map(str, tmp_path.glob("*.o")))], capture_output=True, text=True, check=True
    ).stdout
    undefined = {line.split()[-1] for line in symbols.splitlines() if line.strip()}
    foreign = {name for name in undefined if not name.startswith(("sq_", "mixed_", "_GLOBAL_OFFSET_TABLE_"))}
    assert foreign - {"__stack_chk_fail"} == {"memcpy", "memset"}


FLOATS = ("sq_float.c", "sq_ending.c")


@pytest.mark.parametrize("optimization", ["-O0", "-O2"])
def test_all_kernels_compile_without_warnings_and_floats(optimization, tmp_path):
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        pytest.skip("needs gcc and nm")
    with resources.as_file(resources.files("sigmaquant.export.c").joinpath("kernels")) as folder:
        sources = sorted(folder.glob("*.c"))
        for name in FLOATS:
            subprocess.run(["gcc", *STRICT, optimization, "-c", str(folder / name)], cwd=tmp_path, check=True)
            (tmp_path / name).with_suffix(".o").unlink()
        integers = [str(path) for path in sources if path.name not in FLOATS]
        flags = [*STRICT, optimization, "-mgeneral-regs-only"]
        subprocess.run(["gcc", *flags, "-c", *integers], cwd=tmp_path, check=True)
    names = subprocess.run(
        ["nm", "-u", *sorted(map(str, tmp_path.glob("*.o")))], capture_output=True, text=True, check=True
    ).stdout
    undefined = {line.split()[-1] for line in names.splitlines() if line.startswith(" ")}
    foreign = {name for name in undefined if not name.startswith(("sq_", "_GLOBAL_OFFSET_TABLE_"))}
    assert foreign - {"__stack_chk_fail"} == {"memcpy", "memset"}


def test_the_makefile_builds_and_checks_the_example(report, tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    copy = shutil.copytree(report.folder, tmp_path / "copy")
    done = subprocess.run(["make", "CC=gcc"], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "as the reference" in done.stdout.splitlines()  # a make around the tests adds lines of its own
    assert (copy / "libmixed.a").is_file()
    weights = copy / "mixed_weights.c"
    head, tail = weights.read_text().split("_bias[", 1)
    value, rest = tail.split("{\n    ", 1)[1].split(",", 1)
    weights.write_text(f"{head}_bias[{tail.split('{', 1)[0]}{{\n    {int(value) + 5000},{rest}")
    wrong = subprocess.run(["make", "CC=gcc"], cwd=copy, capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
    assert "NOT as the reference" in wrong.stdout


@pytest.fixture(scope="module")
def benchmark_module():
    path = Path(__file__).parents[3] / "benchmarks" / "mcu.py"
    if not path.is_file():
        pytest.skip("needs the repository's benchmarks")
    specification = importlib.util.spec_from_file_location("mcu_benchmark", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules["mcu_benchmark"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["mcu_benchmark"]


@pytest.mark.parametrize("core", ["m4", "m7"])
def test_a_cortex_m_computes_the_same(report, benchmark_module, core):
    missing = qemu.missing_tools()
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    counted = qemu.kernel_instructions(qemu.BOARDS[core], report.folder, report.name)
    assert {name for name, _ in counted} >= {"sq_conv", "sq_depthwise", "sq_add", "sq_multiply", "sq_rescale"}
    instructions = sum(n for name, n in counted if name == "sq_conv")
    macs = sum(layer.macs for layer in report.layers if layer.kernel == "sq_conv")
    assert 0.8 < instructions / macs < 12


@pytest.mark.parametrize(
    ("shape", "most"),
    [((16, 3, 3, 32, 1), 1.7), ((32, 32, 3, 16, 1), 1.4), ((64, 32, 1, 16, 1), 1.7), ((32, 32, 3, 16, 32), 3.3)],
    ids=["first layer", "conv 3x3", "pointwise", "depthwise 3x3"],
)
def test_instructions_for_each_multiplication(benchmark_module, shape, most, tmp_path):
    missing = qemu.missing_tools()
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    for bits in (3, 8):
        report = export_c(benchmark_module.layer_model(*shape, bits), tmp_path / str(bits), name="layer")
        counts = dict(qemu.kernel_instructions(qemu.BOARDS["m4"], report.folder, report.name))
        assert counts[report.layers[0].kernel] / report.layers[0].macs <= most


def test_the_benchmark_says_what_is_missing(benchmark_module, monkeypatch, capsys):
    monkeypatch.setattr(qemu.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["mcu.py"])
    assert benchmark_module.main() == 2
    assert "apt-get install gcc-arm-none-eabi" in capsys.readouterr().err
