"""The comparison with peers: its table, its count of lines, and that its data are SigmaQuant's."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from sigmaquant.data import CropAndFlip, Normalize, TensorSource, split

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
MODULES = ("lines", "table", "common", "training")


@pytest.fixture(scope="module")
def peers():
    """The programs' shared modules by name; afterwards they are gone, for their names are common."""
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    sys.path.insert(0, str(PEERS))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(PEERS))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def row(**changes):
    base = {
        "peer": "mct",
        "stage": "post-training",
        "size": 8.0,
        "seed": 0,
        "epochs": 0,
        "lr": 0,
        "test_top1": 0.9,
        "weight_bytes": 134144.0,
        "plan": {"conv1": 4},
        "files": {"model.pt": 1024 * 1152},
        "search_cpu_s": 60.2,
        "training_cpu_s": 0.0,
        "cpu_s": 60.2,
        "peak_memory_mib": 700.0,
        "memory_before_mib": 500.0,
        "user_lines": 25,
        "versions": {"torch": "2.13.0", "model-compression-toolkit": "2.6.1"},
        "date": "2026-11-21",
    }
    return {**base, **changes}


class TestLines:
    def test_code_alone_counts(self, peers):
        source = '''
before = 1
# user code: begin
import a  # with a comment

def f(x):
    """A docstring
    of two lines."""
    # a comment
    return g(
        x,
    )
text = """a value
of two lines"""
# user code: end
after = 1
'''
        assert peers["lines"].marked(source) == 7

    def test_blocks_of_one_stage(self, peers):
        both = "# user code: begin\na = 1\n# user code: end\n"
        source = both + "# user code: begin (trained)\nb = 1\nc = 1\n# user code: end\n"
        assert peers["lines"].marked(source, "post-training") == 1
        assert peers["lines"].marked(source, "trained") == 3

    @pytest.mark.parametrize(
        "source", ["a = 1", "# user code: begin\na = 1", "# user code: end", "# user code: begin\n# user code: begin"]
    )
    def test_markers_must_match(self, peers, source):
        with pytest.raises(ValueError, match="user code"):
            peers["lines"].marked(source)

    @pytest.mark.parametrize("program", ["mct", "nvidia_modelopt", "aimet", "uniform", "ours"])
    def test_every_program_is_marked(self, peers, program):
        path = PEERS / f"{program}.py"
        after, trained = (peers["lines"].user_lines(path, stage) for stage in ("post-training", "trained"))
        assert after > 5
        loop = peers["lines"].marked((PEERS / "training.py").read_text())
        assert (trained - after >= loop - 10) == (program != "ours")  # the others need a loop of the user's own


class TestTable:
    def test_a_line_for_each_group(self, peers):
        rows = [row(), row(seed=1, test_top1=0.91), row(peer="sigmaquant", stage="trained", epochs=1.7)]
        lines = peers["table"].table(rows).splitlines()
        assert len(lines) == 2 + 2
        assert "| 90.50 (90.00..91.00) | 131.0 | 1152.0 pt | 60 | 700 (200) | 25 |" in lines[2]

    def test_files_from_small_to_large(self, peers):
        files = {"model.onnx": 4096, "packed.safetensors": 1024, "data/part.onnx": 1024}
        assert "| 1.0 safetensors, 5.0 onnx |" in peers["table"].table([row(files=files)])

    def test_no_file_is_said(self, peers):
        assert "| none |" in peers["table"].table([row(files={})])

    def test_search_and_training_apart(self, peers):
        assert "| 60 + 400 |" in peers["table"].table([row(training_cpu_s=400.0)])

    def test_summary_has_sizes_across(self, peers):
        rows = [row(), row(size=16.0, test_top1=0.5), row(peer="uniform", size=16.0)]
        lines = peers["table"].summary(rows).splitlines()
        assert lines[0] == "| top-1 % | | 8× | 16× |"
        assert lines[2:] == [
            "| post-training | model-compression-toolkit | 90.00 | 50.00 |",
            "| post-training | uniform, plain PyTorch | – | 90.00 |",
        ]

    def test_shorter_trainings_are_not_shown(self, peers):
        rows = [row(), row(stage="trained", epochs=0.05), row(stage="trained", epochs=1.7)]
        assert [r["epochs"] for r in peers["table"].chosen(rows, 1.7)] == [0, 1.7]

    def test_validation_chooses_the_learning_rate(self, peers):
        trained = {"stage": "trained", "epochs": 1.7}
        rows = [
            row(),
            row(**trained, lr=0.03, test_top1=0.99),  # not validated
            row(**trained, lr=0.01, validation_top1=0.5, test_top1=0.98),
            row(**trained, lr=0.003, validation_top1=0.6, test_top1=0.7),
            row(**trained, lr=0.003, validation_top1=0.6, test_top1=0.8, seed=1),
            row(**trained, lr=0.03, peer="modelopt"),
        ]
        found = [(r["peer"], r["lr"], r["test_top1"]) for r in peers["table"].chosen(rows, 1.7)]
        assert found == [("mct", 0, 0.9), ("mct", 0.003, 0.7), ("mct", 0.003, 0.8), ("modelopt", 0.03, 0.9)]

    def test_provenance(self, peers):
        text = peers["table"].provenance([row(), row(date="2026-11-22", seed=2)])
        assert text == ("Measured 2026-11-21 to 2026-11-22; model-compression-toolkit 2.6.1, torch 2.13.0; seeds 0, 2.")

    def test_adopted_rows(self, peers):
        cifar = {
            "network": "resnet20",
            "mode": "trained",
            "strategy": "sigma",
            "size": 8.0,
            "seed": 0,
            "epochs": 1.7,
            "settings": '{"lr": 0.03}',
            "bf16": False,
            "test_top1": 0.914,
            "weight_bytes": 134000,
            "weights": {"conv1": 4},
            "cpu_s": 740.0,
            "wall_s": 900.0,
            "threads": 2,
            "sigmaquant": "0.1.0",
            "torch": "2.13.0",
        }
        own = row(peer="sigmaquant", files={"model.onnx": 5})
        others = [{**cifar, "mode": "post-training"}, {**cifar, "settings": "{}"}, {**cifar, "strategy": "greedy"}]
        others.append({**cifar, "bf16": True, "test_top1": 0.9})
        (found,) = peers["table"].adopted([cifar, *others], [own], "2026-11-21")
        assert (found["peer"], found["stage"], found["test_top1"]) == ("sigmaquant", "trained", 0.914)
        assert found["files"] == {"model.onnx": 5}
        assert peers["table"].adopted([cifar], [own, found], "2026-11-21") == []
        assert "| 740 |" in peers["table"].table([found])


class TestShared:
    def test_the_same_split_as_sigmaquants(self, peers):
        source = TensorSource(torch.arange(100.0)[:, None], torch.arange(100))
        train, validation = split(source, size=7, seed=0)
        chosen, held_out = peers["common"].split(100, 7)
        assert torch.equal(train.targets, chosen)
        assert torch.equal(validation.targets, held_out)

    def test_the_same_images_as_sigmaquants(self, peers):
        pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        ours = CropAndFlip()(pixels, torch.Generator().manual_seed(2))
        assert torch.equal(peers["training"].augmented(pixels, torch.Generator().manual_seed(2)), ours)
        common = peers["common"]
        assert torch.allclose(common.normalised(ours), Normalize(common.MEAN, common.STD)(ours), atol=1e-6)

    def test_examples_of_a_training(self, peers):
        images = peers["common"].Images(torch.zeros(300, 3, 32, 32, dtype=torch.uint8), torch.zeros(300).long())
        sizes = [len(batch) for batch in peers["training"].batches(images, 500, seed=0)]
        assert sizes == [128, 128, 128, 116]

    def test_training_moves_towards_the_teacher(self, peers):
        torch.manual_seed(0)
        pixels = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8)
        images = peers["common"].Images(pixels, torch.zeros(256).long())
        teacher, student = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 4)) for _ in range(2))
        inputs = peers["common"].normalised(pixels)
        before = (teacher(inputs) - student(inputs)).square().mean()
        assert peers["training"].train(student, teacher, images, 4, seed=0, lr=0.01) > 0
        assert (teacher(inputs) - student(inputs)).square().mean() < before

    def test_packed_bytes(self, peers):
        assert peers["common"].packed_bytes({"a": 3, "b": 8}, {"a": 16, "b": 2}) == 8
        with pytest.raises(ValueError, match="different layers"):
            peers["common"].packed_bytes({"a": 3}, {"a": 16, "b": 2})

    def test_uniform_widths_fit(self, peers):
        counts = {"a": 100}
        for size in (8, 32 / 3, 12.8, 16):
            bits = int(32 / size)
            assert peers["common"].packed_bytes({"a": bits}, counts) <= 400 / size + 1e-9
