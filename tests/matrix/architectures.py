"""Small networks of many families, random weights from ``transformers`` configurations: they try operators, not accuracy.

Every builder is seeded and gives the same weights and inputs each time. Attention is "eager" where the family offers a
choice, so that its matrix products and softmax are operators of their own.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import edgeopt

# Its configurations take more keywords (num_labels, attn_implementation) than their signatures tell.
families: Any = transformers

CALIBRATION_BATCHES = 16
IMAGE = 64
VOCABULARY = 256
TOKENS = 32


class Output(nn.Module):
    """A ``transformers`` network reduced to one of its outputs: what a product would ship."""

    def __init__(self, network: nn.Module, *names: str, arguments: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.network, self.names, self.arguments = network, names, arguments

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.network(**dict(zip(self.arguments, inputs, strict=True))) if self.arguments else self.network(*inputs)
        outputs = tuple(found[name] for name in self.names)
        return outputs[0] if len(outputs) == 1 else outputs


def images(index: int, size: int = IMAGE) -> tuple[Tensor, ...]:
    """float32 [1, 3, size, size] with the smooth structure and spread of a normalised photo."""
    random = torch.Generator().manual_seed(index)
    coarse = torch.randn(1, 3, 8, 8, generator=random)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (smooth + 0.3 * torch.randn(1, 3, size, size, generator=random),)


def tokens(index: int) -> tuple[Tensor, ...]:
    """Token ids and their attention mask, int64 [1, TOKENS] both: sentences of differing length, padded."""
    random = torch.Generator().manual_seed(index)
    length = int(torch.randint(TOKENS // 2, TOKENS + 1, (1,), generator=random))
    mask = (torch.arange(TOKENS) < length).long()[None]
    return torch.randint(1, VOCABULARY, (1, TOKENS), generator=random) * mask, mask


def waveform(index: int) -> tuple[Tensor, ...]:
    """float32 [1, 1600]: tones and noise, unit variance as wav2vec2's feature extractor gives."""
    random = torch.Generator().manual_seed(index)
    pitch = 0.01 + 0.1 * torch.rand(3, 1, generator=random)
    sound = torch.sin(pitch * torch.arange(1600) * 2 * torch.pi).sum(0) + 0.3 * torch.randn(1600, generator=random)
    return ((sound / sound.std())[None],)


def mel_spectrogram(index: int) -> tuple[Tensor, ...]:
    """float32 [1, 80, 100] in about -1..1.5, the range of Whisper's log-mel features."""
    random = torch.Generator().manual_seed(index)
    coarse = torch.rand(1, 1, 10, 10, generator=random)
    return ((2.5 * nn.functional.interpolate(coarse, size=(80, 100), mode="bilinear")[0] - 1),)


def initialise(network: nn.Module) -> None:
    """Weights with which every layer keeps its input's variance (LeCun et al., 1998).

    The configurations' own std of 0.02 suits widths of 768: in networks this narrow the signal would die in the biases, and
    a network whose outputs do not depend on its inputs says nothing about quantization.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            # Mostly above zero, where the activation that follows is nearly linear: random batch norms with sparse activations
            # amplify any disturbance from layer to layer (Yang et al., 2019), which trained ones do not.
            nn.init.uniform_(layer.weight, 0.3, 0.7)
            nn.init.normal_(layer.bias, 1.0, 0.2)
            layer.momentum = None  # statistics are the plain average over what is shown


def settle(network: nn.Module, inputs: Callable[[int], tuple[Tensor, ...]]) -> nn.Module:
    """Gives BatchNorm the statistics of real activations, as training leaves them, and puts the network into eval mode."""
    if any(isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d) for layer in network.modules()):
        network.train()
        with torch.no_grad():
            for index in range(8):
                network(*(torch.cat(pair) for pair in zip(inputs(100 + index), inputs(200 + index), strict=True)))
    return network.eval()


def model(
    name: str,
    build: Callable[[], nn.Module],
    inputs: Callable[[int], tuple[Tensor, ...]],
    outputs: tuple[str, ...] = ("logits",),
    arguments: tuple[str, ...] = (),
    own_weights: bool = False,
) -> edgeopt.Model:
    torch.manual_seed(0)
    network = Output(build(), *outputs, arguments=arguments)
    if not own_weights:
        initialise(network)
    settle(network, inputs)
    batches = [inputs(index) for index in range(1, CALIBRATION_BATCHES + 1)]
    return edgeopt.Model(network, inputs(0), calibration=batches, name=name)


def resnet() -> edgeopt.Model:
    config = families.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 64, 64], depths=[1, 1, 1, 1], layer_type="bottleneck", num_labels=10
    )
    return model("resnet", lambda: families.ResNetForImageClassification(config), images)


def mobilenet_v2() -> edgeopt.Model:
    config = families.MobileNetV2Config(image_size=IMAGE, depth_multiplier=0.35, num_labels=10)
    return model("mobilenet_v2", lambda: families.MobileNetV2ForImageClassification(config), images)


def efficientnet() -> edgeopt.Model:
    config = families.EfficientNetConfig(
        image_size=IMAGE, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640, num_labels=10
    )
    return model("efficientnet", lambda: families.EfficientNetForImageClassification(config), images)


def convnext() -> edgeopt.Model:
    config = families.ConvNextConfig(
        image_size=IMAGE, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 2, 1], num_labels=10, layer_scale_init_value=0.1
    )
    return model("convnext", lambda: families.ConvNextForImageClassification(config), images)


def vit() -> edgeopt.Model:
    config = families.ViTConfig(
        image_size=IMAGE, patch_size=16, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, num_labels=10, attn_implementation="eager",
    )  # fmt: skip
    return model("vit", lambda: families.ViTForImageClassification(config), images)


def swin() -> edgeopt.Model:
    config = families.SwinConfig(
        image_size=IMAGE, patch_size=4, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=10
    )
    return model("swin", lambda: families.SwinForImageClassification(config), images)


def mobilevit() -> edgeopt.Model:
    size = 2 * IMAGE  # at 64 px the last attention would be over one token
    config = families.MobileViTConfig(
        image_size=size, hidden_sizes=[32, 48, 64], neck_hidden_sizes=[16, 16, 24, 32, 48, 64, 128], num_labels=10
    )
    return model("mobilevit", lambda: families.MobileViTForImageClassification(config), lambda index: images(index, size))


def segformer() -> edgeopt.Model:
    config = families.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64], num_attention_heads=[1, 1, 2, 4], decoder_hidden_size=64,
        num_labels=10,
    )  # fmt: skip
    return model("segformer", lambda: families.SegformerForSemanticSegmentation(config), images)


def yolos() -> edgeopt.Model:
    config = families.YolosConfig(
        image_size=[IMAGE, IMAGE], patch_size=16, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, num_detection_tokens=10, num_labels=10, attn_implementation="eager",
    )  # fmt: skip
    return model("yolos", lambda: families.YolosForObjectDetection(config), images, ("logits", "pred_boxes"))


def bert() -> edgeopt.Model:
    config = families.BertConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        num_labels=4, attn_implementation="eager",
    )  # fmt: skip
    return model("bert", lambda: families.BertForSequenceClassification(config), tokens)


def distilbert() -> edgeopt.Model:
    config = families.DistilBertConfig(
        vocab_size=VOCABULARY, dim=64, n_layers=2, n_heads=4, hidden_dim=256, num_labels=4, attn_implementation="eager"
    )
    return model("distilbert", lambda: families.DistilBertForSequenceClassification(config), tokens)


def t5_encoder() -> edgeopt.Model:
    config = families.T5Config(vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=256, num_layers=2, num_heads=4)
    # T5 leaves out attention's 1/sqrt(d) and has it in the initial weights of its queries instead.
    return model("t5_encoder", lambda: families.T5EncoderModel(config), tokens, ("last_hidden_state",), own_weights=True)


def whisper_encoder() -> edgeopt.Model:
    config = families.WhisperConfig(
        d_model=64, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=256, decoder_layers=1,
        decoder_attention_heads=4, max_source_positions=50, attn_implementation="eager",
    )  # fmt: skip
    return model(
        "whisper_encoder", lambda: families.WhisperModel(config).get_encoder(), mel_spectrogram, ("last_hidden_state",)
    )


def wav2vec2() -> edgeopt.Model:
    config = families.Wav2Vec2Config(
        vocab_size=32, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        conv_dim=[32, 32, 32], conv_stride=[5, 4, 4], conv_kernel=[10, 8, 4], num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, attn_implementation="eager",
    )  # fmt: skip
    return model("wav2vec2", lambda: families.Wav2Vec2ForCTC(config), waveform)


ARCHITECTURES: dict[str, Callable[[], edgeopt.Model]] = {
    build.__name__: build
    for build in (
        resnet, mobilenet_v2, efficientnet, convnext, vit, swin, mobilevit, segformer, yolos, bert, distilbert, t5_encoder,
        whisper_encoder, wav2vec2,
    )
}  # fmt: skip
