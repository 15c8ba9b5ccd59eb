"""The compilers of the guests' languages: what each is called with, and what to do where one is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Protocol

from chiron.parties.errors import PartyError

_STACK_BYTES: Final = 262_144  # the stack of the guest's language, inside its memory
_PAGE_BYTES: Final = 65_536
_UNNAMED_ARE_ZERO: Final = "-Wno-missing-designated-field-initializers"
_WASM_TARGET: Final = "wasm32-unknown-unknown"
SUFFIXES: Final = {
    "c": ".c",
    "cpp": ".cpp",
    "zig": ".zig",
    "rust": ".rs",
    "assemblyscript": ".ts",
    "python": ".py",
}


class BuildError(PartyError):
    """A project could not be built; the text names the rule and the remedy, or is the compiler's own."""


class Settings(Protocol):
    """What a compiler needs of `guest.toml`."""

    @property
    def name(self) -> str: ...  # noqa: D102 - see GuestProject
    @property
    def language(self) -> str: ...  # noqa: D102
    @property
    def sources(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def memory_bytes(self) -> int: ...  # noqa: D102


def compile_guest(project: Path, settings: Settings, *, sdk: Path, output: Path) -> None:
    """Compile a project to one core module.

    Args:
        project: the folder that the sources' names begin at.
        settings: of the project.
        sdk: folder with a folder for each language.
        output: where the module goes.

    Raises:
        BuildError: there is no compiler, or it found an error; then the text is the compiler's.
    """
    commands = {"c": _clang, "cpp": _clang, "zig": _zig, "rust": _rust, "assemblyscript": _assemblyscript}
    folder = sdk / ("c" if settings.language == "cpp" else settings.language)
    if not folder.is_dir() or not (sdk / "c" / "chiron.h").is_file():
        raise BuildError("the SDK's folder has no chiron.h, or lacks the language: install Chiron again")
    for command in commands[settings.language](project, settings, folder.resolve(), output.resolve()):
        _call(command, project, settings)
    if not output.is_file():
        raise BuildError(f"{settings.name} does not compile: the compiler wrote no guest")


def _call(command: list[str], project: Path, settings: Settings) -> None:
    caches = (project / "build").resolve()
    environment = os.environ | {
        "ZIG_GLOBAL_CACHE_DIR": str(caches / "zig-global"),
        "ZIG_LOCAL_CACHE_DIR": str(caches / "zig-local"),
    }
    done = subprocess.run(  # noqa: S603 - a fixed compiler; the file names were checked
        command, cwd=project, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise BuildError(f"{settings.name} does not compile:\n{said}")


def _ziglang() -> list[str]:
    if importlib.util.find_spec("ziglang") is None:
        raise BuildError("the C compiler is not installed: pip install 'chiron-mlaas[build]'")
    return [sys.executable, "-m", "ziglang"]


def _clang(_project: Path, settings: Settings, sdk: Path, output: Path) -> list[list[str]]:
    languages = {
        "c": ["cc", "-std=c17", f"-I{sdk}"],
        "cpp": ["c++", "-std=c++20", "-fno-exceptions", "-fno-rtti", f"-I{sdk}", _UNNAMED_ARE_ZERO],
    }
    return [
        [
            *_ziglang(),
            *languages[settings.language],
            *("--target=wasm32-freestanding", "-ffreestanding", "-nostdlib"),
            *("-O2", "-g", "-Wall", "-Wextra"),
            # Names of folders would make two builds of one project differ.
            *("-fdebug-compilation-dir=.", f"-ffile-prefix-map={sdk.parent}=sdk"),
            *("-Wl,--no-entry", f"-Wl,-z,stack-size={_STACK_BYTES}"),
            *(f"-Wl,--initial-memory={settings.memory_bytes}", f"-Wl,--max-memory={settings.memory_bytes}"),
            *("-o", str(output), *settings.sources),
        ]
    ]


def _zig(_project: Path, settings: Settings, sdk: Path, output: Path) -> list[list[str]]:
    return [
        [
            *_ziglang(),
            *("build-exe", "-target", "wasm32-freestanding", "-O", "ReleaseSafe", "-fno-strip"),
            *("-fno-entry", "-rdynamic", "--stack", str(_STACK_BYTES)),
            *(f"--initial-memory={settings.memory_bytes}", f"--max-memory={settings.memory_bytes}"),
            *("--dep", "chiron", f"-Mroot={settings.sources[0]}", f"-Mchiron={sdk / 'chiron.zig'}"),
            f"-femit-bin={output}",
        ]
    ]


def _rust(project: Path, settings: Settings, sdk: Path, output: Path) -> list[list[str]]:
    rustc = _rust_compiler()
    library = output.with_name("libchiron.rlib")
    common = [
        *(rustc, "--edition=2021", f"--target={_WASM_TARGET}", "-Copt-level=2", "-Cpanic=abort", "-g"),
        # Names of folders would make two builds of one project differ.
        *(f"--remap-path-prefix={sdk}=sdk", f"--remap-path-prefix={project.resolve()}=."),
    ]
    memory = (f"--initial-memory={settings.memory_bytes}", f"--max-memory={settings.memory_bytes}")
    link = [f"-Clink-arg={flag}" for flag in (*memory, "--no-entry", f"-zstack-size={_STACK_BYTES}")]
    return [
        [*common, "--crate-type=rlib", "--crate-name=chiron", "-o", str(library), str(sdk / "chiron.rs")],
        [
            *(*common, "--crate-type=cdylib", "--crate-name=guest", f"--extern=chiron={library}", *link),
            *("-o", str(output), settings.sources[0]),
        ],
    ]


def _rust_compiler() -> str:
    """Return the first rustc, of the user's path or the system's, that can compile for WebAssembly."""
    found = [path for path in (shutil.which("rustc"), shutil.which("/usr/bin/rustc")) if path]
    for rustc in found:
        command = [rustc, "--print=target-libdir", f"--target={_WASM_TARGET}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        if done.returncode == 0 and Path(done.stdout.strip()).is_dir():
            return rustc
    if not found:
        raise BuildError("there is no rustc: install Rust from your distribution or with rustup")
    raise BuildError(
        f"this Rust has no target {_WASM_TARGET}: rustup target add {_WASM_TARGET} "
        "(Debian's rustc: apt-get install rustc libstd-rust-dev-wasm32 lld)"
    )


def _assemblyscript(project: Path, settings: Settings, sdk: Path, output: Path) -> list[list[str]]:
    local = project.resolve() / "node_modules" / ".bin" / "asc"
    compiler = str(local) if local.is_file() else shutil.which("asc")
    if compiler is None:
        raise BuildError("there is no asc: npm install assemblyscript in the project, or put asc on PATH")
    pages = str(settings.memory_bytes // _PAGE_BYTES)
    return [
        [
            *(compiler, *settings.sources, "--lib", str(sdk), "--outFile", str(output)),
            *("--runtime", "stub", "--use", "abort=", "-O2", "--debug", "--sourceMap"),
            *("--initialMemory", pages, "--maximumMemory", pages),
        ]
    ]
