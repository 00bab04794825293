"""openvino on the CPU, straight from torch.export.

Not by way of an ONNX file: both run equally fast within a tenth, and that way rounds the proposals' places differently, so that at sides
of 50 cells border cells pass a threshold on which they lie exactly; this way needs no other package either.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from humar_bench.backends import Prepared
from humar_bench.backends.exporting import export, quiet, reason
from humar_bench.backends.tensors import folder_bytes, leaves, split
from humar_bench.errors import MeasurementError

# What its operators compute in; by default it may choose a shorter format than the model's.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def prepare(name: str, model: nn.Module, inputs: Any, *, dtype: str) -> Prepared:
    """Convert, compile for the CPU with torch's number of threads, and save once to know the size."""
    import openvino

    (program, outputs_of), given = export(model, inputs), leaves(split(inputs))
    threads = torch.get_num_threads()
    try:
        with quiet():
            converted = openvino.convert_model(program)
        converted.reshape({at: list(each.shape) for at, each in enumerate(given)})  # the converter may have left sizes open
        operators = len(converted.get_ops())
        with tempfile.TemporaryDirectory(prefix="humar-bench-openvino-", dir=os.environ.get("HUMAR_BENCH_FOLDER")) as folder:
            openvino.save_model(converted, os.path.join(folder, "model.xml"), compress_to_fp16=False)
            file_bytes = folder_bytes(folder)
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": PRECISIONS[dtype], "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
    except Exception as error:
        raise MeasurementError(f"openvino cannot run it: {reason(error)}.") from error
    computes = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if computes != PRECISIONS[dtype]:
        raise MeasurementError(f"openvino computes {dtype} as {computes} on this CPU; use float32, or the number type that it names.")
    if len(compiled.inputs) != len(given):
        raise MeasurementError(f"openvino takes {len(compiled.inputs)} inputs and the model {len(given)}.")
    request, count = compiled.create_infer_request(), len(compiled.outputs)
    del program, converted

    def call(*inputs: Any, **named: Any) -> Any:
        request.infer({at: _given(tensor) for at, tensor in enumerate(leaves((inputs, named)))}, share_inputs=True)
        return outputs_of([_taken(request.get_output_tensor(at)) for at in range(count)])

    did = {
        "threads": compiled.get_property("INFERENCE_NUM_THREADS"), "precision": computes,
        "devices": list(compiled.get_property("EXECUTION_DEVICES")), "operators": operators, "file_bytes": file_bytes,
        "version": openvino.__version__.partition("-")[0],
    }
    return Prepared(call, did, needs_model=False)


def _given(tensor: Tensor) -> Any:
    """A tensor as openvino takes it, without a copy; numpy has no bfloat16."""
    if tensor.dtype is not torch.bfloat16:
        return tensor.contiguous().numpy()
    import openvino

    bits = tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    return openvino.Tensor(bits, openvino.Shape(list(tensor.shape)), openvino.Type.bf16)


def _taken(output: Any) -> Tensor:
    """A copy of one of openvino's outputs, whose memory its next run uses again."""
    if output.element_type.get_type_name() != "bf16":
        return torch.from_numpy(output.data.copy())
    return torch.from_numpy(output.data.view(np.int16).copy()).view(torch.bfloat16).reshape(list(output.shape))
