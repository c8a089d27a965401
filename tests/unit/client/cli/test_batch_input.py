"""The lines of a batch, and the names of its pictures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fluxclient.cli.batch_input import BadRows, file_stems, read_rows


def lines(*values: dict[str, Any]) -> str:
    return "\n".join(json.dumps(value) for value in values)


def test_rows_know_their_lines() -> None:
    rows = read_rows('\n{"prompt": "a\u2028b", "seed": 1}\r\n\n{"prompt": "c", "id": "x"}')
    assert [(row.line, row.id, row.prompt, row.options) for row in rows] == [
        (2, 2, "a\u2028b", {"seed": 1}),
        (4, "x", "c", {}),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1]", ["'[1]'", "JSON object"]),
        ("{'prompt': 'a'}", ["not JSON", "column 2"]),
        ('{"prompt": "a", "guidance_scale": NaN}', ["not JSON", "NaN"]),
        ("{}", ["prompt", "missing"]),
        ('{"prompt": ""}', ["prompt", "empty"]),
        ('{"prompt": 3}', ["prompt", "3", "text"]),
        ('{"prompt": "a", "steps": 3}', ["'steps'", "num_inference_steps"]),
        ('{"prompt": "a", "seed": "7"}', ["seed", "'7'", "integer"]),
        ('{"prompt": "a", "seed": null}', ["seed", "None", "integer"]),
        ('{"prompt": "a", "height": 99999999999}', ["height", "32 bits"]),
        ('{"prompt": "a", "image": "gone.png"}', ["image", "'gone.png'", "cannot be read"]),
        ('{"prompt": "a", "lora": 7}', ["lora", "7", "text"]),
        ('{"prompt": "a", "num_images_per_prompt": 0}', ["num_images_per_prompt", "0", "at least 1"]),
        ('{"prompt": "a", "timeout": -1}', ["timeout", "-1"]),
        ('{"prompt": "a", "id": 1.5}', ["id", "1.5", "integer"]),
        ('{"prompt": "a", "id": true}', ["id", "true"]),
        ('{"prompt": "a", "id": ""}', ["id", '""']),
        ('{"prompt": "a", "id": "\\ud800"}', ["id", "UTF-8"]),
        ('{"prompt": "\\ud800"}', ["prompt", "UTF-8"]),
    ],
)
def test_bad_line(line: str, words: list[str]) -> None:
    with pytest.raises(BadRows) as caught:
        read_rows(f'{{"prompt": "fine"}}\n{line}')
    (problem,) = caught.value.problems
    assert problem.startswith("line 2: ")
    assert [word for word in words if word not in problem] == []


def test_number_and_text_are_one_id() -> None:
    with pytest.raises(BadRows, match="line 2: id: '1' is that of line 1 too"):
        read_rows(lines({"prompt": "a"}, {"prompt": "b", "id": "1"}))


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": "a/b"}, {"id": "a b"}, {"id": "a-b"}],
        [{"id": "Cat"}, {"id": "cat"}],
        [{"id": "cat", "num_images_per_prompt": 2}, {"id": "cat-1"}],
        [{"id": "../../etc"}, {"id": "…"}, {"id": "//"}, {"id": "x" * 1000}, {"id": "x" * 1001}],
    ],
)
def test_no_two_rows_share_a_name(rows: list[dict[str, Any]]) -> None:
    stems = file_stems(read_rows(lines(*({"prompt": "a", **row} for row in rows))))
    names = [name for of_row in stems.values() for name in of_row]
    assert len({name.casefold() for name in names}) == len(names)
    assert all("/" not in name and "." not in name and 0 < len(name) < 120 for name in names)


def test_plain_ids_are_names() -> None:
    stems = file_stems(read_rows(lines({"prompt": "a", "id": "IMG_01"}, {"prompt": "b", "num_images_per_prompt": 2})))
    assert stems == {"IMG_01": ["IMG_01"], "2": ["2-0", "2-1"]}


def test_names_do_not_depend_on_the_order_of_rows() -> None:
    rows = read_rows(lines(*({"prompt": "a", "id": id_} for id_ in ("a/b", "a b", "Cat", "cat", "plain"))))
    assert file_stems(rows) == file_stems(rows[::-1])
