"""What to set on which card: `python -m tools.sizing [--model FLUX.1-dev|FOLDER] [--card 24 48 80]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "model_repository" / "flux" / "1"))  # for fluxengine

from tools.sizing.networks import FLUX_1_DEV
from tools.sizing.plan import of_model, settings
from tools.sizing.report import notes, peaks_table, settings_table, weights_table

QUANTIZATIONS = ("none", "fp8_weight_only", "int8_weight_only", "nf4")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.sizing", description=__doc__)
    parser.add_argument("--model", default=FLUX_1_DEV, help="FLUX.1-dev, or a folder in diffusers' format")
    parser.add_argument("--card", type=int, nargs="+", default=[24, 48, 80], metavar="GB", help="memory of the cards")
    options = parser.parse_args(arguments)
    try:
        weights, peaks = of_model(options.model, QUANTIZATIONS)
    except FileNotFoundError as error:
        parser.error(f"--model {options.model}: neither {FLUX_1_DEV} nor a folder in diffusers' format: {error}")
    rows = [setting for card in options.card for setting in settings(card, weights, peaks)]
    print(f"{options.model}\n")
    for text in (settings_table(rows), weights_table(weights), peaks_table(peaks), notes()):
        print(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
