"""The parameter `quantization`: weights in fewer bits, through what diffusers offers for it.

Only methods by which the rows of a batch cannot influence each other are offered: scales of activations are taken for
each token. For that reason `nvfp4` quantizes weights alone, as the scale that torchao takes for FP4 activations is one
for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import BitsAndBytesConfig as DiffusersBitsAndBytesConfig
from diffusers import FluxTransformer2DModel, GGUFQuantizationConfig, PipelineQuantizationConfig
from diffusers import TorchAoConfig as DiffusersTorchAoConfig
from transformers import BitsAndBytesConfig as TransformersBitsAndBytesConfig
from transformers import TorchAoConfig as TransformersTorchAoConfig

from fluxengine.errors import ConfigError, in_short
from fluxengine.load.gguf_file import check_gguf

GGUF = "gguf:"
"""Before the name of a file that holds the transformer alone."""


@dataclass(frozen=True, slots=True)
class _Method:
    package: str
    make: Callable[[torch.dtype], tuple[Any, Any]]
    """Its configurations for the transformer and for the T5 text encoder, for a model of that dtype."""
    gpu: tuple[int, int] | None = None
    """Compute capability that it needs; None: runs on any device."""
    dtype: torch.dtype | None = None
    """The only dtype that it computes with; None: any."""

    def missing(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """What it would need and is not here."""
        if self.gpu and (device.type != "cuda" or torch.cuda.get_device_capability(device) < self.gpu):
            return f"a GPU of compute capability {self.gpu[0]}.{self.gpu[1]} or newer"
        if find_spec(self.package) is None:
            return f"the Python package {self.package}"
        if self.dtype and dtype is not self.dtype:
            return f"dtype {str(self.dtype).removeprefix('torch.')}"
        return None


def _torchao(kind: str, *, per_token: bool = False) -> Callable[[torch.dtype], tuple[Any, Any]]:
    def make(_: torch.dtype) -> tuple[Any, Any]:
        from torchao import quantization
        from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig

        kinds = {**vars(quantization), "NVFP4WeightOnlyConfig": NVFP4WeightOnlyConfig}
        # The granularity is that of activations: a row of their matrix is a token.
        config = kinds[kind](granularity=quantization.PerRow()) if per_token else kinds[kind]()
        return DiffusersTorchAoConfig(config), TransformersTorchAoConfig(config)

    return make


def _bitsandbytes(dtype: torch.dtype) -> tuple[Any, Any]:
    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return DiffusersBitsAndBytesConfig(**options), TransformersBitsAndBytesConfig(**options)


_METHODS = {
    "int8_weight_only": _Method("torchao", _torchao("Int8WeightOnlyConfig")),
    "int8_dynamic": _Method("torchao", _torchao("Int8DynamicActivationInt8WeightConfig", per_token=True)),
    "fp8_weight_only": _Method("torchao", _torchao("Float8WeightOnlyConfig")),
    "fp8_dynamic": _Method(
        "torchao",
        _torchao("Float8DynamicActivationFloat8WeightConfig", per_token=True),
        gpu=(8, 9),
        dtype=torch.bfloat16,
    ),
    "nvfp4": _Method("torchao", _torchao("NVFP4WeightOnlyConfig")),
    "nf4": _Method("bitsandbytes", _bitsandbytes, gpu=(7, 0)),
}


def pipeline_options(
    quantization: str, checkpoint: Path, home: Path, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """What `FluxPipeline.from_pretrained` is told besides, to load `checkpoint` quantized.

    A GGUF file is looked for in `home`, or anywhere. Raises ConfigError for what cannot run on this device.
    """
    if quantization == "none":
        return {}
    if quantization.startswith(GGUF):
        path = next((path for path in (home / quantization[5:], Path(quantization[5:])) if path.is_file()), None)
        return {"transformer": _load_gguf(quantization, path, checkpoint, dtype)}
    method = _METHODS[quantization]
    if missing := method.missing(device, dtype):
        possible = ["none", *(name for name, other in _METHODS.items() if not other.missing(device, dtype))]
        possible += [f"{GGUF}FILE"] if find_spec("gguf") else []
        raise ConfigError(
            f"quantization is {quantization!r}: needs {missing}; possible here: {', '.join(possible)} "
            f"(device {device}, dtype {str(dtype).removeprefix('torch.')})"
        )
    transformer, text_encoder_2 = method.make(dtype)
    mapping = {"transformer": transformer, "text_encoder_2": text_encoder_2}
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def _load_gguf(quantization: str, path: Path | None, checkpoint: Path, dtype: torch.dtype) -> Any:
    if path is None:
        raise ConfigError(f"quantization is {quantization!r}: there is no such file")
    if find_spec("gguf") is None:
        raise ConfigError(f"quantization is {quantization!r}: needs the Python package gguf")
    try:
        check_gguf(path, checkpoint / "transformer")
        return FluxTransformer2DModel.from_single_file(
            str(path),
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
            config=str(checkpoint),
            subfolder="transformer",
            dtype=dtype,
        )
    except Exception as error:  # whatever its readers stumble over in a file that is not one, or of another model
        raise ConfigError(
            f"quantization is {quantization!r}: {path} is not a transformer of this model: {in_short(error)}"
        ) from error
