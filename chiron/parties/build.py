"""Builds an operator's C project into a guest: strict `guest.toml`, one compiler call, one inspection."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from chiron.parties.errors import PartyError
from wasm_sandbox import GuestRefusedError, Limits, inspect

if TYPE_CHECKING:
    from collections.abc import Mapping

# The imports of spec/guest.wit with their number of i32 parameters; a test holds them together.
GUEST_IMPORTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "schema": 2,
        "random": 2,
        "header": 2,
        "log": 2,
        "statistics": 4,
        "batch": 4,
        "targets": 4,
        "graph": 2,
        "plan": 2,
        "keep": 2,
        "kept": 2,
        "take": 2,
        "give": 2,
    }
)
GUEST_EXPORTS: Final = ("configure", "create")

_PAGE_BYTES: Final = 65_536  # WebAssembly core 2.0, section 4.2.8
_MAX_MEMORY_BYTES: Final = 2**32
_STACK_BYTES: Final = 262_144  # the C stack, inside the guest's memory
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_KEYS: Final = ("name", "language", "sources", "memory_bytes")


class BuildError(PartyError):
    """A project could not be built; the text names the rule and the remedy, or is the compiler's own."""


@dataclass(frozen=True, slots=True)
class GuestProject:
    """A checked `guest.toml`.

    Args:
        name: lower-case letters, digits and hyphens.
        sources: C files, relative to the project's folder.
        memory_bytes: size of the guest's memory, a multiple of 65,536.
    """

    name: str
    sources: tuple[str, ...]
    memory_bytes: int


def build(project: Path, *, sdk: Path, output: Path | None = None) -> Path:
    """Compile a project and check the result as the sandbox will.

    Args:
        project: folder with `guest.toml` and the sources.
        sdk: folder with `chiron.h`.
        output: where the guest goes; `build/guest.wasm` in the project's folder when None.

    Returns:
        The path of the guest. A guest that was there before is replaced only by one that passed every check.

    Raises:
        BuildError: the project breaks a rule, does not compile, or the sandbox would refuse the guest.
    """
    settings = parse_project(project)
    if importlib.util.find_spec("ziglang") is None:
        raise BuildError("the C compiler is not installed: pip install 'chiron-mlaas[build]'")
    if not (sdk / "chiron.h").is_file():
        raise BuildError("the SDK's folder has no chiron.h: install Chiron again")
    target = project / "build" / "guest.wasm" if output is None else output
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".guest-", dir=target.parent) as folder:
        compiled = Path(folder) / "guest.wasm"
        _compile(project, settings, sdk=sdk, output=compiled)
        _inspect(compiled.read_bytes(), settings)
        compiled.replace(target)
    return target


def parse_project(project: Path) -> GuestProject:
    """Read and check `guest.toml`.

    Raises:
        BuildError: the file is missing, is not TOML, or a key is unknown, missing or out of its range.
    """
    try:
        with (project / "guest.toml").open("rb") as file:
            fields = tomllib.load(file)
    except OSError as error:
        raise BuildError(f"no readable guest.toml in {project}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BuildError(f"guest.toml is not TOML: {error}") from error
    for key in fields.keys() ^ set(_KEYS):
        state = "unknown" if key in fields else "missing"
        raise BuildError(f"guest.toml: {state} key {key!r}; the keys are {', '.join(_KEYS)}")
    if not isinstance(fields["name"], str) or not _NAME.fullmatch(fields["name"]):
        raise BuildError("guest.toml: name must be 1 to 64 lower-case letters, digits and hyphens")
    if fields["language"] != "c":
        raise BuildError('guest.toml: language must be "c"; build other languages with their own tools')
    sources = _checked_sources(project, fields["sources"])
    return GuestProject(fields["name"], sources, _checked_memory(fields["memory_bytes"]))


def _checked_sources(project: Path, sources: Any) -> tuple[str, ...]:  # noqa: ANN401 - as TOML gave it
    if not isinstance(sources, list) or not sources or not all(isinstance(name, str) for name in sources):
        raise BuildError("guest.toml: sources must be a list of at least one file name")
    for name in sources:
        path = PurePosixPath(name)
        if path.suffix != ".c" or path.is_absolute() or ".." in path.parts or name.startswith(("-", "@")):
            raise BuildError(
                f"guest.toml: source {name!r} must be a .c file inside the project, without '..'"
            )
        if not (project / path).is_file():
            raise BuildError(f"guest.toml: source {name!r} does not exist")
    return tuple(sources)


def _checked_memory(memory_bytes: Any) -> int:  # noqa: ANN401 - as TOML gave it
    whole = type(memory_bytes) is int and memory_bytes % _PAGE_BYTES == 0
    if not whole or not _PAGE_BYTES <= memory_bytes <= _MAX_MEMORY_BYTES:
        raise BuildError(f"guest.toml: memory_bytes must be a multiple of {_PAGE_BYTES}, up to 4 GiB")
    return int(memory_bytes)


def _compile(project: Path, settings: GuestProject, *, sdk: Path, output: Path) -> None:
    caches = (project / "build").resolve()
    command = [
        *(
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            "--target=wasm32-freestanding",
            "-ffreestanding",
            "-std=c17",
        ),
        *("-O2", "-g", "-Wall", "-Wextra", "-nostdlib", f"-I{sdk.resolve()}"),
        # Names of folders would make two builds of one project differ.
        *("-fdebug-compilation-dir=.", f"-ffile-prefix-map={sdk.resolve()}=sdk"),
        *("-Wl,--no-entry", f"-Wl,-z,stack-size={_STACK_BYTES}"),
        *(f"-Wl,--initial-memory={settings.memory_bytes}", f"-Wl,--max-memory={settings.memory_bytes}"),
        *("-o", str(output.resolve()), *settings.sources),
    ]
    environment = os.environ | {
        "ZIG_GLOBAL_CACHE_DIR": str(caches / "zig-global"),
        "ZIG_LOCAL_CACHE_DIR": str(caches / "zig-local"),
    }
    done = subprocess.run(  # noqa: S603 - a fixed compiler; the file names were checked
        command, cwd=project, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0 or not output.is_file():
        raise BuildError(f"{settings.name} does not compile:\n{done.stderr.strip() or done.stdout.strip()}")


def _inspect(guest: bytes, settings: GuestProject) -> None:
    limits = Limits(fuel=0, memory_bytes=settings.memory_bytes)
    try:
        inspect(guest, granted=GUEST_IMPORTS, limits=limits, exports=GUEST_EXPORTS)
    except GuestRefusedError as error:
        raise BuildError(f"{settings.name} compiles, but the sandbox would refuse it: {error}") from error
