"""One virtual environment for each peer, with the versions that were measured.

    python benchmarks/peers/environments.py                        # all of them, in .peers/
    python benchmarks/peers/environments.py --into DIR --peers mct,aimet --python python3.11

Every package is pinned in ``requirements/<peer>.txt`` and installed without its dependencies, since the list is whole.
PyTorch is meant to be the build without CUDA; where the default index has another, name one that has it with
``--index``. ``sigmaquant`` is this checkout, with its exporters: it also runs the plain uniform baseline.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS = {
    "mct": "model_compression_toolkit",
    "modelopt": "modelopt.torch.quantization",
    "aimet": "aimet_torch.mixed_precision",
    "sigmaquant": "sigmaquant",
}
STUBBED = ("mct", "aimet")  # they import torchvision, which does not import beside a CPU build of PyTorch


def commands(peer: str, python: Path, index: str | None) -> list[list[str]]:
    """What installs one peer's packages."""
    install = [str(python), "-m", "pip", "install", "--quiet"]
    if index:
        install += ["--extra-index-url", index]
    if peer == "sigmaquant":
        extras = f"{ROOT}[cifar10,onnx,litert]"
        return [[*install, "-c", str(ROOT / "constraints.txt"), "-e", extras]]
    return [[*install, "--no-deps", "-r", str(HERE / "requirements" / f"{peer}.txt")]]


def make(peer: str, folder: Path, interpreter: str, index: str | None) -> None:
    """Make one environment and import the peer in it.

    Raises:
        subprocess.CalledProcessError: something could not be installed, or the peer cannot be imported.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
    for command in commands(peer, python, index):
        subprocess.run(command, check=True)
    if peer in STUBBED:
        where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
        shutil.copytree(HERE / "stubs" / "torchvision", site / "torchvision", dirs_exist_ok=True)
    subprocess.run([str(python), "-c", f"import {PEERS[peer]}"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / ".peers")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--python", default=sys.executable, help="Python 3.11, for which the versions are pinned")
    parser.add_argument("--index", help="an extra package index with PyTorch's CPU build")
    args = parser.parse_args()
    for peer in args.peers.split(","):
        if peer not in PEERS:
            parser.error(f"there is no peer {peer!r}; there are {', '.join(PEERS)}")
        make(peer, args.into / peer, args.python, args.index)
        print(f"{peer}: {args.into / peer}", flush=True)


if __name__ == "__main__":
    main()
