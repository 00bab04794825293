"""Text encoders of the whole model, by name: token ids in, features of tokens and sentence out."""

from humar_bench.uniphd.text_encoders.build import build_text_encoder
from humar_bench.uniphd.text_encoders.encoder import TextEncoder
from humar_bench.uniphd.text_encoders.tiny import WordTokenizer
from humar_bench.uniphd.text_encoders.tokens import Tokenizer, WordPieceTokenizer, benchmark_ids, load_tokenizer

__all__ = [
    "TextEncoder", "Tokenizer", "WordPieceTokenizer", "WordTokenizer", "benchmark_ids", "build_text_encoder", "load_tokenizer",
]
