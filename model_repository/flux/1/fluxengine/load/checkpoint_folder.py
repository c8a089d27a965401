"""From the parameter `model`, a folder or a hub name, to a folder that holds all parts of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError, in_short
from fluxengine.families.checkpoint_kind import CheckpointKind
from fluxengine.families.registry import kind_of
from fluxengine.load.quantization import GGUF
from fluxengine.load.weight_files import variants_of

INDEX_FILE = "model_index.json"

_FOLDER = f"a folder in diffusers' format ({INDEX_FILE} beside transformer, vae, text_encoder, tokenizer …)"


def find_checkpoint(config: EngineConfig, home: Path) -> Path:
    """`model` is a folder in `home`, any other folder, or a hub name, whose files are downloaded.

    Raises ConfigError when it cannot be found, or is not a FLUX that this engine knows.
    """
    path = next((path for path in (home / config.model, Path(config.model)) if path.exists()), None)
    if path is not None and not path.is_dir():
        raise ConfigError(f"is a file; must be {_FOLDER}, or a hub name. {_advice(path)}")
    if path is None:
        return _download(config)
    index = path / INDEX_FILE
    if not index.is_file():
        raise ConfigError(f"is a folder without {INDEX_FILE}; must be {_FOLDER}, or a hub name")
    kind = read_kind(path)
    _check_variant(path, kind, config.variant)
    return path


def read_kind(folder: Path) -> CheckpointKind:
    """Of a checkpoint, whose model_index.json names all parts that one of its kind has. Raises ConfigError."""
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{INDEX_FILE} is not JSON: {in_short(error)}") from error
    return _checked_kind(index)


def _download(config: EngineConfig) -> Path:
    revision, variant = config.revision or None, config.variant or None
    try:
        index = DiffusionPipeline.load_config(config.model, revision=revision)
        kind = _checked_kind(index)  # before anything large
        passed: dict[str, Any] = {}
        if config.quantization.startswith(GGUF):
            passed["transformer"] = None
            kind.networks["transformer"].kind.load_config(config.model, subfolder="transformer", revision=revision)
        return Path(kind.pipeline.download(config.model, revision=revision, variant=variant, **passed))
    except ConfigError:
        raise
    except Exception as error:  # of the hub's client: names, network, access, disk
        raise ConfigError(f"neither {_FOLDER} nor a hub name within reach: {in_short(error)}") from error


def _checked_kind(index: Any) -> CheckpointKind:
    kind = kind_of(index.get("_class_name") if isinstance(index, dict) else None)
    networks = {name: (network.kind.__name__,) for name, network in kind.networks.items()}
    tokenizers = {name: tokenizer.classes for name, tokenizer in kind.tokenizers.items()}
    for name, classes in {**networks, **tokenizers}.items():
        part = index.get(name)
        if not isinstance(part, list) or part[-1] not in classes:
            raise ConfigError(f"{INDEX_FILE}: {name!r} is {part}; must be a {classes[0]}")
    return kind


def _check_variant(folder: Path, kind: CheckpointKind, variant: str) -> None:
    """Parts that have no weights of a variant are loaded without; but some part must have."""
    parts = [folder / name for name in kind.networks if (folder / name).is_dir()]
    there = {found for part in parts for found in variants_of(part)} - {""}
    if variant and variant not in there:
        others = ", ".join(sorted(there)) or "none but plain"
        raise ConfigError(f"has no weights of the variant {variant!r}; has {others}")


def _advice(file: Path) -> str:
    if file.suffix == ".gguf":
        return f"A GGUF file holds the transformer alone: set quantization to {GGUF}{file.name}, model to the rest"
    return "diffusers makes such a folder: FluxPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
