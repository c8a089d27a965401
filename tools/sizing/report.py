"""The tables of the README, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tools.sizing.peaks import Peaks
from tools.sizing.plan import GB, SIZES, UNUSABLE, Setting, Weights


def weights_table(weights: dict[str, Weights]) -> str:
    rows = [
        [name, *(f"{part / GB:.1f}" for part in (of.transformer, of.text_encoder_2, of.others, of.resident("none")))]
        for name, of in weights.items()
    ]
    return _table(["quantization", "transformer GB", "T5 GB", "CLIP and VAE GB", "all GB"], rows)


def peaks_table(peaks: Peaks) -> str:
    rows = []
    for size in SIZES:
        one, two = peaks.step(1, size), peaks.step(2, size)
        figures = (one, two - one, peaks.decode(1, size), peaks.job(size))
        rows.append([f"{size[1]}x{size[0]}", *(f"{figure / GB:.3f}" for figure in figures)])
    head = ["picture", "step of one GB", "each further row GB", "decoding one GB", "one image in flight GB"]
    return _table(head, rows)


def settings_table(settings: Sequence[Setting]) -> str:
    head = ["card GB", "dtype", "quantization", "offload", "weights on it GB"]
    head += [f"max_batch at {size[1]}x{size[0]}" for size in SIZES] + ["max_in_flight"]
    rows = [
        [
            str(setting.card),
            "bfloat16",
            setting.quantization,
            setting.offload,
            f"{setting.resident / GB:.1f}",
            *(str(batch) if batch else "-" for batch in setting.max_batch),
            str(setting.max_in_flight),
        ]
        for setting in settings
    ]
    return _table(head, rows)


def notes() -> str:
    return (
        "Derived from the model's shapes, not measured. Activations are counted as the tensors of a forward come and\n"
        "go, with attention by a fused kernel (no tokens x tokens matrix, as flash and memory-efficient attention);\n"
        "pictures are decoded one after the other (vae_slicing). "
        f"{UNUSABLE / GB:g} GB of each card are assumed to be taken by the\n"
        "driver, the libraries' workspaces and fragmentation. offload is the least that it fits with."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
