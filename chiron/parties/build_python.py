"""Builds a Python guest: a component that holds an interpreter, made by componentize-py without WASI."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from chiron.parties.toolchains import BuildError
from wasm_sandbox import TRANSFORMS

WORLD: Final = "component"  # in spec/guest.wit
_BEGINS: Final = f"world {WORLD} {{\n"
_TRANSFORMING: Final = "WitWorld"  # the class that componentize-py looks in for what a world itself exports
_MODULE: Final = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_MAIN: Final = "import sys, componentize_py; sys.exit(componentize_py.script())"
_TAKEN: Final = {"wit_world", "chiron_guest", "chiron_onnx", WORLD}


def componentize(project: Path, output: Path, *, spec: Path, module: str = "guest") -> None:
    """Build a component from a module of the project and what it imports.

    The builder runs the module's imports once and takes a snapshot, so two builds of one project differ in
    bytes (the interpreter draws its hash seed then), though not in what their exports do with the same data.

    Args:
        project: folder with the module.
        output: where the component goes; replaced only when it was built.
        spec: folder with `guest.wit` and `sdk/python`.
        module: name of the module with the class `Model`; transforms are methods of its class `WitWorld`.

    Raises:
        BuildError: the builder is not installed, the module is missing or misnamed, or the build fails.
    """
    if importlib.util.find_spec("componentize_py") is None:
        raise BuildError("componentize-py is not installed: pip install 'chiron-mlaas[build]'")
    if not _MODULE.fullmatch(module) or module in _TAKEN:
        raise BuildError(
            f"a Python guest's module is lower-case letters, digits and underscores, and none of "
            f"{', '.join(sorted(_TAKEN))}: rename it"
        )
    if not (project / f"{module}.py").is_file():
        raise BuildError(f"{module}.py does not exist in the project's folder: name it as a source")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".guest-", dir=output.parent) as folder:
        made = Path(folder) / "guest.wasm"
        _run(project, made, spec=spec, module=module)
        made.replace(output)


def _run(project: Path, made: Path, *, spec: Path, module: str) -> None:
    contract = made.with_name("guest.wit").resolve()
    source = (project / f"{module}.py").read_bytes()
    contract.write_text(_contract((spec / "guest.wit").read_text("utf-8"), source), "utf-8")
    command = [
        *(sys.executable, "-c", _MAIN, "--quiet"),
        *("--wit-path", str(contract), "--world", WORLD),
        *("componentize", "--stub-wasi", module, "--output", str(made.resolve())),
        *("--python-path", str(project.resolve()), "--python-path", str((spec / "sdk" / "python").resolve())),
    ]
    done = subprocess.run(  # noqa: S603 - a fixed builder; the module's name was checked
        command,
        cwd=made.parent,
        # The builder would write compiled files beside the sources.
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0 or not made.is_file():
        raise BuildError(f"{module} does not build:\n{(done.stderr or done.stdout).strip()}")


def _contract(text: str, source: bytes) -> str:
    """Return the contract whose world exports the transforms that the module's class `WitWorld` has."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise BuildError(f"line {error.lineno} is not Python: {error.msg}") from error
    found = [
        item.name
        for block in body
        if isinstance(block, ast.ClassDef) and block.name == _TRANSFORMING
        for item in block.body
        if isinstance(item, ast.FunctionDef)
    ]
    exports = [f"  export {name}: func() -> s32;\n" for own, name in TRANSFORMS.items() if own in found]
    return text.replace(_BEGINS, _BEGINS + "".join(exports))
