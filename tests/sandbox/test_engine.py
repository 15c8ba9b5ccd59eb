"""The engine's settings are the ones the design asks for, and exist in the installed wasmtime."""

import pytest
import wasmtime

from wasm_sandbox import Profile, engine

WANTED: dict[str, bool | int] = {
    **dict.fromkeys(["consume_fuel", "epoch_interruption", "cranelift_nan_canonicalization"], True),
    **dict.fromkeys(
        [
            "wasm_threads",
            "wasm_relaxed_simd",
            "wasm_memory64",
            "wasm_multi_memory",
            "wasm_gc",
            "wasm_exceptions",
            "wasm_tail_call",
            "wasm_stack_switching",
            "wasm_function_references",
            "wasm_custom_page_sizes",
            "wasm_wide_arithmetic",
            "wasm_component_model",
            "gc_support",
            "shared_memory",
            "signals_based_traps",
            "memory_init_cow",
            "parallel_compilation",
        ],
        False,
    ),
    **dict.fromkeys(["memory_reservation", "memory_guard_size", "memory_reservation_for_growth"], 0),
    "max_wasm_stack": 65_536,
}
OF_DEFAULT = {"signals_based_traps": True, "memory_reservation": 4 << 30, "memory_guard_size": 32 << 20}


class RecordingConfig:
    """Stands in for wasmtime's Config, whose settings cannot be read back."""


def settings(monkeypatch: pytest.MonkeyPatch, **profile: Profile) -> dict[str, object]:
    made: list[RecordingConfig] = []
    monkeypatch.setattr(engine, "Config", RecordingConfig)
    monkeypatch.setattr(engine, "Engine", made.append)
    engine.make_engine(stack_bytes=65_536, **profile)
    return vars(made[0])


@pytest.mark.parametrize("profile", [{}, {"profile": Profile.ENCLAVE}])
def test_every_setting_of_the_design_is_made(
    profile: dict[str, Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings(monkeypatch, **profile)
    assert {name: found.get(name) for name in WANTED} == WANTED


def test_the_default_profile_differs_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, profile=Profile.DEFAULT)
    wanted = WANTED | OF_DEFAULT
    assert {name: found.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("profile", Profile)
def test_every_setting_exists_in_wasmtime(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    # Setting an attribute that Config does not have would do nothing and say nothing.
    for name in settings(monkeypatch, profile=profile):
        assert isinstance(getattr(wasmtime.Config, name, None), property), name
