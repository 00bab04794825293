"""SegFormer, MobileViT and PoolFormer through `transformers`, each from its configuration with random weights.

Sources: SegFormer (Xie et al. 2021), MobileViT (Mehta and Rastegari 2022), PoolFormer (Yu et al. 2022).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from humar_bench.errors import UsageError
from humar_bench.uniphd.backbones.mobilevit import mobilevit_maps
from humar_bench.uniphd.library import from_transformers

COARSEST = 32  # pixels of one cell of the last map


class Published(NamedTuple):
    """How one backbone is built, and which of its states are the maps at strides 4, 8, 16, 32."""

    family: str  # of its classes in transformers
    config: dict[str, Any]
    model: dict[str, Any] = {}  # what the model takes beside the configuration
    first: int = 0


def _segformer(widths: tuple[int, ...]) -> Published:
    return Published("Segformer", {"hidden_sizes": list(widths), "depths": [2, 2, 2, 2], "attn_implementation": "sdpa"})


def _mobilevit(hidden: tuple[int, ...], necks: tuple[int, ...], ratio: float = 4.0) -> Published:
    """Its first state is at stride 2, and the 1x1 convolution after its last one is left out: nothing here reads it."""
    config = {"hidden_sizes": list(hidden), "neck_hidden_sizes": list(necks), "expand_ratio": ratio}
    return Published("MobileViT", config, {"expand_output": False}, first=1)


def _poolformer(depths: tuple[int, ...]) -> Published:
    return Published("PoolFormer", {"depths": list(depths), "hidden_sizes": [64, 128, 320, 512]})


PUBLISHED = {
    "segformer_mit_b0": _segformer((32, 64, 160, 256)),
    "segformer_mit_b1": _segformer((64, 128, 320, 512)),
    "mobilevit_xxs": _mobilevit((64, 80, 96), (16, 16, 24, 48, 64, 80, 320), ratio=2.0),
    "mobilevit_xs": _mobilevit((96, 120, 144), (16, 32, 48, 64, 80, 96, 384)),
    "mobilevit_s": _mobilevit((144, 192, 240), (16, 32, 64, 96, 128, 160, 640)),
    "poolformer_s12": _poolformer((2, 2, 6, 2)),
    "poolformer_s24": _poolformer((4, 4, 12, 4)),
    "poolformer_s36": _poolformer((6, 6, 18, 6)),
}


def _redraw(module: nn.Module) -> None:
    """transformers draws MobileViT's convolutions and norms so near 0 that the maps of random weights are 0: He et al. 2015 instead."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()


class HuggingFaceBackbone(nn.Module):
    """Images [B, 3, H, W] -> four maps [B, C_i, H_i, W_i] at strides 4, 8, 16, 32; `channels` are the C_i.

    Sizes round up, but PoolFormer's first map rounds down; multiples of 16 agree.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        published = PUBLISHED[name]
        config_class, model_class = from_transformers(f"{published.family}Config", f"{published.family}Model")
        config = config_class(**published.config)
        self.family, self.first = published.family, published.first
        widths = config.neck_hidden_sizes[1:] if published.family == "MobileViT" else config.hidden_sizes
        self.channels = tuple(widths[self.first : self.first + 4])
        self.model = model_class(config, **published.model)
        if published.family == "MobileViT":
            self.model.apply(_redraw)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Raises UsageError when a side of the images is less than 32 pixels."""
        if min(images.shape[2:]) < COARSEST:
            raise UsageError(f"an image is {images.shape[2]}x{images.shape[3]} pixels; this backbone takes at least {COARSEST}x{COARSEST}.")
        if self.family == "MobileViT" and not self.training:
            states = mobilevit_maps(self.model, images)
        else:
            states = self.model(images, output_hidden_states=True).hidden_states
        return list(states[self.first : self.first + 4])
