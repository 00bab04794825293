"""onnxruntime: the forward exported to an ONNX file, run by a session on the CPU or on CUDA.

With int8, the file's matrix products with constant weights are quantised dynamically by onnxruntime's own tool.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from humar_bench.backends import Prepared
from humar_bench.backends.exporting import Unflatten, export, quiet, reason
from humar_bench.backends.tensors import folder_bytes, leaves, split
from humar_bench.errors import MeasurementError

LARGEST_FILE = 2**31 - 2**20  # bytes of weights that one protobuf file can hold; above it they go into a file beside it


def prepare(name: str, model: nn.Module, inputs: Any, *, dtype: str) -> Prepared:
    """Export, quantise where asked, and load. The files are gone when this returns; their size is kept."""
    import onnxruntime

    cuda = leaves(split(inputs))[0].is_cuda
    provider = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
    if provider not in (has := onnxruntime.get_available_providers()):
        raise MeasurementError(f"this onnxruntime has no {provider} (it has {', '.join(has)}); install onnxruntime-gpu instead of it.")
    program, outputs_of = export(model, inputs)
    with tempfile.TemporaryDirectory(prefix="humar-bench-onnx-", dir=os.environ.get("HUMAR_BENCH_FOLDER")) as folder:
        path, operators = _write(program, model, folder)
        if dtype == "int8":
            path = _quantised(path)
        file_bytes = folder_bytes(os.path.dirname(path))
        session = _session(path, provider, dtype)
    did = {
        "threads": torch.get_num_threads() if not cuda else None, "providers": session.get_providers(), "operators": operators,
        "file_bytes": file_bytes, "version": onnxruntime.__version__,
    }
    if dtype == "int8":
        did["int8_by"] = "onnxruntime's dynamic quantisation"
    names = _input_names(session, inputs)
    call = _cuda_call(session, names, outputs_of, _outputs_like(model, inputs)) if cuda else _cpu_call(session, names, outputs_of)
    return Prepared(call, did, needs_model=False, overwrites=cuda)


def _write(program: Any, model: nn.Module, folder: str) -> tuple[str, int]:
    """The ONNX file in a folder of its own, and how many operators it has."""
    path = os.path.join(folder, "float", "model.onnx")
    os.mkdir(os.path.dirname(path))
    large = sum(each.numel() * each.element_size() for each in model.parameters()) > LARGEST_FILE
    try:
        with quiet(), torch.no_grad():
            made = torch.onnx.export(program, dynamo=True, verbose=False)
            made.save(path, external_data=large)
    except Exception as error:
        raise MeasurementError(f"torch.onnx cannot export it: {reason(error)}.") from error
    return path, len(made.model.graph)


def _quantised(path: str) -> str:
    """A second file, its weights in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = os.path.join(os.path.dirname(os.path.dirname(path)), "int8", "model.onnx")
    os.mkdir(os.path.dirname(made))
    try:
        with quiet():
            quantize_dynamic(
                path, made, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, extra_options={"MatMulConstBOnly": True}
            )
    except Exception as error:
        raise MeasurementError(f"onnxruntime cannot quantise it: {reason(error)}.") from error
    return made


def _session(path: str, provider: str, dtype: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that go on spinning after a run would take the cores from whatever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    settings: dict[str, Any] = {}
    if provider == "CUDAExecutionProvider":
        settings = {
            "device_id": torch.cuda.current_device(), "use_tf32": "1" if dtype == "tf32" else "0",
            "user_compute_stream": str(torch.cuda.current_stream().cuda_stream),  # so that torch's events enclose the run
        }
    try:
        return onnxruntime.InferenceSession(path, options, providers=[(provider, settings)])
    except Exception as error:
        raise MeasurementError(f"onnxruntime cannot load it: {reason(error)}.") from error


def _cpu_call(session: Any, names: Sequence[str], outputs_of: Unflatten) -> Callable[..., Any]:
    def call(*inputs: Any, **named: Any) -> Any:
        fed = {name: tensor.numpy() for name, tensor in zip(names, leaves((inputs, named)), strict=True)}
        return outputs_of([torch.from_numpy(each) for each in session.run(None, fed)])

    return call


def _cuda_call(session: Any, names: Sequence[str], outputs_of: Unflatten, held: Sequence[Tensor]) -> Callable[..., Any]:
    """Inputs and outputs stay on the device; the outputs are always the tensors of `held`, and the run is not waited for."""
    import onnxruntime

    binding = session.io_binding()
    for described, tensor in zip(session.get_outputs(), held, strict=True):
        binding.bind_output(described.name, "cuda", tensor.device.index, _element(tensor), tuple(tensor.shape), tensor.data_ptr())
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    outputs = outputs_of(held)

    def call(*inputs: Any, **named: Any) -> Any:
        given = [each.contiguous() for each in leaves((inputs, named))]
        for name, tensor in zip(names, given, strict=True):
            binding.bind_input(name, "cuda", tensor.device.index, _element(tensor), tuple(tensor.shape), tensor.data_ptr())
        session.run_with_iobinding(binding, options)
        return outputs

    return call


def _outputs_like(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Memory for the outputs of one forward, each once."""
    positional, named = split(inputs)
    with torch.inference_mode():
        distinct = {id(each): each for each in leaves(model(*positional, **named))}.values()
        return [torch.empty_like(each, memory_format=torch.contiguous_format) for each in distinct]


def _element(tensor: Tensor) -> int:
    """onnx.TensorProto's number of a tensor's type, which names bfloat16 too."""
    from onnx import TensorProto

    return {
        torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16,
        torch.bool: TensorProto.BOOL, torch.int64: TensorProto.INT64, torch.int32: TensorProto.INT32, torch.float64: TensorProto.DOUBLE,
    }[tensor.dtype]


def _input_names(session: Any, inputs: Any) -> list[str]:
    """The session's inputs in the order of the call; it may have dropped what the graph does not read, and then we would mix them up."""
    described, given = session.get_inputs(), leaves(split(inputs))
    if [list(each.shape) for each in described] != [list(each.shape) for each in given]:
        raise MeasurementError(f"onnxruntime takes {len(described)} inputs of other shapes than the model's {len(given)}.")
    return [each.name for each in described]
