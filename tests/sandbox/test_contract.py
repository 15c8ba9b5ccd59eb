"""The guest interface is written in WIT; the C header, the host calls and the builder say the same."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chiron.guest_api.calls import HostCalls
from chiron.guest_api.limits import EXPORTS as REQUIRED
from chiron.guest_api.lowering import CALL_PARAMETERS, CALLS
from chiron.guest_api.transforms import EXPORTS

if TYPE_CHECKING:
    from chiron.guest_api.dataset import Schema
    from chiron.guest_api.monitor import Monitor

SPEC = Path(__file__).resolve().parents[2] / "spec"


def wit_functions(interface: str) -> dict[str, list[str]]:
    """Return the parameter types of every function of one interface of guest.wit."""
    text = re.sub(r"//.*", "", (SPEC / "guest.wit").read_text(encoding="utf-8"))
    body = text.split(f"interface {interface} {{")[1].split("\n}")[0]
    found = re.findall(r"([a-z-]+): func\(([^)]*)\) -> s32;", body)
    assert len(found) == body.count("func(")
    return {name.replace("-", "_"): re.findall(r": (\w+)", parameters) for name, parameters in found}


def wit_typed_functions() -> dict[str, str]:
    """Return the type of every function of the interface for components, without the parameters' names."""
    text = re.sub(r"//.*", "", (SPEC / "guest.wit").read_text(encoding="utf-8"))
    body = text.split("interface calls {")[1].split("\n}")[0]
    found = re.findall(r"([a-z-]+): (func\(.*\) -> .*);", body)
    assert len(found) == body.count("func(")
    return {name: re.sub(r"[a-z-]+: ", "", signature) for name, signature in found}


def header_functions(kind: str) -> dict[str, int]:
    """Return the parameter counts of what chiron.h declares as imports or exports."""
    text = (SPEC / "sdk" / "c" / "chiron.h").read_text(encoding="utf-8")
    found = re.findall(rf'CHIRON_{kind}\("(\w+)"\)\s+int32_t \w+\(([^)]*)\)', text)
    return {name: 0 if parameters == "void" else parameters.count(",") + 1 for name, parameters in found}


def test_every_call_of_the_contract_is_made_of_i32() -> None:
    for interface in ("host", "model", "transforms"):
        assert {kind for kinds in wit_functions(interface).values() for kind in kinds} <= {"u32", "s32"}


def test_the_c_header_declares_the_contract() -> None:
    assert header_functions("IMPORT") == {name: len(kinds) for name, kinds in wit_functions("host").items()}
    exports = wit_functions("model") | wit_functions("transforms")
    assert header_functions("EXPORT") == {name: len(kinds) for name, kinds in exports.items()}


def test_the_transforms_that_are_looked_for_are_the_contract() -> None:
    assert set(EXPORTS) == set(wit_functions("transforms"))


def test_what_is_granted_is_the_contract() -> None:
    assert dict(CALL_PARAMETERS) == {name: len(kinds) for name, kinds in wit_functions("host").items()}
    assert set(REQUIRED) == set(wit_functions("model"))


def test_the_host_calls_are_the_contract() -> None:
    unused = (cast("Monitor", None), cast("Schema", None))
    calls = HostCalls(unused[0], schema=unused[1], seed=b"", dataset=None).imports()
    assert {name: call.parameters for name, call in calls.items()} == dict(CALL_PARAMETERS)


def test_the_calls_of_a_component_are_the_contract() -> None:
    unused = (cast("Monitor", None), cast("Schema", None))
    calls = HostCalls(unused[0], schema=unused[1], seed=b"", dataset=None).component_imports()
    assert {name: call.signature for name, call in calls.items()} == wit_typed_functions()


def test_both_lowerings_have_the_same_calls() -> None:
    assert wit_typed_functions().keys() == wit_functions("host").keys() == CALLS.keys()
