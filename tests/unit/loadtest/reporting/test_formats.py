from __future__ import annotations

import jsonschema
import pytest

from loadtest.reporting.formats import SCHEMAS, VERSIONS


@pytest.mark.parametrize(("name", "version"), VERSIONS.items())
def test_the_schemas_are_schemas_and_name_their_versions(name: str, version: int) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["properties"]["test_config"]["properties"]["schema_version"] == {"const": version}
    assert SCHEMAS[name]["title"].endswith(f"version {version}")
