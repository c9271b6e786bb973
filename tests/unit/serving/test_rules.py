"""What of an agent's operations is for a key that is for one directory: nothing that is not listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsesync.engine.agent import OPERATIONS, Agent, Operation
from sparsesync.engine.queries import registry
from sparsesync.engine.roles import Opening
from sparsesync.serving import rules
from sparsesync.serving.beneath import OutsideError, Root
from sparsesync.serving.rules import ADD, CHANGE, READ, Served
from tests.support.intruder import make

REFUSED = {"lock", "preset", "meet", "join", "widen"}
REFUSED_QUERIES = {
    "host", "kernel", "stores", "survey", "probe", "trial", "in_use", "suggested", "forbidden", "identity", "flush",
    "entry", "make_directory", "totals", "remove", "run",
}  # fmt: skip


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(Root(str(make(tmp_path))), "read-write", "engine", "1")


def test_each_operation_is_listed_or_known_to_be_refused() -> None:
    """One that is new fails here, until somebody has decided; meanwhile it is refused."""
    assert set(OPERATIONS) - set(rules.OPERATIONS) == REFUSED and set(rules.OPERATIONS) <= set(OPERATIONS)
    assert set(registry.QUERIES) - set(rules.QUERIES) == REFUSED_QUERIES
    assert set(rules.QUERIES) <= set(registry.QUERIES)


def test_each_argument_is_listed() -> None:
    for name, rule in rules.OPERATIONS.items():
        assert set(rule.admits) == set(OPERATIONS[name].takes), name
    for name, rule in rules.QUERIES.items():
        assert set(rule.admits) == set(registry._ARGUMENTS[name]), name


def test_what_is_not_listed_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, "new", Operation({}, lambda agent: pytest.fail("it was done")))
    for name in (*REFUSED, "new"):
        with pytest.raises(PermissionError, match="for one directory only"):
            served.call(name, {})
    for name in REFUSED_QUERIES:
        with pytest.raises(PermissionError, match="for one directory only"):
            served.query(name, {"path": "f"})
    with pytest.raises(PermissionError, match="with 'more'"):
        served.call("scan", {"path": "f", "more": "f"})


@pytest.mark.parametrize("mode", rules.MODES)
def test_a_mode_leaves_what_it_says(served: Served, mode: str) -> None:
    does = {
        READ: {"query", "contents", "directory", "scan", "layers", "checksums", "manifest", "digests", "look", "mode",
               "measure", "extents", "send", "find", "space", "states"},
        ADD: {"open", "open_copy", "expect", "receive"},
        CHANGE: {"touch", "dig"},
    }  # fmt: skip
    assert {name: rule.does for name, rule in rules.OPERATIONS.items()} == {
        name: does_it for does_it, names in does.items() for name in names
    }
    served.mode = mode
    for name, rule in rules.OPERATIONS.items():
        if rule.does <= rules.MODES[mode]:
            served.call(name, {})
            continue
        with pytest.raises(PermissionError, match=f"this key is {mode}"):
            served.call(name, {})


PLACES: list[tuple[str, dict[str, Any]]] = [
    ("scan", {"path": "out"}), ("open", {"path": "../outside"}), ("open_copy", {"path": "out", "name": "f"}),
    *(("open_copy", {"path": ".", "name": name}) for name in ("../f", "/f", "..", "", "out/f", "file")),
    ("look", {"files": [["f", "f"], ["out/secret", "secret"]]}), ("contents", {"parts": [["file", 0, 65536]]}),
    ("digests", {"path": "sub", "ranges": [["../outside/secret", 0, 65536]]}),
    ("digests", {"path": "sub", "ranges": [["/etc/passwd", 0, 65536]]}),
    *((name, {"names": [bad]}) for name in ("touch", "states") for bad in ("../outside/secret", "/etc/passwd")),
    ("expect", {"needs": [["../outside/secret", 1]]}), ("dig", {"name": "../outside/secret"}),
    *(("open", {"path": "sub", "opening": [*Opening(True, True)._replace(**{field: value})]})  # type: ignore[arg-type]
      for field, value in (("partial_dir", "../../outside"), ("temp_dir", "out"), ("bases", ["../../outside"]),
                           ("bases", ["/out"]), ("partial_dir", "/../x"), ("temp_dir", "~/../x"))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given"), PLACES, ids=[f"{n}-{name}" for n, (name, _) in enumerate(PLACES)])
def test_a_path_in_an_argument_is_looked_at(served: Served, name: str, given: dict[str, Any]) -> None:
    with pytest.raises(OutsideError):
        served.call(name, given)


def test_paths_are_the_roots(served: Served) -> None:
    opening = Opening(True, True, partial_dir=".partial", temp_dir="/tmp", bases=["/old", "prev"])
    call = served.call("open", {"path": "/sub", "opening": [*opening]})
    expected = opening._replace(temp_dir="/./tmp", bases=["/./old", "prev"])
    assert call == {"path": "sub", "opening": [*expected]}
    assert served.wanted("/sub/f") == "sub/f" and served.query("sizes", {"paths": ["~/f"]}) == {"paths": ["f"]}
    with pytest.raises(OutsideError):
        served.query("sizes", {"paths": ["f", "out/secret"]})


def test_an_agent_has_all_of_the_host_unless_told_otherwise() -> None:
    assert Agent(None).access.call("scan", {"path": "/etc"}) == {"path": "/etc"}  # type: ignore[arg-type]
