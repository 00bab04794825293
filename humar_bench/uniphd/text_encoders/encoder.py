"""What every text encoder gives, and the one thing it refuses.

Shapes: B captions, T tokens, D width, T' tokens given (T, or the one that TITE leaves).
"""

from __future__ import annotations

from torch import Tensor, nn

from humar_bench.errors import UsageError


class TextEncoder(nn.Module):
    """Token ids -> features of the tokens and of the sentence. Its parameters are called `text_backbone.*`."""

    width: int  # D
    max_tokens: int  # the longest T
    vocabulary: int  # ids are below this
    pad_id: int  # the id that stands at padding

    def encode(self, ids: Tensor, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, with token [B, T] bool."""
        raise NotImplementedError

    def forward(self, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ids [B, T] int64, attention [B, T] with 1 = token -> features [B, T', D], padding [B, T'] (True = padding), sentence [B, D].

        Raises UsageError when T is 0 or more than `max_tokens`.
        """
        if not 1 <= ids.shape[1] <= self.max_tokens:
            raise UsageError(f"a caption has {ids.shape[1]} tokens; this text encoder takes 1 to {self.max_tokens}.")
        return self.encode(ids, attention == 1)
