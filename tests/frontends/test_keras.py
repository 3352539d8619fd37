"""Keras files as modules: networks built and saved here, MLPerf Tiny's own files, what is refused."""

from __future__ import annotations

import importlib.util
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sigmaquant import load_model, trace
from sigmaquant.errors import MissingExtraError, ModelFileError

if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="needs the extra keras")
layers = keras.layers


def images(shape: tuple[int, ...] = (16, 16, 3)) -> Any:
    return keras.Input(shape)


def functional(inputs: Any, outputs: Any) -> Any:
    return keras.Model(inputs, outputs)


def residual() -> Any:
    x = images()
    y = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    z = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(y))
    z = layers.Add()([layers.ReLU(6.0)(z), layers.Conv2D(8, 1, strides=2)(y)])
    return functional(x, layers.Dense(5, activation="softmax")(layers.Flatten()(z)))


def mobile() -> Any:
    return keras.Sequential(
        [
            images((15, 15, 3)), layers.Rescaling(1 / 127.5, offset=-1.0), layers.ZeroPadding2D(((0, 1), (0, 1))),
            layers.Conv2D(8, 3, strides=2), layers.BatchNormalization(), layers.Activation("hard_swish"),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), layers.LeakyReLU(),
            layers.SeparableConv2D(6, 3, padding="same"), layers.GlobalAveragePooling2D(), layers.Reshape((1, 1, 6)),
            layers.Dropout(0.1), layers.Conv2D(4, 1), layers.Reshape((4,)), layers.Softmax(),
        ]
    )  # fmt: skip


def squeeze_and_excite() -> Any:
    x = images()
    y = layers.Conv2D(8, 3, activation="silu")(x)
    s = layers.GlobalAveragePooling2D(keepdims=True)(y)
    s = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(2, 1, activation="relu")(s))
    y = layers.Multiply()([y, s])
    y = layers.Concatenate()([y, layers.MaxPooling2D(3, 1, "same")(y), layers.AveragePooling2D(3, 1, "same")(y)])
    return functional(x, layers.GlobalMaxPooling2D()(y))


def segmenter() -> Any:
    x = images()
    wide = layers.Conv2D(4, 3, padding="same", activation="elu")(x)
    deep = layers.Conv2D(8, 3, strides=2, padding="same", activation="gelu")(wide)
    up = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(deep)
    smooth = layers.UpSampling2D(2, interpolation="bilinear")(deep)
    joined = layers.Concatenate()([wide, up, smooth, layers.UpSampling2D()(deep)])
    return functional(x, layers.Conv2D(2, 1, activation="softmax")(layers.Cropping2D(1)(joined)))


def signal() -> Any:
    return keras.Sequential(
        [
            keras.Input((32, 3)), layers.Conv1D(8, 5, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(), layers.MaxPooling1D(2), layers.Conv1D(8, 3, padding="causal"),
            layers.Flatten(), layers.Dense(6, activation="tanh"), layers.BatchNormalization(), layers.Dense(3),
        ]
    )  # fmt: skip


def lstm() -> Any:
    x = keras.Input((7, 5))
    y = layers.LSTM(6, return_sequences=True)(x)
    return functional(x, layers.Dense(3)(layers.LSTM(4)(y)))


def gru() -> Any:
    x = keras.Input((7, 5))
    y = layers.Bidirectional(layers.GRU(6, return_sequences=True))(x)
    y = layers.TimeDistributed(layers.Dense(4, activation="relu"))(y)
    return functional(x, layers.Bidirectional(layers.LSTM(3), merge_mode="sum")(y))


def transformer() -> Any:
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8)(words)
    y = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, y]))
    x = layers.Add()([x, layers.Dense(8)(layers.Dense(16, activation="gelu")(x))])
    return functional(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))))


def nested() -> Any:
    body = keras.Sequential([images((8, 8, 4)), layers.Conv2D(4, 3, padding="same"), layers.PReLU(shared_axes=[1, 2])])
    x = images((8, 8, 4))
    y = body(body(x))  # one body, used twice
    return functional(x, [layers.Dense(3)(layers.Flatten()(y)), layers.Permute((3, 1, 2))(y)])


def arithmetic() -> Any:
    x = images((8, 8, 3))
    y = layers.Conv2D(4, 3)(x)
    z = layers.GroupNormalization(2)(2.0 * y + 1.0) - keras.ops.sigmoid(y)
    z = layers.Average()([z, layers.Maximum()([y, z])])
    return functional(x, layers.Flatten()(z))


def channels_first() -> Any:
    x = images((3, 12, 12))
    y = layers.Conv2D(6, 3, data_format="channels_first", padding="same")(x)
    y = layers.BatchNormalization(axis=1)(y)
    y = layers.MaxPooling2D(data_format="channels_first")(y)
    return functional(x, layers.Dense(2)(layers.Flatten()(y)))


NETWORKS: list[Callable[[], Any]] = [
    residual, mobile, squeeze_and_excite, segmenter, signal, lstm, gru, transformer, nested, arithmetic, channels_first,
]  # fmt: skip


def trained(make: Callable[[], Any]) -> Any:
    """A network whose weights and statistics are all different."""
    keras.utils.set_random_seed(0)
    model = make()
    random = np.random.default_rng(0)
    for layer in model._flatten_layers():
        for variable in layer.weights if not hasattr(layer, "operations") else []:
            spread = random.uniform(0.5, 1.5, variable.shape) if "variance" in variable.name else None
            noise = random.normal(scale=0.3, size=variable.shape)
            variable.assign(np.asarray(spread if spread is not None else variable.numpy() + noise, np.float32))
    return model


@pytest.mark.parametrize(
    ("make", "ending"),
    [
        *((make, ".keras") for make in NETWORKS),
        *((make, ".h5") for make in NETWORKS if make is not arithmetic),  # whose operations Keras cannot read there
    ],
)
def test_networks_of_many_kinds(tmp_path: Path, make: Callable[[], Any], ending: str) -> None:
    """In stock layers, with the file's layout, for every batch size, and ready to be traced."""
    model = trained(make)
    path = tmp_path / f"net{ending}"
    model.save(path)
    loaded = load_model(path)
    shape = model.inputs[0].shape[1:]
    torch.manual_seed(1)
    x = torch.randint(0, 20, (3, *shape)) if make is transformer else torch.randn(3, *shape)
    expected = model(x.numpy(), training=False)
    with torch.no_grad():
        found = loaded(x)
        for ours, theirs in zip(*((v if isinstance(v, list | tuple) else [v]) for v in (found, expected)), strict=True):
            torch.testing.assert_close(ours, theirs.cpu(), atol=1e-5, rtol=1e-4)
    assert all(type(module).__module__.startswith("torch") for module in loaded.modules())
    assert trace(loaded, x).layers


def test_layers_have_the_files_names(tmp_path: Path) -> None:
    model = trained(residual)
    model.save(tmp_path / "net.keras")
    loaded = load_model(tmp_path / "net.keras")
    names = {layer.name for layer in model.layers if layer.weights}
    assert {name for name, module in loaded.named_modules() if list(module.parameters(recurse=False))} == names


def test_one_permutation_at_the_input_is_all(tmp_path: Path) -> None:
    """What is flattened comes channels first, and the columns of the layer behind are in that order."""
    trained(residual).save(tmp_path / "net.keras")
    assert load_model(tmp_path / "net.keras").code.count("permute(") == 1


def test_all_unknown_layers_are_told_at_once(tmp_path: Path) -> None:
    x = images()
    y = layers.UnitNormalization()(layers.CenterCrop(8, 8)(x))
    functional(x, layers.UnitNormalization(name="again")(y)).save(tmp_path / "net.keras")
    message = r"not read: CenterCrop \(first 'center_crop.*'\), UnitNormalization .* Export the network"
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path / "net.keras")


def test_what_pytorch_has_no_layer_for_is_named(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((7, 5)), layers.GRU(3, reset_after=False, name="old")]).save(tmp_path / "gru.keras")
    with pytest.raises(ModelFileError, match=r"gru\.keras: GRU 'old': a GRU with reset_after=False has no form"):
        load_model(tmp_path / "gru.keras")


def test_open_shapes_are_given(tmp_path: Path) -> None:
    x = keras.Input((None, None, 3))
    functional(x, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))).save(tmp_path / "net.keras")
    with pytest.raises(ModelFileError, match=r"shape of its input .* open: \?x\?x3 .*net\.keras\?shape=64x64x3"):
        load_model(tmp_path / "net.keras")
    assert load_model(f"{tmp_path / 'net.keras'}?shape=10x12x3")(torch.zeros(2, 10, 12, 3)).shape == (2, 4)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("not a network")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("README", "nothing")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model.save_weights(tmp_path / "net.weights.h5")
    for name, message in (
        ("missing.keras", "there is no file"),
        ("text.h5", "cannot be read as a Keras file"),
        ("other.keras", "cannot be read as a Keras file"),
        ("net.weights.h5", r"holds weights without the network\. Save the whole"),
    ):
        with pytest.raises(ModelFileError, match=message):
            load_model(tmp_path / name)


def test_what_does_not_compute_the_same_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sigmaquant.frontends.keras import activations

    trained(residual).save(tmp_path / "net.keras")
    load_model(tmp_path / "net.keras")
    monkeypatch.setitem(activations._FUNCTIONS, "relu", (torch.sigmoid, {}))
    with pytest.raises(ModelFileError, match="does not compute what Keras computes: output 0 differs"):
        load_model(tmp_path / "net.keras")


def test_a_missing_extra_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"sigmaquant\[keras\]"):
        load_model(tmp_path / "net.keras")


def test_resnet8_of_mlperf_tiny(shared_data: Path, shared_loader: Any) -> None:
    """The file that its authors ship, against the same network in PyTorch."""
    loaded = load_model(shared_data / "keras" / "mlperf_resnet8_cifar10.h5")
    net, _ = shared_loader.network("mlperf_resnet8_cifar10")
    x = torch.randint(0, 256, (4, 32, 32, 3), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        expected = net(x.permute(0, 3, 1, 2))
        found = loaded(x)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert isinstance(loaded.get_submodule("conv2d_8"), nn.Conv2d)


def test_visual_wake_words_of_mlperf_tiny(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many images as its authors' float file gets right."""
    tasks = shared_data.parent / "tasks"
    if not (tasks / "load_coco.py").is_file():
        pytest.skip(f"needs the images: no load_coco.py in {tasks}")
    spec = importlib.util.spec_from_file_location("load_coco", tasks / "load_coco.py")
    load_coco = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load_coco)
    pictures, labels = load_coco.vww("val")
    loaded = load_model(tasks / "keras" / "vww_96.h5")
    with torch.no_grad():
        classes = loaded(torch.from_numpy(pictures.astype(np.float32) / 255)).argmax(1).numpy()
    assert (int((classes == labels).sum()), len(labels)) == (255, 310)
