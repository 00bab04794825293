"""Every option's name, default, sentence and check, once: `ModelArgs`, `Workload`, `RunArgs`, `UniphdArgs`, `WholeWorkload`.

The builders, the command line, the records and the README all read these classes. No torch here.
`ModelArgs` keeps upstream's names and defaults (UniPHD, `models/uniphd`); what only the replacement reads starts with `efficient_`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from humar_bench.errors import UsageError

EFFICIENT_PREFIX = "efficient_"
BUILT_IN = {  # architecture -> its builder
    "original": "baselines.transformer:build_transformer",
    "original-fused": "baselines.fused:build_fused_transformer",
    "efficient": "efficient.transformer:build_efficient_conv_attention_transformer",
    "efficient-fused": "efficient.fused:build_fused_efficient_transformer",
    "efficient-accurate": "efficient.accurate:build_accurate_transformer",
}
ACCURATE = {  # what efficient-accurate fixes
    "efficient_decoder": "original", "efficient_decoder_sets": 1, "efficient_decoder_mlp_ratio": 4, "efficient_encoder_sets": 1,
}

BEST_FORMS = {"original": "original-fused"}  # as published -> the same outputs in the best implementation there is, the fairer reference


MOST_INT, MOST_FLOAT = 2**31 - 1, 1e9  # of every number that has no bound of its own: beyond it nothing here could work
MOST_SIDE, MOST_LEVELS = 65_536, 64  # of feature maps
LIMBS = (  # pairs of COCO's 17 keypoints that a bone joins, nose first: what a picture of them is drawn with
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14),
    (14, 16),
)
COCO_KEYPOINTS = 17
EXACT_INT = 2**53 - 1  # the largest whole number that every reader of JSON keeps
WEEK_S = 604_800.0


def _option(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: tuple | None = None,
    flags: tuple[str, ...] = (), words: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that carries its own sentence and check; `flags` where its option is not just called like the field, `words` what a
    shell completes where there are no choices."""
    told = {"help": help, "low": low, "high": high, "choices": choices, "flags": flags, "words": words}
    return field(default=default, metadata=told)


def _check_fields(options: Any) -> None:
    """Hold every field of a dataclass against its type, bounds and choices. Raises UsageError."""
    for option in dataclasses.fields(options):
        value, kind = getattr(options, option.name), type(option.default)
        name, low, choices = option.name, option.metadata.get("low"), option.metadata.get("choices")
        number, said = isinstance(value, (int, float)) and not isinstance(value, bool), f"{name} is {shown(value)}"
        if kind is bool and not isinstance(value, bool):
            raise UsageError(f"{said}; it must be true or false.")
        if kind is int and not (number and isinstance(value, int)):
            raise UsageError(f"{said}; it must be a whole number.")
        if kind is float and not (number and (isinstance(value, int) or math.isfinite(value))):
            raise UsageError(f"{said}; it must be a finite number.")
        if kind is str and not isinstance(value, str):
            raise UsageError(f"{said}; it must be text.")
        if low is not None and value < low:
            raise UsageError(f"{said}; it must be at least {low}.")
        high = option.metadata.get("high") or {int: MOST_INT, float: MOST_FLOAT}.get(kind)
        if high is not None and value > high:
            raise UsageError(f"{said}; it must be at most {high:,}.")
        if choices is not None and value not in choices:
            raise UsageError(f"{said}; choose one of {', '.join(map(str, choices))}.")


def shown(value: Any) -> str:
    """A value for a sentence, shortened where it is long. Python does not write whole numbers of more than 4,300 digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class ModelArgs:
    """The arguments both architectures are built from. Raises UsageError when a value cannot work."""

    hidden_dim: int = _option(256, "Width C of every token.", low=4, high=65_536)
    nheads: int = _option(8, "Attention heads M of the original.", low=1, high=4_096)
    dim_feedforward: int = _option(2048, "Hidden width of the original's feed-forward networks.", low=1, high=1_048_576)
    enc_layers: int = _option(6, "Encoder layers of the original.", low=1, high=1_024)
    dec_layers: int = _option(6, "Decoder iterations, both architectures.", low=1, high=1_024)
    enc_n_points: int = _option(4, "Sampling points per head and level in the original's encoder.", low=1, high=1_024)
    dec_n_points: int = _option(4, "Sampling points per head and level in the original's decoder.", low=1, high=1_024)
    num_feature_levels: int = _option(4, "Feature levels L.", low=1, high=MOST_LEVELS)
    num_queries: int = _option(20, "Instance queries Q.", low=1, high=1_000_000)
    num_body_points: int = _option(17, "Keypoints K per instance.", low=1, high=10_000)
    num_classes: int = _option(2, "Classes of the class heads.", low=1, high=1_000_000)
    dropout: float = _option(0.0, "Dropout rate in training.", low=0.0)
    transformer_activation: str = _option("relu", "Activation of the original's feed-forward networks.", choices=("relu", "gelu"))
    pre_norm: bool = _option(False, "Original: one more LayerNorm on the encoder's output.")
    within_type: str = _option(
        "attn_graph", "Original: graph bias of the within-instance attention, learned or constant.", choices=("attn_graph", "attn")
    )
    learnable_tgt_init: bool = _option(False, "Keypoint queries start from a buffer instead of the selected memory.")
    two_stage_type: str = _option("standard", "Two-stage scheme; the one that exists.", choices=("standard",))
    return_intermediate_dec: bool = _option(True, "Upstream's name; accepted, changes nothing.")
    pose_guide_trigger: bool = _option(False, "Upstream's name; accepted, changes nothing.")
    late_within_attn_trigger: bool = _option(True, "Upstream's name; accepted, changes nothing.")
    efficient_nheads: int = _option(4, "Attention heads of the replacement.", low=1, high=4_096)
    efficient_enc_layers: int = _option(4, "Encoder blocks of the replacement.", low=1, high=1_024)
    efficient_mlp_ratio: int = _option(2, "Hidden width of the replacement's MLPs, in multiples of C.", low=1, high=1_024)
    efficient_decoder_mlp_ratio: int = _option(
        0, "The same of the decoder's MLPs alone; 0: as all, in the original's decoder as dim_feedforward.", low=0, high=1_024
    )
    efficient_rank: int = _option(
        0, "Inner width of the replacement's projections in attention and MLPs, each a product of two matrices; 0: one matrix.", low=0,
        high=65_536,
    )
    efficient_encoder_sets: int = _option(1, "Encoder weight sets, used in turn; as many as blocks means untied.", low=1)
    efficient_decoder_sets: int = _option(1, "Decoder weight sets, used in turn; as many as dec_layers means untied.", low=1)
    efficient_decoder: str = _option(
        "own", "The decoder behind the replacement's encoder: its own, or the original's with the original's arguments.",
        choices=("own", "original"),
    )
    efficient_encoder_stride: int = _option(2, "Side of the cells the encoder blocks work on; 1 is full resolution.", low=1, high=1_024)
    efficient_memory_stride: int = _option(2, "Side of the cells the cross-attention looks at; 1 is full resolution.", low=1, high=1_024)
    efficient_cross_tokens: str = _option(
        "none", "Tokens that do cross-attention to the whole memory.", choices=("none", "instance", "all")
    )
    efficient_local_conv: bool = _option(True, "Two separable convolutions ahead of the encoder blocks.")
    efficient_value_conv: bool = _option(True, "A depthwise convolution on V beside each linear attention of the encoder.")
    efficient_window: int = _option(
        0, "Side in cells of local windows whose tokens attend to each other, beside each linear attention of the encoder; 0: none.", low=0,
        high=1_024,
    )
    efficient_encoder_samples: bool = _option(True, "Bilinear samples of every level around each token, ahead of the encoder blocks.")
    efficient_point_samples: bool = _option(True, "Bilinear samples of the memory around each token's reference point.")
    efficient_sample_heads: int = _option(
        0, "Heads that each take a sample of every level at a learned offset from the reference point; 0: as many as nheads.", low=0,
        high=4_096,
    )
    efficient_sample_points: int = _option(1, "Samples of every level that each of these heads takes.", low=1, high=1_024)
    efficient_across_tokens: str = _option("instance", "Tokens that attend to those of other instances.", choices=("instance", "all"))
    efficient_look_mlp: bool = _option(True, "A second MLP in a decoder iteration, after the look into the image.")
    efficient_instance_iterations: int = _option(
        3, "First decoder iterations that move the instance token alone, as far as they are at most half of dec_layers.", low=0, high=1_024
    )
    efficient_exit_below: float = _option(
        0.0, "In inference no decoder iteration more once no keypoint of the batch moved so far, in widths of the image; 0: all.", low=0,
        high=1,
    )
    efficient_graph_bias: bool = _option(True, "A learned bias per head and pair of tokens in the graph attention.")
    efficient_skeleton_hops: int = _option(
        0, "Bones of the COCO skeleton that the graph attention sees across, beside the instance token; 0: all pairs of tokens.", low=0,
        high=1_024,
    )

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.dropout >= 1:
            raise UsageError(f"dropout is {self.dropout}; it must be below 1.")
        for heads in ("nheads", EFFICIENT_PREFIX + "nheads"):
            if self.hidden_dim % getattr(self, heads):
                raise UsageError(
                    f"{heads} {getattr(self, heads)} does not divide hidden_dim {self.hidden_dim}; choose a number of heads that does."
                )
        if self.efficient_sample_heads and self.hidden_dim % self.efficient_sample_heads:
            raise UsageError(f"efficient_sample_heads {self.efficient_sample_heads} does not divide hidden_dim {self.hidden_dim}; it must.")
        for name, without in (("efficient_sample_heads", 0), ("efficient_sample_points", 1)):
            if getattr(self, name) != without and not (self.efficient_point_samples or self.efficient_encoder_samples):
                raise UsageError(
                    f"{name} is {getattr(self, name)}, and efficient_point_samples and efficient_encoder_samples are off; turn one on."
                )
        if self.efficient_skeleton_hops and self.num_body_points != COCO_KEYPOINTS:
            raise UsageError(
                f"efficient_skeleton_hops is {self.efficient_skeleton_hops} and num_body_points {self.num_body_points}; the skeleton is of "
                f"COCO's {COCO_KEYPOINTS} keypoints, so ask for those or for 0 hops."
            )
        if self.hidden_dim % 4:
            raise UsageError(f"hidden_dim is {self.hidden_dim}; it must be a multiple of 4 (sine and cosine for x and for y).")
        for sets, layers in (("encoder_sets", "efficient_enc_layers"), ("decoder_sets", "dec_layers")):
            if getattr(self, EFFICIENT_PREFIX + sets) > getattr(self, layers):
                raise UsageError(
                    f"{EFFICIENT_PREFIX}{sets} {getattr(self, EFFICIENT_PREFIX + sets)} is more than {layers} "
                    f"{getattr(self, layers)}; a set that is never used would be dead weight."
                )

    @classmethod
    def of(cls, args: Any) -> ModelArgs:
        """Read any object with upstream's attribute names (an argparse namespace, a ModelArgs); what it lacks takes its default."""
        if isinstance(args, cls):
            return args
        known = {option.name: getattr(args, option.name) for option in dataclasses.fields(cls) if hasattr(args, option.name)}
        return cls(**known)


Size = tuple[int, int]
PHOTO: Size = (480, 640)  # upstream's transforms scale to at most 640 pixels
STRIDES = (8, 16, 32, 64, 128)


def parse_size(text: str) -> Size:
    """'50x67' -> (50, 67), height first. Raises UsageError."""
    match = re.fullmatch(r"\s*0*(\d+)\s*[xX]\s*0*(\d+)\s*", text, re.ASCII)
    if not match or "0" in match.groups():
        raise UsageError(f"the size {shown(text)} is not HEIGHTxWIDTH; write two positive whole numbers, such as 50x67.")
    if max(map(len, match.groups())) > 6 or max(size := (int(match[1]), int(match[2]))) > 8 * MOST_SIDE:
        raise UsageError(f"the size {shown(text)} is beyond reason; a side of an image is at most {8 * MOST_SIDE:,}.")
    return size


def pyramid(image_size: Size, levels: int) -> tuple[Size, ...]:
    """Feature map sizes of an image at strides 8, 16, 32, ...: each level halves the one before, rounding up."""
    sizes = [(math.ceil(image_size[0] / 8), math.ceil(image_size[1] / 8))]
    while len(sizes) < levels:
        height, width = sizes[-1]
        sizes.append((math.ceil(height / 2), math.ceil(width / 2)))
    return tuple(sizes)


@dataclass(frozen=True)
class Workload:
    """What one forward is given. Raises UsageError when it cannot be.

    `feature_sizes` are (height, width) of each level; with `padded`, every image but the first is padding in its last quarter
    of rows and last 40 % of columns.
    """

    name: str = "uniphd"
    batch: int = _option(2, "Images per forward.", low=1, high=65_536)
    num_queries: int = _option(20, "Instance queries Q.", low=1, high=1_000_000)
    feature_sizes: tuple[Size, ...] = pyramid(PHOTO, 4)
    padded: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "num_queries"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} is {shown(value)}; it must be a whole number of at least 1.")
        _check_fields(self)
        if not self.feature_sizes:
            raise UsageError("feature_sizes is empty; name at least one level, such as 50x50.")
        if len(self.feature_sizes) > MOST_LEVELS:
            raise UsageError(f"feature_sizes names {len(self.feature_sizes)} levels; at most {MOST_LEVELS} work.")
        for side in (each for size in self.feature_sizes for each in size):
            if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MOST_SIDE:
                raise UsageError(f"feature_sizes holds a side of {shown(side)}; every side must be a whole number from 1 to {MOST_SIDE:,}.")
        if self.num_queries > self.tokens:
            raise UsageError(
                f"num_queries {self.num_queries} is more than the {self.tokens} memory tokens of feature_sizes "
                f"{self.sizes_text}; ask for fewer queries or larger maps."
            )

    @property
    def tokens(self) -> int:
        """Memory tokens S of one image."""
        return sum(height * width for height, width in self.feature_sizes)

    @property
    def sizes_text(self) -> str:
        return ",".join(f"{height}x{width}" for height, width in self.feature_sizes)

    @classmethod
    def speed_test(cls, batch: int = 2) -> Workload:
        """The published speed test: three levels of 50x50, 300 queries."""
        return cls("speed-test", batch, 300, ((50, 50),) * 3)

    @classmethod
    def uniphd(cls, batch: int = 2) -> Workload:
        """The model's real use: a 4:3 photo, which it scales to 640 pixels on the longer side, at strides 8 to 64; 20 queries."""
        return cls("uniphd", batch, 20, pyramid(PHOTO, 4))

    @classmethod
    def large(cls, batch: int = 2) -> Workload:
        """What detection papers use: an 800x1066 image at strides 8 to 64, 20 queries."""
        return cls("large", batch, 20, pyramid((800, 1066), 4))

    @classmethod
    def tiny(cls, batch: int = 2) -> Workload:
        """Seconds instead of minutes, for tests: four small odd-sized levels, 5 queries."""
        return cls("tiny", batch, 5, ((9, 7), (5, 4), (3, 2), (2, 1)))


FIRST_LOOK = 3  # processes before the first verdict
FEWEST_PROCESSES, MOST_PROCESSES = 5, 15  # that a speed comparison may take, unless others are asked for
PROCESS_S = 4.0  # of budget: what a process is worth starting for
EAGER = "eager"
BACKENDS = (EAGER, "compile", "cuda-graph", "compile-graph", "onnxruntime", "openvino")
# Number types by name; tf32 and int8 are float32 to everything but the backend: TF32 allowed in matrix products, int8 linear layers.
DTYPES = ("float32", "tf32", "bfloat16", "float16", "int8")
HELD_IN_FLOAT32 = ("tf32", "int8")
# Of the whole model, by upstream's names; the first of each is the published one.
BACKBONES = (
    "swin_T_224_1k", "segformer_mit_b0", "segformer_mit_b1", "mobilevit_xxs", "mobilevit_xs", "mobilevit_s", "efficientformerv2_s0",
    "efficientformerv2_s1", "efficientformerv2_s2", "poolformer_s12", "poolformer_s24", "poolformer_s36",
)
TEXT_ENCODERS = ("roberta", "minilm", "distilbert", "tinybert", "albert", "mobilebert", "tite")
SMALL_BACKBONES, SMALL_TEXT_ENCODERS = ("small_conv",), ("tiny",)  # nobody's published ones: small enough to train on a CPU

WORKLOADS = {"speed-test": Workload.speed_test, "uniphd": Workload.uniphd, "large": Workload.large, "tiny": Workload.tiny}


@dataclass(frozen=True)
class RunArgs:
    """How to measure. Raises UsageError when a value cannot work."""

    device: str = _option("auto", "cpu, cuda, cuda:N, or auto: cuda where there is one.", words=("auto", "cpu", "cuda"))
    dtype: str = _option(
        "float32", "Number type of weights and inputs; tf32: matrix units on CUDA, int8: linear layers on the CPU.", choices=DTYPES
    )
    backend: str = _option(EAGER, "What runs the forwards of every architecture that is timed.", choices=BACKENDS)
    seed: int = _option(0, "Seed of weights, inputs and orders.", low=0, high=EXACT_INT)
    threads: int = _option(0, "CPU threads; 0 keeps torch's own number.", low=0, high=1_024)
    processes: int = _option(
        0, "Fresh child processes of a speed comparison, at most; 0: one per 4 s of budget, 5 to 15.", low=0, high=10_000
    )
    first_look: int = _option(FIRST_LOOK, "Processes after which verdicts are looked at for the first time.", low=2, high=10_000)
    control: bool = _option(
        True, "Time the reference twice, as a control that this machine does not tell equals apart.", flags=("--control/--no-control",)
    )
    min_runs: int = _option(3, "Timed forwards per architecture, at least, over all processes.", low=1, high=1_000_000_000)
    max_runs: int = _option(1000, "Timed forwards per architecture, at most, over all processes.", low=1, high=1_000_000_000)
    budget: float = _option(60.0, "Seconds of timed forwards per architecture, over all processes.", low=0.1, high=WEEK_S)
    timeout: float = _option(900.0, "Seconds after which one child process is stopped and recorded as failed.", low=1, high=WEEK_S)

    def __post_init__(self) -> None:
        _check_fields(self)
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", self.device, re.ASCII):
            raise UsageError(f"device is {shown(self.device)}; choose cpu, cuda, cuda:N or auto.")
        if self.max_runs < self.min_runs:
            raise UsageError(f"max_runs {self.max_runs} is below min_runs {self.min_runs}; raise one or lower the other.")

    @property
    def most_processes(self) -> int:
        """Processes a speed comparison may take; each has at least one timed forward. Fewer once every verdict is made."""
        asked = self.processes or min(max(FEWEST_PROCESSES, int(self.budget // PROCESS_S)), MOST_PROCESSES)
        return min(asked, self.max_runs)

    @property
    def looks_from(self) -> int:
        """`first_look`, or the last process where there are fewer."""
        return min(self.first_look, self.most_processes)


PROMPTS = ("text", "scribble", "point")
BACKBONE_MAPS = (0, 1, 2, 3)  # strides 4, 8, 16, 32


@dataclass(frozen=True)
class UniphdArgs:
    """What the whole model is built from beside `ModelArgs`, by upstream's names. Raises UsageError when a value cannot work."""

    backbone: str = _option(BACKBONES[0], "Backbone: the four maps of an image.", choices=(*BACKBONES, *SMALL_BACKBONES))
    text_encoder_type: str = _option(
        TEXT_ENCODERS[0], "Text encoder: the features of a caption.", choices=(*TEXT_ENCODERS, *SMALL_TEXT_ENCODERS)
    )
    train_trigger: frozenset[str] = _option(frozenset(PROMPTS), "Prompts it is built for, as words: text, scribble, point.")
    no_mask: bool = _option(False, "No mask head; every mask is ones.")
    kps_visi_trigger: bool = _option(True, "Heads for the visibility of keypoints.")
    pe_temperatureH: float = _option(20.0, "Temperature of the position embedding's y half.", low=1e-3)
    pe_temperatureW: float = _option(20.0, "Temperature of the position embedding's x half.", low=1e-3)
    freeze_text_encoder: bool = _option(False, "The text encoder's weights get no gradient.")
    return_interm_indices: tuple[int, ...] = _option(BACKBONE_MAPS, "Maps of the backbone; only all four work.")

    def __post_init__(self) -> None:
        _check_fields(self)
        object.__setattr__(self, "train_trigger", _prompts(self.train_trigger))
        if isinstance(self.return_interm_indices, list):
            object.__setattr__(self, "return_interm_indices", tuple(self.return_interm_indices))
        if self.return_interm_indices != BACKBONE_MAPS:
            raise UsageError(
                f"return_interm_indices is {shown(self.return_interm_indices)}; it must be {BACKBONE_MAPS}: masks need strides 4 and 8."
            )

    @classmethod
    def of(cls, args: Any) -> UniphdArgs:
        """Read any object with upstream's attribute names (an argparse namespace, a UniphdArgs); what it lacks takes its default."""
        if isinstance(args, cls):
            return args
        return cls(**{option.name: getattr(args, option.name) for option in dataclasses.fields(cls) if hasattr(args, option.name)})


def _prompts(words: Any) -> frozenset[str]:
    """'text point', or its words in any container -> a set of `PROMPTS`. Raises UsageError."""
    found = re.split(r"[\s,]+", words.strip()) if isinstance(words, str) else list(words) if isinstance(words, Collection) else []
    unknown = [word for word in found if word not in PROMPTS]
    if unknown or not found:
        raise UsageError(f"train_trigger is {shown(words)}; write one or more of the words {', '.join(PROMPTS)}.")
    return frozenset(found)


SHOWN_MASKS = ("all", "best", "none", "looped")  # looped: all, in one pass a query, as the published code makes them
IMAGE_MULTIPLE = 16  # both sides of a padded image are multiples of it
LONGEST_CAPTION = 512  # tokens; what every text encoder takes
WHOLE_LEVELS = 3  # the fewest: one for each backbone map at strides 8, 16 and 32
WHOLE_IMAGES = {"uniphd": (480, 640), "large": (800, 1066), "tiny": (64, 96)}  # workload -> image size


@dataclass(frozen=True)
class WholeWorkload(Workload):
    """What one forward of the whole model is given, and the parts around its transformer. Raises UsageError when it cannot be.

    `image_size` is (height, width) of the first image, before padding to multiples of 16; with `padded`, all others are three quarters as
    high and 60 % as wide. `feature_sizes` follow from it; only their number counts when it is made.
    """

    image_size: Size = WHOLE_IMAGES["uniphd"]
    backbone: str = _option(BACKBONES[0], "Backbone of the whole model.", choices=BACKBONES)
    text_encoder: str = _option(TEXT_ENCODERS[0], "Text encoder of the whole model.", choices=TEXT_ENCODERS)
    prompt: str = _option("text", "What says whom to find: text, point or scribble.", choices=PROMPTS)
    caption_tokens: int = _option(12, "Tokens of each caption.", low=1)
    masks: str = _option(
        "all", "Masks that are made: of all queries, of the best-scored alone, none; looped: one by one.", choices=SHOWN_MASKS
    )
    backbone_weights: str = _option("", "Folder with the backbone's weights (model.safetensors); random without.")
    text_weights: str = _option("", "Folder with the text encoder's weights, and its tokenizer; random without.")
    pretrained: bool = _option(False, "Published weights of both, from the Hugging Face hub or its cache.")
    subject: str = "uniphd"

    def __post_init__(self) -> None:
        _check_fields(self)
        for name in ("backbone_weights", "text_weights"):
            if self.pretrained and getattr(self, name):
                raise UsageError(f"{name} is {shown(getattr(self, name))} and pretrained was asked for; give one of the two.")
        if self.caption_tokens > LONGEST_CAPTION:
            raise UsageError(f"caption_tokens is {self.caption_tokens}; the text encoders take at most {LONGEST_CAPTION}.")
        if len(self.feature_sizes) < WHOLE_LEVELS:
            raise UsageError(f"num_feature_levels is {len(self.feature_sizes)}; the whole model has at least {WHOLE_LEVELS}.")
        if min(self.image_size) < 1:
            raise UsageError(f"image_size is {self.image_size}; every side must be at least 1.")
        object.__setattr__(self, "feature_sizes", pyramid(self.padded_size, len(self.feature_sizes)))
        super().__post_init__()

    @property
    def padded_size(self) -> Size:
        """(height, width) of the padded batch."""
        height, width = (math.ceil(side / IMAGE_MULTIPLE) * IMAGE_MULTIPLE for side in self.image_size)
        return height, width

    def own(self, settings: Mapping[str, str], name: str) -> WholeWorkload:
        """The workload of an architecture that has parts of its own (`ARM_SETTINGS`); images and prompts stay. Raises UsageError."""
        for part, weights in (("backbone", self.backbone_weights), ("text_encoder", self.text_weights)):
            if weights and settings.get(part, getattr(self, part)) != getattr(self, part):
                raise UsageError(f"{name} has the {part} {settings[part]}, and the weights in {weights} are of {getattr(self, part)}.")
        try:
            return dataclasses.replace(self, **settings)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None

    @property
    def image_sizes(self) -> tuple[Size, ...]:
        """(height, width) of every image of the batch, without padding."""
        height, width = self.image_size
        smaller = (math.ceil(0.75 * height), math.ceil(0.6 * width)) if self.padded else self.image_size
        return (self.image_size, *(smaller,) * (self.batch - 1))


FREE, INPUTS = "free", "inputs"  # the subject of a model that is called by --inputs; its workload, where nothing but the batch is asked
INPUTS_FORMS = "as in file.py:function or package.module:function"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
ARM_SETTINGS = ("backbone", "text_encoder", "masks")  # what one architecture may have otherwise: NAME=ARCH[masks=best]


@dataclass(frozen=True)
class FreeWorkload(Workload):
    """What one forward of anybody's model is given: what a function makes for `batch` of them. Raises UsageError when it cannot be.

    `inputs` is 'path/file.py:function' or 'package.module:function'; `components` are names of parts with the beginnings of their modules'
    paths. Queries and maps are there for a function that asks for the workload.
    """

    name: str = INPUTS
    inputs: str = ""
    components: tuple[tuple[str, tuple[str, ...]], ...] = ()
    subject: str = FREE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.inputs, str) or ":" not in self.inputs:
            raise UsageError(f"inputs is {shown(self.inputs)}; name the function that makes them, {INPUTS_FORMS}.")
        for each in self.components if isinstance(self.components, tuple) else [self.components]:
            name, prefixes = each if isinstance(each, tuple) and len(each) == 2 else (None, None)
            if not name or not prefixes or not isinstance(prefixes, tuple) or not all(isinstance(one, str) for one in (name, *prefixes)):
                raise UsageError(f"components holds {shown(each)}; it must hold names, each with beginnings of modules' paths.")

    @classmethod
    def around(cls, base: Workload, inputs: str, components: Mapping[str, Collection[str]] | None = None) -> FreeWorkload:
        """The batch of a workload, and its queries and maps for whoever asks. Raises UsageError."""
        pairs = tuple((name, (each,) if isinstance(each, str) else tuple(each)) for name, each in (components or {}).items())
        usual = base == Workload.uniphd(base.batch)
        return cls(INPUTS if usual else base.name, base.batch, base.num_queries, base.feature_sizes, base.padded, inputs, pairs)


_WORKLOADS_OF: dict[str, type[Workload]] = {"": Workload, "uniphd": WholeWorkload, FREE: FreeWorkload}  # subject -> its workload


def read_workload(values: Mapping[str, Any]) -> Workload:
    """A record's or request's workload as the object it was; its `subject` says of which kind, and the transformer's has none.

    What a later version added is passed over. Raises UsageError, TypeError or ValueError for values that can be no workload.
    """
    subject = values.get("subject", "")
    if subject not in _WORKLOADS_OF:
        raise UsageError(f"subject is {subject!r}; this version knows uniphd, {FREE} and, where there is none, the transformer.")
    kind = _WORKLOADS_OF[subject]
    known = {option.name: values[option.name] for option in dataclasses.fields(kind) if option.name in values}
    known["feature_sizes"] = tuple((height, width) for height, width in values["feature_sizes"])
    if "image_size" in known:
        known["image_size"] = tuple(known["image_size"])
    if "components" in known:
        known["components"] = tuple((name, tuple(each) if isinstance(each, list) else each) for name, each in values["components"])
    return kind(**known)


class Keywords(dict):
    """Inputs that a model is given by name; the last of the inputs, where there are any."""
