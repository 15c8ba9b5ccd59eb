"""Builds an operator's project into a guest: strict `guest.toml`, the language's compiler, one inspection."""

from __future__ import annotations

import re
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from chiron.guest_api.limits import EXPORTS
from chiron.guest_api.lowering import CALL_PARAMETERS
from chiron.parties.build_python import componentize
from chiron.parties.lines import debug_path, map_path, with_digest
from chiron.parties.sections import without_debug
from chiron.parties.toolchains import SUFFIXES, BuildError, compile_guest
from enclave import write_atomically
from wasm_sandbox import GuestRefusedError, Limits, inspect

_PAGE_BYTES: Final = 65_536  # WebAssembly core 2.0, section 4.2.8
_MAX_MEMORY_BYTES: Final = 2**32
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_MANY_SOURCES: Final = ("c", "cpp")
_APART: Final = ("zig", "rust")  # their DWARF names folders, and holds the whole library: megabytes
_KEYS: Final = ("name", "language", "sources")  # and memory_bytes, but for Python


@dataclass(frozen=True, slots=True)
class GuestProject:
    """A checked `guest.toml`.

    Args:
        name: lower-case letters, digits and hyphens.
        language: a key of `SUFFIXES`.
        sources: files in that language, relative to the project's folder; beyond C and C++ the main one.
        memory_bytes: size of the guest's memory, a multiple of 65,536; 0 for Python, whose memory grows.
    """

    name: str
    language: str
    sources: tuple[str, ...]
    memory_bytes: int


def build(project: Path, *, sdk: Path, output: Path | None = None) -> Path:
    """Compile a project and check the result as the sandbox will.

    Args:
        project: folder with `guest.toml` and the sources.
        sdk: folder with `chiron.h`; the other languages' folders lie beside it.
        output: where the guest goes; `build/guest.wasm` in the project's folder when None.

    Returns:
        The path of the guest. A guest that was there before is replaced only by one that passed every check.

    Raises:
        BuildError: the project breaks a rule, does not compile, or the sandbox would refuse the guest.
    """
    settings = parse_project(project)
    target = project / "build" / "guest.wasm" if output is None else output
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".guest-", dir=target.parent) as folder:
        compiled = Path(folder) / "guest.wasm"
        if settings.language == "python":
            (source,) = settings.sources
            componentize(project, compiled, spec=sdk.parents[1], module=source.removesuffix(".py"))
        else:
            compile_guest(project, settings, sdk=sdk.parent, output=compiled)
            _keep_lines_apart(compiled, target, language=settings.language)
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
    keys = {*_KEYS, *(() if fields.get("language") == "python" else ("memory_bytes",))}
    for key in sorted(fields.keys() ^ keys):
        state = "unknown" if key in fields else "missing"
        raise BuildError(f"guest.toml: {state} key {key!r}; the keys are {', '.join(sorted(keys))}")
    if not isinstance(fields["name"], str) or not _NAME.fullmatch(fields["name"]):
        raise BuildError("guest.toml: name must be 1 to 64 lower-case letters, digits and hyphens")
    language = fields["language"]
    if not isinstance(language, str) or language not in SUFFIXES:
        raise BuildError(f"guest.toml: language must be one of {', '.join(SUFFIXES)}")
    sources = _checked_sources(project, fields["sources"], SUFFIXES[language])
    if len(sources) > 1 and language not in _MANY_SOURCES:
        raise BuildError(f"guest.toml: sources of {language} must be its one main file")
    memory_bytes = _checked_memory(fields["memory_bytes"]) if "memory_bytes" in fields else 0
    return GuestProject(fields["name"], language, sources, memory_bytes)


def _checked_sources(project: Path, sources: Any, suffix: str) -> tuple[str, ...]:  # noqa: ANN401 - as TOML gave it
    if not isinstance(sources, list) or not sources or not all(isinstance(name, str) for name in sources):
        raise BuildError("guest.toml: sources must be a list of at least one file name")
    for name in sources:
        path = PurePosixPath(name)
        if path.suffix != suffix or path.is_absolute() or ".." in path.parts or name.startswith(("-", "@")):
            raise BuildError(
                f"guest.toml: source {name!r} must be a {suffix} file inside the project, without '..'"
            )
        if not (project / path).is_file():
            raise BuildError(f"guest.toml: source {name!r} does not exist")
    return tuple(sources)


def _checked_memory(memory_bytes: Any) -> int:  # noqa: ANN401 - as TOML gave it
    whole = type(memory_bytes) is int and memory_bytes % _PAGE_BYTES == 0
    if not whole or not _PAGE_BYTES <= memory_bytes <= _MAX_MEMORY_BYTES:
        raise BuildError(f"guest.toml: memory_bytes must be a multiple of {_PAGE_BYTES}, up to 4 GiB")
    return int(memory_bytes)


def _keep_lines_apart(compiled: Path, target: Path, *, language: str) -> None:
    """Move what a dry run needs to name lines out of the guest, to files beside it."""
    whole = compiled.read_bytes()
    if language in _APART:
        compiled.write_bytes(without_debug(whole))
        write_atomically(debug_path(target), whole)
    elif map_path(compiled).is_file():
        guest = without_debug(whole)
        compiled.write_bytes(guest)
        write_atomically(map_path(target), with_digest(map_path(compiled).read_bytes(), guest))


def _inspect(guest: bytes, settings: GuestProject) -> None:
    limits = Limits(fuel=0, memory_bytes=settings.memory_bytes)
    try:
        inspect(guest, granted=CALL_PARAMETERS, limits=limits, exports=EXPORTS)
    except GuestRefusedError as error:
        raise BuildError(f"{settings.name} compiles, but the sandbox would refuse it: {error}") from error
