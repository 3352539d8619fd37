"""Every network of the benchmark by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from networks import libraries, sequences, speech, vision
from networks.subject import Entry, Inputs, arguments, features, images, tokens, waves

Built = tuple[nn.Module, Inputs]

_TIMM = (
    "resnet10t", "resnet18", "resnet26d", "seresnet18", "ecaresnet26t", "skresnet18", "resnest14d", "resnetv2_18",
    "gernet_s", "repvgg_a0", "mobileone_s0", "mobilenetv1_100", "mobilenetv2_050", "mobilenetv3_small_050",
    "tf_mobilenetv3_small_minimal_100", "mobilenetv4_conv_small_050", "mobilenet_edgetpu_v2_xs", "fbnetc_100",
    "spnasnet_100", "mnasnet_small", "semnasnet_075", "hardcorenas_a", "tinynet_e", "lcnet_050", "ghostnet_050",
    "ghostnetv2_100", "ghostnetv3_050", "efficientnet_lite0", "tf_efficientnet_lite0", "efficientnet_b0",
    "tf_efficientnetv2_b0", "mixnet_s", "rexnet_100", "dla46_c", "dla46x_c", "hrnet_w18_small", "ese_vovnet19b_slim_dw",
    "cs3darknet_focus_s", "dpn48b", "nf_regnet_b0", "regnetx_002", "regnety_002", "regnetz_005", "gcresnext26ts",
    "eca_resnext26ts", "inception_next_atto", "fasternet_t0", "starnet_s050", "repghostnet_050", "repvit_m0_9",
    "hgnetv2_b0", "res2net50_14w_8s", "poolformer_s12",
)  # fmt: skip
_TIMM_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 4},
    "deit_tiny_patch16_224": {"img_size": 64, "depth": 4},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "edgenext_xx_small": {},
    "convnext_atto": {},
    "convnextv2_atto": {},
    "levit_128s": {"size": 224},
    "efficientvit_b0": {},
    "efficientvit_m0": {"size": 224},
    "fastvit_t8": {},
    "pvt_v2_b0": {},
    "mixer_s32_224": {"img_size": 64},
    "swiftformer_xs": {},
    "lambda_resnet26t": {"size": 256},
    "bat_resnext26ts": {"size": 256},
}
_TORCHVISION: dict[str, dict[str, Any]] = {
    "squeezenet1_1": {},
    "densenet121": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "mobilenet_v3_large": {},
    "shufflenet_v2_x0_5": {},
    "mnasnet0_5": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "regnet_x_400mf": {},
    "regnet_y_400mf": {},
    "lraspp_mobilenet_v3_large": {},
    "deeplabv3_mobilenet_v3_large": {},
}
_NARROW = (64, 48, 32, 32, 16)
_SEGMENTATION: dict[str, tuple[str, str, dict[str, Any]]] = {
    "smp-unet": ("Unet", "mobilenet_v2", {"decoder_channels": _NARROW}),
    "smp-unet-scse": ("Unet", "mobilenet_v2", {"decoder_channels": _NARROW, "decoder_attention_type": "scse"}),
    "smp-unetplusplus": ("UnetPlusPlus", "mobilenet_v2", {"decoder_channels": _NARROW}),
    "smp-fpn": ("FPN", "mobilenet_v2", {"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 32}),
    "smp-linknet": ("Linknet", "mobilenet_v2", {}),
    "smp-pspnet": ("PSPNet", "mobilenet_v2", {"psp_out_channels": 64}),
    "smp-pan": ("PAN", "mobilenet_v2", {"size": 128}),
    "smp-deeplabv3plus": ("DeepLabV3Plus", "mobilenet_v2", {"decoder_channels": 64}),
}
_YOLO = ("yolov8n", "yolo11n", "yolov5n", "yolov10n", "yolo26n", "yolov8n-cls", "yolov8n-seg", "yolo11n-pose")
_OWN: dict[str, tuple[str, Callable[[], nn.Module], Inputs]] = {
    "ds-cnn": ("speech", speech.DsCnn, features(1, 49, 10)),
    "tc-resnet8": ("speech", speech.TcResNet, features(40, 101)),
    "bc-resnet": ("speech", speech.BcResNet, features(1, 40, 50)),
    "m5": ("speech", speech.M5, waves(8000)),
    "tcn": ("speech", speech.Tcn, features(8, 64)),
    "wavenet": ("speech", speech.WaveNet, waves(128)),
    "quartznet": ("speech", speech.QuartzNet, features(64, 96)),
    "eegnet": ("signals", speech.EegNet, features(1, 16, 128)),
    "conv-tasnet": ("speech", speech.ConvTasNet, waves(512)),
    "x-vector": ("embedding", vision.SpeakerEmbedding, features(24, 60)),
    "lenet": ("classification", vision.LeNet, images(28, 1)),
    "vgg11-cifar": ("classification", vision.VggCifar, images(32)),
    "resnet20-cifar": ("classification", vision.ResNetCifar, images(32)),
    "mobilenet-vww": ("classification", vision.MobileNetVww, images(96)),
    "unet": ("segmentation", vision.PlainUNet, images(48)),
    "fast-scnn": ("segmentation", vision.FastScnn, images(64)),
    "espcn": ("restoration", vision.Espcn, images(24, 1)),
    "edsr": ("restoration", vision.Edsr, images(24)),
    "fsrcnn": ("restoration", vision.Fsrcnn, images(24, 1)),
    "style-transfer": ("restoration", vision.StyleNet, images(32)),
    "conv-autoencoder": ("autoencoder", vision.ConvAutoencoder, images(32, 1)),
    "dense-autoencoder": ("autoencoder", vision.DenseAutoencoder, features(640)),
    "vae": ("autoencoder", vision.Vae, images(28, 1)),
    "mobilefacenet": ("embedding", vision.MobileFaceNet, images(64)),
    "fastestdet": ("detection", vision.FastestDet, images(64)),
    "pose": ("detection", vision.PoseNet, images(64)),
    "depth": ("restoration", vision.DepthNet, images(32)),
    "siamese": ("embedding", vision.Siamese, arguments(images(28, 1), images(28, 1))),
    "image-and-table": ("classification", vision.ImageAndTable, arguments(images(32), features(6))),
    "pointnet": ("classification", vision.PointNet, features(3, 64)),
    "video3d": ("classification", vision.VideoNet, features(3, 8, 16, 16)),
}
_OWN_TRANSFORMERS: dict[str, tuple[str, Callable[[], nn.Module], Inputs]] = {
    "kwt-1": ("speech", sequences.Kwt, features(40, 98)),
    "conformer": ("speech", sequences.Conformer, features(40, 40)),
    "llama-plain": ("text", sequences.TinyLlama, tokens(16, 256)),
    "detr": ("detection", sequences.MiniDetr, images(48)),
    "text-encoder": ("text", sequences.TextClassifier, tokens(16, 200)),
}
_RECURRENT: dict[str, tuple[str, Callable[[], nn.Module], Inputs]] = {
    "lstm-kws": ("speech", sequences.LstmKws, features(25, 10)),
    "mnist-lstm": ("classification", sequences.MnistLstm, features(28, 28)),
    "gru-kws": ("speech", sequences.GruKws, features(30, 40)),
    "crnn": ("text", sequences.Crnn, images(32, 1)),
    "bilstm-tagger": ("text", sequences.Tagger, tokens(12, 200)),
    "gru-encoder-decoder": ("series", sequences.EncoderDecoder, features(12, 3)),
    "lstm-cell-vad": (
        "speech",
        sequences.VoiceActivity,
        arguments(features(16, 12), arguments(features(32), features(32))),
    ),
    "elman": ("series", sequences.ElmanForecast, features(12, 4)),
}


def _own(group: str, table: dict[str, tuple[str, Callable[[], nn.Module], Inputs]]) -> Iterable[Entry]:
    for name, (kind, make, inputs) in table.items():
        yield Entry(name, group, kind, lambda make=make, inputs=inputs: (make(), inputs))


def entries() -> dict[str, Entry]:
    """All networks, those written here first."""
    found = [*_own("convolutional", _OWN), *_own("transformer", _OWN_TRANSFORMERS), *_own("recurrent", _RECURRENT)]
    found += [Entry(f"timm/{n}", "convolutional", "classification", libraries.timm(n)) for n in _TIMM]
    for name, options in _TORCHVISION.items():
        kind = "segmentation" if "deeplab" in name or "lraspp" in name else "classification"
        found.append(Entry(f"torchvision/{name}", "convolutional", kind, libraries.torchvision(name, **options)))
    own = libraries.quantizable("mobilenet_v2")
    found.append(Entry("torchvision/q-mobilenet_v2", "convolutional", "classification", own))
    found.append(Entry("torchvision/ssdlite", "convolutional", "detection", libraries.ssdlite))
    for name, (kind, encoder, options) in _SEGMENTATION.items():
        found.append(Entry(name, "convolutional", "segmentation", libraries.segmentation(kind, encoder, **options)))
    found += [Entry(n, "convolutional", "detection", libraries.yolo(n)) for n in _YOLO]
    for name, options in _TIMM_TRANSFORMERS.items():
        found.append(Entry(f"timm/{name}", "transformer", "classification", libraries.timm(name, **options)))
    found += [Entry(n, "transformer", "text", build) for n, build in libraries.TEXT.items()]
    found += [Entry(n, "transformer", "other", build) for n, build in libraries.OTHERS.items()]
    return {entry.name: entry for entry in found}
