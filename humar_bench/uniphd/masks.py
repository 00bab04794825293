"""The mask head: every query has a small network of its own, all of them run in one batched pass.

Source: UniPHD, after CondInst (Tian et al. 2020, section 3), with relative coordinates in pixels. Deviations: upstream runs one query
after the other; the first convolution of each refinement is computed in two parts, so that the image's part is made once for all queries.

Shapes: B batch, Q queries, C width, P = 16 (C + 2) + 16 * 16 + 16 + 16 parameters of a query's network, D = 16 its width,
(h, w) the stride-8 map, (H, W) the padded image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humar_bench.skeleton.layers import MLP

WIDTH = 16
STRIDE = 8  # of the finest memory level, in pixels
SHUFFLE = 4  # each cell of the stride-4 map becomes 4 x 4 pixels


def mask_controller(channels: int) -> MLP:
    """Instance token [..., C] -> the parameters of its network [..., P]."""
    controller = MLP(inputs=channels, hidden=channels, outputs=sum(_parts(channels)), layers=3)
    for layer in controller.layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return controller


def _parts(channels: int) -> tuple[int, int, int, int]:
    """How the parameters are cut: weights and biases of two 1x1 convolutions, in the order W1, W2, b1, b2."""
    return WIDTH * (channels + 2), WIDTH * WIDTH, WIDTH, WIDTH


class MaskHead(nn.Module):
    """Memory and backbone maps to one mask a query; `channels` are those of the backbone's maps at strides 4 and 8."""

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        fine, coarse = channels
        self.conv1_1div8 = nn.Conv2d(WIDTH + coarse, WIDTH, 3, padding=1)
        self.conv2_1div8 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.conv1_1div4 = nn.Conv2d(WIDTH + fine, WIDTH, 3, padding=1)
        self.conv2_1div4 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(
        self, memory: list[Tensor], fine: Tensor, coarse: Tensor, parameters: Tensor, centres: Tensor, sizes: Tensor
    ) -> Tensor:
        """Mask logits [B, Q, H, W].

        memory: levels [B, C, h_l, w_l], the finest first; fine, coarse: the backbone's maps at strides 4 and 8; parameters [B, Q, P];
        centres [B, Q, 2] as fractions (x, y) of the image; sizes [B, 2], its (height, width) in pixels without padding.
        """
        masks = self.refine(self.draft(memory, parameters, centres, sizes), fine, coarse)  # [B, Q, D, H / 4, W / 4]
        return F.pixel_shuffle(masks.flatten(0, 1), SHUFFLE).reshape(*parameters.shape[:2], *(SHUFFLE * side for side in fine.shape[2:]))

    def draft(self, memory: list[Tensor], parameters: Tensor, centres: Tensor, sizes: Tensor) -> Tensor:
        """Each query's network on the summed memory and its relative coordinates -> [B, Q, D, h, w].

        Relative coordinates are pixels from the query's centre, (x, y). They enter as the cells' coordinates here, and the centre's share
        as a part of the bias.
        """
        image = self.summed(memory)
        channels, (height, width) = image.shape[1], image.shape[2:]
        weight1, weight2, bias1, bias2 = parameters.split(_parts(channels), dim=-1)
        weight1, weight2 = weight1.unflatten(-1, (WIDTH, -1)), weight2.unflatten(-1, (WIDTH, WIDTH))  # [B, Q, D, C + 2], [B, Q, D, D]
        pixels = (centres * sizes.flip(-1).to(centres.dtype).unsqueeze(1)).unsqueeze(-2)  # [B, Q, 1, 2]
        bias1 = bias1 + (weight1[..., channels:] * pixels).sum(-1).to(bias1.dtype)

        cells = torch.cat((image, -_cell_centres(image)), dim=1).flatten(2)  # [B, C + 2, h * w]
        hidden = torch.baddbmm(bias1.flatten(1).unsqueeze(-1), weight1.flatten(1, 2), cells).relu()  # [B, Q * D, h * w]
        hidden = hidden.unflatten(1, (-1, WIDTH)).flatten(0, 1)
        out = torch.baddbmm(bias2.flatten(0, 1).unsqueeze(-1), weight2.flatten(0, 1), hidden)  # [B * Q, D, h * w]
        return out.view(*parameters.shape[:2], WIDTH, height, width)

    @staticmethod
    def summed(memory: list[Tensor]) -> Tensor:
        """The levels, each enlarged to the finest by bicubic interpolation (a = -0.75) -> [B, C, h, w]."""
        size = memory[0].shape[2:]
        return sum((F.interpolate(level, size=size, mode="bicubic", align_corners=False) for level in memory[1:]), memory[0])

    def refine(self, masks: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """Sharpen [B, Q, D, h, w] by the image, at stride 8 and then at stride 4 -> [B, Q, D, H / 4, W / 4]."""
        queries = masks.shape[:2]
        masks = masks.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # narrow convolutions are 3 times faster so on a CPU
        masks = self._refine(masks, coarse, self.conv1_1div8, self.conv2_1div8)
        masks = F.interpolate(masks, size=fine.shape[2:], mode="bilinear", align_corners=False)
        return self._refine(masks, fine, self.conv1_1div4, self.conv2_1div4).unflatten(0, queries)

    @staticmethod
    def _refine(masks: Tensor, image: Tensor, conv1: nn.Conv2d, conv2: nn.Conv2d) -> Tensor:
        """masks [B * Q, D, h, w] + conv2(relu(conv1(relu(masks and image [B, channels, h, w])))).

        A convolution of joined channels is the sum of those of its parts, and the image's is the same for every query.
        """
        own, shared = conv1.weight.split((WIDTH, image.shape[1]), dim=1)
        of_image = F.conv2d(image.relu(), shared, conv1.bias, padding=1).unsqueeze(1)  # [B, 1, D, h, w]
        of_masks = F.conv2d(masks.relu(), own, padding=1).unflatten(0, (len(image), -1))  # [B, Q, D, h, w]
        return masks + conv2((of_masks + of_image).flatten(0, 1).relu())


def _cell_centres(image: Tensor) -> Tensor:
    """Where the cells of a map [B, C, h, w] lie in the image, in pixels as (x, y): [B, 2, h, w]."""
    height, width = image.shape[2:]
    y = torch.arange(height, device=image.device, dtype=image.dtype) * STRIDE + STRIDE // 2
    x = torch.arange(width, device=image.device, dtype=image.dtype) * STRIDE + STRIDE // 2
    return torch.stack((x.expand(height, width), y.unsqueeze(1).expand(height, width))).expand(len(image), -1, -1, -1)
