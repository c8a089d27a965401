"""Who imports whom, read from the sources and not by importing them: also in functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


@dataclass(frozen=True)
class House:
    """A package with rooms: what lies in its folder, packages and modules."""

    folder: Path
    allowed: Mapping[str, Collection[str]]
    """Every room, with the other rooms that it may import."""
    barred: Mapping[str, Collection[str]]
    """Packages from outside that a room must not import itself."""
    name: str = ""
    """Of the package, where it is not the folder's."""

    def faults(self) -> list[str]:
        """Rooms that no table names, imports that none allows, and a circle of modules if there is one."""
        found = [f"{room} is in no table" for room in sorted({self._room(name) for name in self._files})
                 if room not in self.allowed]  # fmt: skip
        for importer, imported in self._imports():
            room = self._room(importer)
            if f"{imported}.".startswith(f"{self._name}."):
                wrong = self._room(imported) not in ("", room, *self.allowed.get(room, ()))
            else:
                wrong = imported.partition(".")[0] in self.barred.get(room, ())
            if wrong:
                found.append(f"{importer} imports {imported}")
        return [*found, *self._circle()]

    def _circle(self) -> Iterator[str]:
        graph: dict[str, dict[str, None]] = {}  # in the order of the files, so that it is always the same that is told
        for importer, imported in self._imports():
            if imported in self._files and imported != importer:
                graph.setdefault(importer, {})[imported] = None
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            yield f"a circle: {' → '.join(reversed(error.args[1]))}"

    def _imports(self) -> Iterator[tuple[str, str]]:
        """Importer and imported: a module where there is one of the name, else what a package has in itself."""
        for importer, file in self._files.items():
            package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    yield from ((importer, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                    base = ".".join([*above, *filter(None, [node.module])])
                    for alias in node.names:
                        whole = f"{base}.{alias.name}"
                        yield importer, whole if whole in self._files else base

    @cached_property
    def _files(self) -> dict[str, Path]:
        """By the modules' full names."""
        found = {}
        for file in sorted(self.folder.rglob("*.py")):
            parts = self._name, *file.relative_to(self.folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
        return found

    def _room(self, module: str) -> str:
        """Empty for the package itself."""
        return module.removeprefix(self._name).removeprefix(".").partition(".")[0]

    @property
    def _name(self) -> str:
        return self.name or self.folder.name
