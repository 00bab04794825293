"""Is a checkpoint harmless to unpickle? Its pickles are walked opcode by opcode and nothing is built.

`torch.load(weights_only=True)` runs no foreign code, and it still can be made to take all memory, to loop, or to read beyond a storage:
dictionaries keyed by nested tuples, marks by the million, storages that claim more than their file holds. What training scripts write
needs none of this, so whatever goes beyond it is refused. Torch is imported only inside functions.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

MOST_OPCODES = 500_000  # a checkpoint takes about 40 for each tensor
MOST_MARKS = 1_000  # open at the same time: one for each level of lists and dictionaries
MOST_PICKLED = 64 * 2**20  # bytes of everything that is no tensor
MOST_DIRECTORY = 16 * 2**20  # bytes of a zip archive's list of its files
MOST_IN_A_TUPLE = 1_000  # values, those of tuples inside it counted
MOST_PLACE = 2**63
LEGACY_PICKLES = 5  # magic number, protocol, the writer's system, the object, its storages' keys
PICKLE = "data.pkl"
REBUILT = {f"torch._utils.{name}" for name in (
    "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_parameter_with_state",
    "_rebuild_meta_tensor_no_storage", "_rebuild_qtensor", "_rebuild_sparse_tensor",
)}  # what load_checkpoint does not take of these it refuses by what the tensor is
PLAIN = {"collections.OrderedDict", "collections.Counter", "argparse.Namespace", "torch.Size", "torch.device", "_codecs.encode",
         "torch.nn.parameter.Parameter", "torch.serialization._get_layout", "torch.storage.UntypedStorage"}
ITEM_BYTES = {  # of an element of torch's storage classes, before "Storage"
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexDouble": 16, "ComplexFloat": 8, "QUInt8": 1, "QInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1, "Untyped": 1,
}
MADE_EMPTY = ("argparse.Namespace", "collections.OrderedDict")


class Refused(ValueError):
    """A pickle that goes beyond what training scripts write; says how, as part of a sentence."""


class AsksForCode(Refused):
    """It names something that is neither a tensor nor a plain container."""


class _Tuple:
    __slots__ = ("items", "weight")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.weight = 1 + sum(each.weight if isinstance(each, _Tuple) else 1 for each in items)
        if self.weight > MOST_IN_A_TUPLE:
            raise Refused(f"it holds a tuple of more than {MOST_IN_A_TUPLE:,} values")


class _Made:
    """A list, a dictionary, a tensor, ...: `kind` and about how many values it holds."""

    __slots__ = ("kind", "size")

    def __init__(self, kind: str) -> None:
        self.kind, self.size = kind, 0


class _Named:
    """A function or class by its name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Walk:
    """One pickle after the other. `held` gives the bytes that the file holds for a storage's key, None where it has no such key; all
    storages together may claim no more than `most`."""

    def __init__(self, held: Callable[[str], int | None], most: int) -> None:
        self.held, self.most, self.work = held, most, 0
        self.claimed: dict[str, int] = {}
        self.total = 0

    def pickle(self, stream: BinaryIO) -> None:
        """Walk to the end of one pickle. Raises Refused, or ValueError where the bytes are none."""
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(stream):
            self.spend(1)
            if (step := _STEPS.get(opcode.name)) is None:
                raise Refused(f"it uses the pickle opcode {opcode.name}, which torch.save does not")
            step(self, argument)

    def spend(self, work: int) -> None:
        """Every opcode and every value that is copied counts."""
        self.work += work
        if self.work > MOST_OPCODES:
            raise Refused(f"its pickle takes more than {MOST_OPCODES:,} steps to read")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []
        if len(self.marked) > MOST_MARKS:
            raise Refused(f"it is nested more than {MOST_MARKS:,} levels deep")

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("a tuple of what is not there")
        items = self.stack[-count:]
        del self.stack[-count:]
        self.push(_Tuple(items))

    def extend(self, items: list[Any]) -> None:
        self._container("list").size += len(items)

    def assign(self, pairs: list[Any]) -> None:
        if len(pairs) % 2:
            raise ValueError("a key without a value")
        for key in pairs[::2]:
            if not (key is None or isinstance(key, (str, float)) or isinstance(key, int) and -MOST_PLACE <= key < MOST_PLACE):
                raise Refused("it holds a dictionary whose keys are neither text nor 64-bit numbers")
        self._container("dict").size += len(pairs) // 2

    def _container(self, kind: str) -> _Made:
        made = self.stack[-1]
        if not isinstance(made, _Made) or made.kind != kind:
            raise ValueError(f"no {kind} to fill")
        return made

    def pair(self, _: Any) -> None:
        items = [self.stack.pop(), self.stack.pop()]
        self.assign(items[::-1])

    def named(self, argument: str) -> None:
        name = ".".join(argument.split(" ", 1))
        if name not in REBUILT | PLAIN and not _is_torch_type(name):
            raise AsksForCode(name)
        self.push(_Named(name))

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, _Tuple) or not isinstance(function, _Named):
            raise ValueError("no function and arguments")
        name, given = function.name, arguments.items
        if name == "collections.Counter":
            if len(given) > 1 or given and not (isinstance(given[0], _Made) and given[0].kind == "dict"):
                raise Refused("it counts something else than it stored")
            self.spend(given[0].size if given else 0)
        elif name in MADE_EMPTY and given:
            raise Refused(f"it makes a {name} of something")
        elif name == "_codecs.encode":
            if len(given) != 2 or not isinstance(given[0], str) or given[1] not in ("latin1", "latin-1", "utf-8", "ascii"):
                raise Refused("it encodes something else than text")
            self.spend(len(given[0]))
        elif name not in REBUILT | {"torch.Size", "torch.device", "torch.serialization._get_layout", *MADE_EMPTY}:
            raise AsksForCode(name)
        self.push(_Made("dict" if name.startswith("collections.") else name))

    def new(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Named) or not isinstance(arguments, _Tuple) or function.name not in MADE_EMPTY or arguments.items:
            raise AsksForCode(getattr(function, "name", "a Python object"))
        self.push(_Made("dict" if function.name.startswith("collections.") else function.name))

    def build(self, _: Any) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, _Made) or made.kind not in ("dict", *MADE_EMPTY):
            raise Refused("it sets the inside of something that is no plain container")
        if not isinstance(state, _Made) or state.kind != "dict":
            raise Refused("it sets the inside of a container to something that is no dictionary")
        self.spend(state.size)

    def storage(self, _: Any) -> None:
        """('storage', type, key, location, number of elements[, view]): no more elements than the file holds bytes for."""
        about = self.stack.pop()
        items = about.items if isinstance(about, _Tuple) else []
        if len(items) not in (5, 6) or items[0] != "storage" or not isinstance(items[1], _Named):
            raise Refused("it refers to something that is no storage")
        key, elements = items[2], items[4]
        if not isinstance(key, str) or type(elements) is not int or items[5:] not in ([], [None]):
            raise Refused("it refers to a storage in a way that torch.save does not")
        if not _is_storage(last := items[1].name.rpartition(".")[2]):
            raise Refused("it refers to a storage of an unknown type")
        there, claimed = self.held(key), elements * ITEM_BYTES[last.removesuffix("Storage")]
        self.total += max(0, claimed - self.claimed.get(key, 0))
        self.claimed[key] = max(claimed, self.claimed.get(key, 0))
        if there is None or not 0 <= claimed <= there or self.total > self.most:
            raise Refused(f"its storage {key[:20]!r} claims {elements} elements and the file does not hold them")
        self.push(_Made("storage"))

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]


def _is_torch_type(name: str) -> bool:
    """torch.float32, torch.FloatStorage."""
    import torch

    module, _, last = name.rpartition(".")
    return module == "torch" and (_is_storage(last) or isinstance(vars(torch).get(last), (torch.dtype, torch.qscheme)))


def _is_storage(last: str) -> bool:
    return last.endswith("Storage") and last.removesuffix("Storage") in ITEM_BYTES


def _atoms(names: str) -> dict[str, Callable[[_Walk, Any], None]]:
    return dict.fromkeys(names.split(), _Walk.push)


_STEPS: dict[str, Callable[[_Walk, Any], Any]] = {
    "PROTO": lambda walk, argument: None, "STOP": lambda walk, argument: walk.stack.pop(), "MARK": _Walk.mark,
    **_atoms("BININT BININT1 BININT2 BINFLOAT BINUNICODE SHORT_BINSTRING LONG1"),
    "NONE": lambda walk, argument: walk.push(None), "NEWTRUE": lambda walk, argument: walk.push(True),
    "NEWFALSE": lambda walk, argument: walk.push(False),
    "EMPTY_TUPLE": lambda walk, argument: walk.push(_Tuple([])), "TUPLE": lambda walk, argument: walk.push(_Tuple(walk.since_mark())),
    "TUPLE1": lambda walk, argument: walk.tuple_of(1), "TUPLE2": lambda walk, argument: walk.tuple_of(2),
    "TUPLE3": lambda walk, argument: walk.tuple_of(3),
    "EMPTY_LIST": lambda walk, argument: walk.push(_Made("list")), "EMPTY_DICT": lambda walk, argument: walk.push(_Made("dict")),
    "APPEND": lambda walk, argument: walk.extend([walk.stack.pop()]), "APPENDS": lambda walk, argument: walk.extend(walk.since_mark()),
    "SETITEM": _Walk.pair, "SETITEMS": lambda walk, argument: walk.assign(walk.since_mark()),
    "GLOBAL": _Walk.named, "REDUCE": _Walk.call, "NEWOBJ": _Walk.new, "BUILD": _Walk.build, "BINPERSID": _Walk.storage,
    "BINPUT": _Walk.put, "LONG_BINPUT": _Walk.put,
    "BINGET": lambda walk, place: walk.push(walk.memo[place]), "LONG_BINGET": lambda walk, place: walk.push(walk.memo[place]),
}


def check_checkpoint(file: BinaryIO) -> None:
    """Hold an open checkpoint, from its first byte on, against what torch.save writes; the file is left at its first byte again.

    Raises Refused for what goes beyond it (AsksForCode where it names what is no tensor), ValueError and its like for bytes that are none.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    first = file.read(4)
    file.seek(0)
    try:
        if first == b"PK\x03\x04":
            _check_archive(file, size)
        else:
            _check_legacy(file, size)
    finally:
        file.seek(0)


def _check_archive(file: BinaryIO, size: int) -> None:
    """A zip archive of stored files: one pickle, and a file for each storage."""
    if (listed := _directory_bytes(file, size)) > MOST_DIRECTORY:
        raise Refused(f"its list of files takes {listed / 2**20:,.0f} MiB, more than {MOST_DIRECTORY // 2**20}")
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if any(each.compress_type != zipfile.ZIP_STORED or each.compress_size != each.file_size for each in infos):
            raise Refused("its files are compressed, which torch.save never does")
        names = {each.filename: each.file_size for each in infos}
        if len(names) != len(infos) or sum(names.values()) > size:
            raise Refused("its files lie over each other")
        pickles = [name for name in names if name.rpartition("/")[2] == PICKLE]
        if len(pickles) != 1:
            raise ValueError(f"it holds {len(pickles)} files called {PICKLE}")
        if names[pickles[0]] > MOST_PICKLED:
            raise Refused(_too_much())
        folder = pickles[0].removesuffix(PICKLE)
        with archive.open(pickles[0]) as stream:
            _Walk(lambda key: names.get(f"{folder}data/{key}"), size).pickle(io.BytesIO(stream.read()))


def _directory_bytes(file: BinaryIO, size: int) -> int:
    """Size of a zip archive's central directory, from the record at its end (PKWARE's APPNOTE, 4.3.14 and 4.3.16)."""
    file.seek(max(0, size - 2**16 - 200))
    end = file.read()
    file.seek(0)
    found, found_64 = end.rfind(b"PK\x05\x06"), end.rfind(b"PK\x06\x06")
    sizes = [struct.unpack_from("<L", end, found + 12)[0]] if 0 <= found <= len(end) - 22 else []
    sizes += [struct.unpack_from("<Q", end, found_64 + 40)[0]] if 0 <= found_64 <= len(end) - 56 else []
    return max((each for each in sizes if each != 0xFFFFFFFF), default=0)


def _check_legacy(file: BinaryIO, size: int) -> None:
    """Pickles one after the other, then the storages: together they cannot be larger than the file."""
    walk, stream = _Walk(lambda key: size, size), _Bounded(file)
    for _ in range(LEGACY_PICKLES):
        walk.pickle(stream)


class _Bounded:
    """A file that ends, for its reader, after `MOST_PICKLED` bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, MOST_PICKLED

    def read(self, count: int) -> bytes:
        return self._taken(self.file.read(min(count, self.left + 1)))

    def readline(self) -> bytes:
        return self._taken(self.file.readline(self.left + 1))

    def _taken(self, piece: bytes) -> bytes:
        self.left -= len(piece)
        if self.left < 0:
            raise Refused(_too_much())
        return piece


def _too_much() -> str:
    return f"what is no tensor in it takes more than {MOST_PICKLED // 2**20} MiB"
