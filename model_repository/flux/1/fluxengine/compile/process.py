"""`python -m fluxengine.compile.process ORDER`: compiles what the file lists, into the folder that it names."""

from __future__ import annotations

import logging
import os
import sys
import threading

import torch

from fluxengine.compile.background import NICENESS
from fluxengine.compile.block_kind import BlockKind
from fluxengine.errors import ConfigError


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.nice(NICENESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with torch.inference_mode():  # as in the engine
        for recipe, forms in torch.load(sys.argv[1], weights_only=False):  # written by the parent a moment ago
            kind = BlockKind(*recipe)
            for form in forms:
                try:
                    kind.compile(form)
                except ConfigError as error:
                    sys.exit(str(error))  # which is all that there is to say


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # not by the file object, for whose lock Python would abort at the end
    os._exit(1)


if __name__ == "__main__":
    main()
