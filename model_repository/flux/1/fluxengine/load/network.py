"""One network of a checkpoint, loaded so that each of its weights comes from the files, and each of theirs is used.

diffusers and transformers only log what is missing or left over, and go on with random numbers or without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from fluxengine.errors import ConfigError, in_short
from fluxengine.families.checkpoint_kind import Network
from fluxengine.load.weight_files import DIFFUSERS_STEM, TRANSFORMERS_STEM, check_files, choose_variant

_SCALES = re.compile(r"(^|[._])(scale_weight|scale_input|weight_scale|input_scale|scaled_fp8)")
"""Of float8 weights that mean something only with a factor beside them."""

_DIFFUSERS_MISMATCH = re.compile(
    r"because (?P<name>\S+) expected shape torch\.Size\((?P<config>[^)]*)\), but got torch\.Size\((?P<file>[^)]*)\)"
)


def load_network(part: Path, network: Network, variant: str, dtype: torch.dtype, quantization: Any = None) -> Any:
    """The network in the folder `part` of a checkpoint.

    Raises ConfigError naming the first weight, or the file, that is missing, left over, of another size or broken.
    """
    name, kind = part.name, network.kind
    stem = TRANSFORMERS_STEM if issubclass(kind, PreTrainedModel) else DIFFUSERS_STEM
    chosen = choose_variant(part, stem, variant)
    check_files(part, stem, chosen)
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True}
    if chosen:
        options["variant"] = chosen
    if quantization is not None:
        options["quantization_config"] = quantization
    if stem == TRANSFORMERS_STEM:
        options["ignore_mismatched_sizes"] = True  # it then tells which they are
    try:
        loaded, report = kind.from_pretrained(part, **options)
    except Exception as error:  # of any library that has a hand in it: configurations, files, quantization
        if mismatch := _DIFFUSERS_MISMATCH.search(str(error)):
            raise ConfigError(
                _of_another_size(name, 1, mismatch["name"], mismatch["file"], mismatch["config"])
            ) from error
        raise ConfigError(f"{name} cannot be loaded: {in_short(error)}") from error
    if mismatched := sorted(report["mismatched_keys"]):
        weight, in_file, in_config = mismatched[0]
        raise ConfigError(_of_another_size(name, len(mismatched), weight, list(in_file), list(in_config)))
    harmless = network.harmless
    unknown = [weight for weight in report["unexpected_keys"] if not (harmless and harmless.match(weight))]
    check_weights(name, missing={*report["missing_keys"], *_without_numbers(loaded)}, unknown=unknown)
    return loaded


def check_weights(place: str, missing: Iterable[str], unknown: Iterable[str]) -> None:
    """Raises ConfigError naming the first, if there are any. `place` is the file or folder that they belong to."""
    if left_over := sorted(unknown):
        scales = [weight for weight in left_over if _SCALES.search(weight)]
        why = (
            "float8 weights with scales are not read; take the bfloat16 files, with quantization=fp8_weight_only"
            if scales
            else "they are of another model, or its config.json is"
        )
        count, first = len(left_over), (scales or left_over)[0]
        raise ConfigError(f"{place} has {count} weights that the model does not know, the first {first!r}: {why}")
    if lost := sorted(missing):
        raise ConfigError(
            f"{place} lacks {len(lost)} of the model's weights, the first {lost[0]!r}: "
            "the files are incomplete, or its config.json is of another model"
        )


def _without_numbers(network: torch.nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.is_meta]


def _of_another_size(place: str, count: int, weight: str, in_file: object, in_config: object) -> str:
    others = f", as are {count - 1} others" if count > 1 else ""
    return f"{place}: {weight!r} is {in_file} in the files but {in_config} by its config.json{others}"
