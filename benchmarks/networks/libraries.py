"""Networks of timm, torchvision, segmentation-models-pytorch, ultralytics and transformers, with random weights."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from networks.subject import Inputs, features, images, keywords, tokens

Built = tuple[nn.Module, Inputs]


def timm(name: str, size: int = 64, **options: Any) -> Callable[[], Built]:
    """A classifier of timm."""

    def build() -> Built:
        import timm as library

        return library.create_model(name, num_classes=10, **options), images(size)

    return build


def torchvision(name: str, size: int = 64, **options: Any) -> Callable[[], Built]:
    """A classifier or a segmentation network of torchvision."""

    def build() -> Built:
        import torchvision.models as library

        weights: dict[str, Any] = {"weights": None}
        if "deeplab" in name or "lraspp" in name:
            weights["weights_backbone"] = None
        return library.get_model(name, **weights, **options), images(size)

    return build


class DetectorHeads(nn.Module):
    """Backbone and heads of a torchvision detector; what follows (boxes of lists of images) is no network."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.head(list(self.backbone(x).values()))


def ssdlite() -> Built:
    """SSDLite of torchvision."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    return DetectorHeads(detector), images(96)


def quantizable(name: str) -> Callable[[], Built]:
    """A network of torchvision that PyTorch's own quantization can take: its additions are modules."""

    def build() -> Built:
        import torchvision.models.quantization as library

        return getattr(library, name)(weights=None, quantize=False, num_classes=10), images(64)

    return build


def segmentation(name: str, encoder: str, size: int = 64, **options: Any) -> Callable[[], Built]:
    """A network of segmentation-models-pytorch."""

    def build() -> Built:
        import segmentation_models_pytorch as library

        return getattr(library, name)(encoder, encoder_weights=None, classes=3, **options), images(size)

    return build


def yolo(name: str, size: int = 64) -> Callable[[], Built]:
    """A network of ultralytics as a fresh module."""

    def build() -> Built:
        with contextlib.redirect_stdout(io.StringIO()):
            from ultralytics.nn import tasks
            from ultralytics.utils import LOGGER

            LOGGER.setLevel("ERROR")
            task = name.partition("-")[2]
            kinds = {"seg": "SegmentationModel", "pose": "PoseModel", "cls": "ClassificationModel", "obb": "OBBModel"}
            model = getattr(tasks, kinds.get(task, "DetectionModel"))(f"{name}.yaml", verbose=False)
        return model, images(size)

    return build


def transformers(model: str, config: str, inputs: Inputs, **options: Any) -> Callable[[], Built]:
    """A network of transformers by its classes' names, as its library calls it."""

    def build() -> Built:
        import transformers as library

        made = getattr(library, config)(**options)
        return getattr(library, model)(made), inputs

    return build


class Encoder(nn.Module):
    """The encoder of Whisper, which is a part of a network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, features: Tensor) -> Tensor:
        return self.encoder(features).last_hidden_state


def whisper_encoder() -> Built:
    """Whisper's encoder with 50 frames."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        d_model=64, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=128, decoder_ffn_dim=64, num_mel_bins=40, max_source_positions=25, vocab_size=100,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return Encoder(WhisperModel(config)), features(40, 50)


def _words(**more: Inputs) -> Inputs:
    mask: Inputs = lambda count: torch.ones(count, 16, dtype=torch.int64)  # noqa: E731
    return keywords(input_ids=tokens(16, 200), attention_mask=mask, **more)


TEXT: dict[str, Callable[[], Built]] = {
    "bert-tiny": transformers(
        "BertForSequenceClassification", "BertConfig", _words(), vocab_size=200, hidden_size=64, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=128, max_position_embeddings=32,
    ),
    "minilm": transformers(
        "BertModel", "BertConfig", _words(), vocab_size=200, hidden_size=96, num_hidden_layers=3,
        num_attention_heads=12, intermediate_size=192, max_position_embeddings=32,
    ),
    "distilbert": transformers(
        "DistilBertForSequenceClassification", "DistilBertConfig", _words(), vocab_size=200, dim=64, n_layers=2,
        n_heads=4, hidden_dim=128, max_position_embeddings=32,
    ),
    "mobilebert": transformers(
        "MobileBertForSequenceClassification", "MobileBertConfig", _words(), vocab_size=200, hidden_size=64,
        intra_bottleneck_size=32, true_hidden_size=32, embedding_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    ),
    "albert": transformers(
        "AlbertForSequenceClassification", "AlbertConfig", _words(), vocab_size=200, embedding_size=32, hidden_size=64,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, max_position_embeddings=32,
    ),
    "gpt2": transformers(
        "GPT2LMHeadModel", "GPT2Config", keywords(input_ids=tokens(16, 200)), vocab_size=200, n_embd=64, n_layer=2,
        n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0,
    ),
    "llama": transformers(
        "LlamaForCausalLM", "LlamaConfig", keywords(input_ids=tokens(16, 200)), vocab_size=200, hidden_size=64,
        intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "t5-encoder": transformers(
        "T5EncoderModel", "T5Config", _words(), vocab_size=200, d_model=64, d_kv=16, d_ff=128, num_layers=2,
        num_heads=4,
    ),
}  # fmt: skip

OTHERS: dict[str, Callable[[], Built]] = {
    "segformer-b0": transformers(
        "SegformerForSemanticSegmentation", "SegformerConfig", keywords(pixel_values=images(64)),
        depths=[1, 1, 1, 1], num_labels=4, decoder_hidden_size=64,
    ),
    "swin-tiny": transformers(
        "SwinForImageClassification", "SwinConfig", keywords(pixel_values=images(64)), image_size=64, embed_dim=24,
        depths=[1, 2], num_heads=[2, 4], window_size=4, num_labels=10,
    ),
    "vit-hf": transformers(
        "ViTForImageClassification", "ViTConfig", keywords(pixel_values=images(32)), image_size=32, patch_size=8,
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, num_labels=10,
    ),
    "mobilevit-hf": transformers(
        "MobileViTForImageClassification", "MobileViTConfig", keywords(pixel_values=images(64)), image_size=64,
        hidden_sizes=[32, 48, 64], neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 96], num_labels=10,
    ),
    "clip-vision": transformers(
        "CLIPVisionModel", "CLIPVisionConfig", keywords(pixel_values=images(32)), image_size=32, patch_size=8,
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
    ),
    "wav2vec2-tiny": transformers(
        "Wav2Vec2ForCTC", "Wav2Vec2Config", keywords(input_values=features(1600)), vocab_size=32, hidden_size=64,
        num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, conv_dim=[32, 32, 32], conv_stride=[5, 4, 4],
        conv_kernel=[10, 8, 4], num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    ),
    "whisper-encoder": whisper_encoder,
}  # fmt: skip
