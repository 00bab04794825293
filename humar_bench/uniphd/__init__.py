"""What the replacement keeps of the whole model: backbones, text encoders, prompts, fusion, heads, masks, assembly."""

from humar_bench.uniphd.batch import padded_batch
from humar_bench.uniphd.model import UniPHD, UniphdOutput, build_uniphd
from humar_bench.uniphd.prompts import Captions, Points, Scribbles, TextFeatures, check_prompt

__all__ = ["Captions", "Points", "Scribbles", "TextFeatures", "UniPHD", "UniphdOutput", "build_uniphd", "check_prompt", "padded_batch"]
