"""Which family serves a checkpoint: told by the class of its pipeline."""

from __future__ import annotations

from collections.abc import Mapping

from fluxengine.errors import ConfigError
from fluxengine.families.checkpoint_kind import CheckpointKind
from fluxengine.families.flux1.parts import FLUX1

KINDS: Mapping[str, CheckpointKind] = {kind.pipeline.__name__: kind for kind in (FLUX1,)}


def kind_of(pipeline: object) -> CheckpointKind:
    """`pipeline` is `_class_name` of model_index.json. Raises ConfigError for one that nothing here serves."""
    if not isinstance(pipeline, str) or pipeline not in KINDS:
        supported = ", ".join(f"{name} ({kind.title})" for name, kind in KINDS.items())
        raise ConfigError(f"a {pipeline}; supported is {supported}")
    return KINDS[pipeline]
