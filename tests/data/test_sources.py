"""Sources: the same batches for the same seed, from whatever the user has, without touching anybody's randomness."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

from sigmaquant.data import DatasetSource, DataSource, StreamSource, TensorSource, as_source, split
from sigmaquant.data.indexed import bounds
from sigmaquant.errors import DataError

X = torch.arange(40.0).reshape(20, 2)
Y = torch.arange(20)


class Numbers(Dataset):
    """Example i is i with noise from every global generator, as a random transform would draw it."""

    def __init__(self, noise: bool = False) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int):
        extra = torch.rand(1).item() + random.random() + float(np.random.rand()) if self.noise else 0.0
        return torch.tensor([index + extra, 1.0]), index


class Batches:
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, 20, 8):
            yield X[start : start + 8], Y[start : start + 8]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


FORMS = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.double().numpy(), Y.numpy().astype(np.uint8)),
    "list pair": lambda: [X, Y],
    "tensor dataset": lambda: TensorDataset(X, Y),
    "dataset": lambda: Numbers(),
    "noisy dataset": lambda: Numbers(noise=True),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=8),
    "shuffling loader": lambda: DataLoader(Numbers(noise=True), batch_size=8, shuffle=True),
    "own generator": lambda: DataLoader(Numbers(), batch_size=8, shuffle=True, generator=torch.Generator()),
    "dropping loader": lambda: DataLoader(Numbers(), batch_size=8, drop_last=True),
    "iterable dataset": lambda: Stream(),
    "list of batches": lambda: list(Batches()),
    "re-iterable": lambda: Batches(),
}


def collect(source: DataSource, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(source.batches(**options))
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([targets for _, targets in batches])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_its_examples_repeatably(form: str) -> None:
    source = as_source(FORMS[form](), batch_size=8, name="training data")
    for options in ({"shuffle": False, "seed": 0}, {"shuffle": True, "seed": 3}):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        inputs, targets = collect(source, **options)
        after = torch.rand(1).item(), random.random(), float(np.random.rand())
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        assert after == (torch.rand(1).item(), random.random(), float(np.random.rand())), (
            "global randomness was touched"
        )
        again, _ = collect(source, **options)
        assert torch.equal(inputs, again)
        assert inputs.dtype == torch.float32
        assert targets.dtype == torch.int64
        assert set(targets.tolist()) == set(range(16 if form == "dropping loader" else 20))
        factor = 2 if inputs[:, 1].gt(1).any() else 1  # X has 2 i in its first column, `Numbers` i and noise below 3
        assert ((inputs[:, 0] - factor * targets).abs() <= 3).all(), "inputs and targets went apart"
    example = source.example()
    assert isinstance(example, torch.Tensor)
    assert example.shape == (8, 2)


@pytest.mark.parametrize("form", ["tensors", "dataset", "noisy dataset", "shuffling loader", "own generator"])
def test_seeds_decide_the_order(form: str) -> None:
    source = as_source(FORMS[form](), batch_size=8)
    orders = {tuple(collect(source, shuffle=True, seed=seed)[1].tolist()) for seed in range(5)}
    assert len(orders) == 5


def test_training_between_batches_does_not_change_the_data() -> None:
    source = as_source(Numbers(noise=True), batch_size=8)
    quiet = [inputs for inputs, _ in source.batches(True, 5)]
    busy = []
    for inputs, _ in source.batches(True, 5):
        torch.rand(7)
        random.random()
        np.random.rand(3)
        busy.append(inputs)
    assert all(torch.equal(a, b) for a, b in zip(quiet, busy, strict=True))


def test_two_passes_at_once() -> None:
    source = as_source(DataLoader(Numbers(noise=True), batch_size=8, shuffle=True))
    alone = [inputs for inputs, _ in source.batches(True, 5)]
    first, second = source.batches(True, 5), source.batches(True, 5)
    for expected, (a, _), (b, _) in zip(alone, first, second, strict=True):
        assert torch.equal(expected, a)
        assert torch.equal(expected, b)


def test_the_users_generator_is_put_back() -> None:
    generator = torch.Generator().manual_seed(42)
    before = generator.get_state()
    source = as_source(DataLoader(Numbers(), batch_size=8, shuffle=True, generator=generator))
    collect(source, shuffle=True, seed=1)
    assert torch.equal(generator.get_state(), before)


def test_worker_processes_follow_the_seed() -> None:
    source = as_source(DataLoader(Numbers(noise=True), batch_size=8, shuffle=True, num_workers=1))
    a, b = collect(source, shuffle=True, seed=1), collect(source, shuffle=True, seed=1)
    assert torch.equal(a[0], b[0])


@pytest.mark.parametrize(
    ("form", "examples", "batches"),
    [
        ("tensors", 20, 3),
        ("dataset", 20, 3),
        ("loader", 20, 3),
        ("dropping loader", 16, 2),
        ("list of batches", 20, 3),
        ("re-iterable", None, None),
    ],
)
def test_sizes(form: str, examples: int | None, batches: int | None) -> None:
    source = as_source(FORMS[form](), batch_size=8)
    assert (source.examples, source.batch_count) == (examples, batches)
    if batches is None:
        assert source
        with pytest.raises(TypeError, match="does not know its number of batches"):
            len(source)
    else:
        assert len(source) == batches == len(list(source.batches()))


@given(examples=st.integers(1, 200), batch_size=st.integers(1, 50))
def test_bounds_cover_everything_without_a_lone_example(examples: int, batch_size: int) -> None:
    parts = bounds(examples, batch_size)
    assert [index for start, end in parts for index in range(start, end)] == list(range(examples))
    sizes = [end - start for start, end in parts]
    assert max(sizes) <= batch_size + 1
    assert 1 not in sizes or batch_size == 1 or examples == 1


@pytest.mark.parametrize("form", FORMS)
def test_take(form: str) -> None:
    source = as_source(FORMS[form](), batch_size=8)
    part = source.take(11)
    assert part.examples == 11
    targets = collect(part)[1]
    assert len(targets) == 11
    assert torch.equal(targets, collect(source)[1][:11])
    assert source.take(1000).examples == (16 if form == "dropping loader" else 20)
    for bad in (0, -1, True, 2.5):
        with pytest.raises(DataError, match=f"{bad!r} examples of the data were asked for"):
            source.take(bad)  # type: ignore[arg-type]


def test_several_inputs() -> None:
    pair = ((X, X.double().numpy()), Y)
    source = as_source(pair, batch_size=8)
    inputs, _ = next(source.batches())
    assert isinstance(inputs, tuple)
    assert [item.shape for item in inputs] == [(8, 2), (8, 2)]
    taken = source.take(3).example()
    assert isinstance(taken, tuple)
    batches = as_source([((X[:3], X[:3]), Y[:3]), ((X[3:5], X[3:5]), Y[3:5])])
    assert isinstance(batches, StreamSource)
    assert isinstance(batches.take(4).example(), tuple)
    assert batches.take(4).examples == 4


def test_a_list_of_two_batches_is_no_pair() -> None:
    source = as_source([(X[:3], Y[:3]), (X[3:8], Y[3:8])])
    assert source.batch_count == 2
    assert source.examples == 8


def test_augment_only_when_shuffling_and_transform_always() -> None:
    seen: list[torch.Generator] = []

    def augment(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(generator)
        return inputs + torch.rand(len(inputs), 1, generator=generator)

    source = as_source((X, Y), batch_size=8, augment=augment, transform=lambda inputs: inputs * 2)
    assert torch.equal(collect(source)[0], X * 2)
    assert not seen
    a, b = collect(source, shuffle=True, seed=1), collect(source, shuffle=True, seed=1)
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[0], 2 * X[a[1]])
    assert torch.equal(a[1], collect(as_source((X, Y), batch_size=8), shuffle=True, seed=1)[1])
    assert not torch.equal(a[0].sort(0).values, collect(source, shuffle=True, seed=2)[0].sort(0).values)


def test_uint8_images_with_a_transform() -> None:
    images = torch.arange(20 * 3, dtype=torch.uint8).reshape(20, 3)
    with pytest.raises(DataError, match=r"the inputs are uint8, which layers do not take.*/ 255 - mean"):
        as_source((images, Y))
    source = as_source((images, Y), transform=lambda inputs: inputs.float() / 255)
    assert source.example().dtype == torch.float32  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_inputs_come_as_float32(kind: torch.dtype) -> None:
    tokens = torch.arange(20).reshape(20, 1)
    inputs = as_source(((X.to(kind), tokens), Y)).example()
    assert [x.dtype for x in inputs] == [torch.float32, torch.int64]
    assert torch.equal(inputs[0], X.to(kind).float())
    assert as_source((X, Y), transform=lambda inputs: inputs.to(kind)).example().dtype == torch.float32  # type: ignore


def test_a_source_is_given_back() -> None:
    source = as_source((X, Y), batch_size=8, name="a")
    assert as_source(source).name == "a"
    named = as_source(source, name="validation data", batch_size=3)
    assert (named.name, named.batch_size, source.name) == ("validation data", 8, "a")
    assert isinstance(as_source(source), TensorSource)
    assert as_source(source, transform=torch.neg).transform is torch.neg
    assert source.transform is None


def test_tensors_of_a_pair_are_not_copied() -> None:
    source = as_source((X, Y))
    assert isinstance(source, TensorSource)
    assert isinstance(source.inputs, torch.Tensor)
    assert source.inputs.data_ptr() == X.data_ptr()


def test_data_may_lie_on_a_gpu() -> None:
    with FakeTensorMode():  # tensors without memory, on a device that need not be there; mixed devices are refused
        inputs, targets = torch.empty(20, 2, device="cuda"), torch.zeros(20, dtype=torch.int64, device="cuda")
        for source in (TensorSource(inputs, targets, batch_size=8), TensorSource((inputs, inputs), targets)):
            part = source.select(torch.arange(5))
            batches = [*source._batches(True, 0), *part._batches(False, 0)]
            tensors = [tensor for x, y in batches for tensor in (*(x if isinstance(x, tuple) else (x,)), y)]
            assert {tensor.device.type for tensor in tensors} == {"cuda"}


# --- splitting


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 19), seed=st.integers(0, 2**40))
def test_split_is_a_partition(size: int, seed: int) -> None:
    for data in ((X, Y), Numbers()):
        source = as_source(data, batch_size=8, name="training data")
        train, validation = split(source, size=size, seed=seed)
        assert (train.examples, validation.examples) == (20 - size, size)
        a, b = collect(train)[1].tolist(), collect(validation)[1].tolist()
        assert sorted(a + b) == list(range(20))
        assert b == sorted(b)
        again = split(source, fraction=size / 20, seed=seed)[1]
        assert collect(again)[1].tolist() == b
        assert (train.name, validation.name) == ("training data", "validation data")


def test_split_seeds_differ() -> None:
    source = as_source((X, Y))
    assert len({tuple(collect(split(source, size=5, seed=seed)[1])[1].tolist()) for seed in range(5)}) == 5
    assert split(source)[1].examples == 2


def test_a_split_of_a_split() -> None:
    source = as_source(Numbers())
    train, test = split(source, size=5)
    train, validation = split(train, size=5)
    parts = [collect(part)[1].tolist() for part in (train, validation, test)]
    assert sorted(number for part in parts for number in part) == list(range(20))


def pairs(examples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([inputs for inputs, _ in examples]), torch.tensor([target for _, target in examples])


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_split_loader_loads_as_before(shuffle: bool) -> None:
    options = {"batch_size": 4, "collate_fn": pairs, "num_workers": 1, "drop_last": True, "prefetch_factor": 3}
    loader = DataLoader(Numbers(), shuffle=shuffle, generator=torch.Generator(), **options)  # type: ignore[arg-type]
    train, validation = split(as_source(loader, name="training data"), size=5, seed=1)
    assert (train.examples, validation.examples) == (12, 5), "the last batch is dropped from the training part only"
    held, again = collect(validation)[1].tolist(), split(as_source(loader), size=5, seed=1)[1]
    assert collect(again)[1].tolist() == collect(validation, shuffle=True, seed=7)[1].tolist() == held
    assert held != sorted(held), "of sorted data the first examples would be of one class"
    orders = [collect(train, shuffle=True, seed=seed)[1].tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert (orders[1] != orders[2]) == shuffle
    assert not {*held} & {*orders[0], *orders[2]}
    assert len(next(train.batches())[1]) == train.batch_size == validation.batch_size == 4
    assert (train.name, validation.name) == ("training data", "validation data")
    for part in (train, validation):
        assert isinstance(part, StreamSource)
        assert {name: getattr(part.iterable, name) for name in options} == {
            **options,
            "drop_last": part is train,
        }
        assert part.iterable.generator is loader.generator


def test_a_list_is_split_between_batches() -> None:
    batches = [(X[start : start + 3], Y[start : start + 3]) for start in range(0, 20, 3)]
    train, validation = split(as_source(batches, name="training data"), size=4)
    assert (train.examples, validation.examples) in ((14, 6), (15, 5))
    whole = [targets.tolist() for _, targets in batches]
    parts = [[targets.tolist() for _, targets in part.batches()] for part in (train, validation)]
    assert sorted(parts[0] + parts[1]) == whole
    assert len(parts[1]) == 2
    assert collect(split(as_source(batches), size=4)[1])[1].tolist() == [*parts[1][0], *parts[1][1]]
    found = {tuple(collect(split(as_source(batches), size=4, seed=seed)[1])[1].tolist()) for seed in range(5)}
    assert len(found) > 2
    with pytest.raises(DataError, match="or one batch of a list of batches"):
        split(as_source(batches[:1]))


class Weighing(DataLoader):
    pass


SAMPLER = WeightedRandomSampler([1.0] * 20, 20)
UNDIVIDED = {
    "re-iterable": (Batches(), "a Batches has no numbered examples"),
    "iterable dataset": (Stream(), "a stream of examples, as of the Stream, has no numbers"),
    "loader of a stream": (DataLoader(Stream(), batch_size=4), "a stream of examples, as of the Stream"),
    "subclass": (Weighing(Numbers()), "what the Weighing does besides"),
    "no batch size": (DataLoader(TensorDataset(X[None], Y[None]), batch_size=None), "leaves it to others"),
    "own batches": (DataLoader(Numbers(), batch_sampler=[[0, 1], [2, 3]]), "leaves it to others"),
    "own sampler": (DataLoader(Numbers(), sampler=SAMPLER), "WeightedRandomSampler decides which"),
    "replacement": (DataLoader(Numbers(), sampler=RandomSampler(Numbers(), replacement=True)), "RandomSampler decides"),
}


@pytest.mark.parametrize("case", UNDIVIDED)
def test_data_without_numbers_cannot_be_split(case: str) -> None:
    data, reason = UNDIVIDED[case]
    with pytest.raises(DataError, match=f"the training data cannot be split, because.*{reason}.*give the validation"):
        split(as_source(data, name="training data"))


def test_what_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"3 examples of the data make no batch of 8"):
        split(as_source(DataLoader(Numbers(), batch_size=8, drop_last=True)), size=17)
    source = as_source((X, Y))
    for options in (
        {"size": 0},
        {"size": 20},
        {"size": 30},
        {"fraction": 0.001},
        {"fraction": 1.0},
        {"fraction": -1.0},
    ):
        with pytest.raises(DataError, match="leaves one part without any"):
            split(source, **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="Give one of the two"):
        split(source, fraction=0.5, size=3)


def test_dataset_source_reads_only_what_it_needs() -> None:
    read: list[int] = []

    class Counting(Numbers):
        def __getitem__(self, index: int):
            read.append(index)
            return super().__getitem__(index)

    source = DatasetSource(Counting(), batch_size=4)
    source.take(3).example()
    assert read == [0, 1, 2]
