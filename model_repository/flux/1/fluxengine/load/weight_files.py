"""The files of a network's weights: there, whole, and of the variant that is asked for. Only their heads are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fluxengine.errors import ConfigError, in_short

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"
"""How the names of the files of their networks begin."""

_NAME = re.compile(
    r"(?:diffusion_pytorch_model|model|pytorch_model)"
    r"(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?(?:\.(?P<old_variant>\w+))?\.(?:safetensors|bin)"
)

_GIT_LFS = b"version https://git-lfs"


def variants_of(part: Path) -> set[str]:
    """The variants of the weights in a folder; "" stands for those without a variant."""
    matches = [_NAME.fullmatch(path.name) for path in part.iterdir()]
    return {match["variant"] or match["old_variant"] or "" for match in matches if match}


def choose_variant(part: Path, stem: str, variant: str) -> str | None:
    """The variant of this part to load: where it has none of that name, as parts that nobody made one of, None.

    Raises ConfigError for a folder without weights, naming the variants that it has.
    """
    if not part.is_dir():
        raise ConfigError(f"there is no folder {part.name}")
    there = variants_of(part)
    if variant and variant in there:
        return variant
    if "" in there:
        return None
    if there:
        said = f"not of the variant {variant!r}" if variant else "each of a variant"
        raise ConfigError(
            f"{part.name} has weights, but {said}; set the parameter variant: {' or '.join(sorted(there))}"
        )
    raise ConfigError(f"{part.name} has no weights: no file {stem}.safetensors, nor shards of one")


def check_files(part: Path, stem: str, variant: str | None) -> None:
    """Raises ConfigError for a file that is broken, cut short or not fetched, and for files that are not there."""
    if not (part / "config.json").is_file():
        raise ConfigError(f"there is no {part.name}/config.json, which says how large the network is")
    infix = f".{variant}" if variant else ""
    single, index = part / f"{stem}{infix}.safetensors", part / f"{stem}.safetensors.index{infix}.json"
    if index.exists() and not (stem == TRANSFORMERS_STEM and single.exists()):  # as each of them chooses
        _check_shards(index)
    elif single.exists():
        keys_of(single)
    elif shards := sorted(part.glob(f"{stem}*-of-*.safetensors")):
        raise ConfigError(f"{part.name} has {shards[0].name} but no {index.name} that lists it and the others")


def keys_of(path: Path) -> set[str]:
    """The names of the weights in a safetensors file."""
    with path.open("rb") as file:
        if file.read(len(_GIT_LFS)) == _GIT_LFS:
            raise ConfigError(f"{_said(path)} is a pointer of Git LFS, not the weights: run git lfs pull in its folder")
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise ConfigError(f"{_said(path)} is cut short or broken: {in_short(error)}") from error


def _check_shards(index: Path) -> None:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{_said(index)} is no index of shards: {in_short(error)}") from error
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise ConfigError(
            f"{_said(index)} names {len(shards)} files, of which {len(absent)} are missing, the first {absent[0]}"
        )
    found = {shard: keys_of(index.parent / shard) for shard in shards}
    lost = sorted(key for key, shard in places.items() if key not in found[shard])
    if lost:
        raise ConfigError(
            f"{_said(index)} lists {len(lost)} weights that are not in their files, "
            f"the first {lost[0]!r} in {places[lost[0]]}"
        )
    unlisted = sorted(key for keys in found.values() for key in keys - places.keys())
    if unlisted:
        raise ConfigError(
            f"{_said(index)} does not list {len(unlisted)} weights of its files, the first {unlisted[0]!r}"
        )


def _said(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
