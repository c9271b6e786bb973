"""What is sent to a remote Python: how the agent starts from it is in integration/test_remote_read and test_logins."""

from __future__ import annotations

import json
import marshal
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from sparsesync.hosts import loader
from sparsesync.hosts.loader import Engine, Shell

ROOT = Path(loader.__file__).parents[2]
GREETS_AND_LOOKS = """
import sys
from sparsesync.engine import agent, roles
place = agent.LocalHost().destination()
assert place.open("/tmp/", roles.Opening(many=False, one_source=True, existing=True)) is None
assert list(place.states(["sparsesync-has-no-such-file"])) == [None]
print(*[name for name in sys.modules if name.startswith("sparsesync.engine")])
"""


def split(sent: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The code of modules, and the source of modules, in what is sent."""
    size = int(sent[:10])
    assert len(sent) == 20 + size + int(sent[10:20])
    code, sources = sent[20 : 20 + size], sent[20 + size :]
    return marshal.loads(zlib.decompress(code)) if size else {}, json.loads(zlib.decompress(sources))


def all_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from all_code(each)


def test_the_same_python_gets_code_and_each_other_one_gets_source() -> None:
    code, sources = split(Engine().for_python(loader.our_version()))
    none, all_sources = split(Engine().for_python(loader.our_version() + "00"))
    assert none == {} and all_sources.keys() == code.keys() | sources.keys() and not code.keys() & sources.keys()
    assert {name: each[0] for name, each in {**code, **sources}.items()} == {n: e[0] for n, e in all_sources.items()}
    for name, (_, compiled) in code.items():
        # Nobody there has to know where it is here.
        assert {each.co_filename for each in all_code(compiled)} == {name}
        compiled_there = compile(all_sources[name][1], name, "exec", dont_inherit=True)
        assert [each.co_code for each in all_code(compiled)] == [each.co_code for each in all_code(compiled_there)]


def test_code_is_what_an_agent_begins_with() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", GREETS_AND_LOOKS], env=env, stdout=subprocess.PIPE, check=True)
    code, _ = split(Engine().for_python(loader.our_version()))
    assert {*done.stdout.decode().split()} == code.keys() - {"sparsesync"}


@pytest.mark.parametrize("named", ["python3", "python3.9", "python3.10"])
def test_a_python_is_asked_unless_its_name_says_enough(tmp_path: Path, named: str) -> None:
    asked, file = tmp_path / "asked", tmp_path / "there" / named
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\ncase "$*" in *version_info*) touch {asked}; esac\nexec {sys.executable} "$@"\n')
    file.chmod(0o755)
    link = tmp_path / "python"
    link.symlink_to(file)
    words, _ = loader.start(Shell(("ssh",), python=str(link)))
    done = subprocess.run(words[0], shell=True, input=b"print('started')\n", stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"started\n" and asked.exists() == (named == "python3")


def test_a_python_that_is_too_old_is_passed_over(tmp_path: Path) -> None:
    for name, does in (("python3", "exit 1"), ("python3.12", f'exec {sys.executable} "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\nstarted={name} {does}\n")
        (tmp_path / name).chmod(0o755)
    words, _ = loader.start(Shell(("ssh",)))
    env = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    line = b"import os; print(os.environ['started'])\n"
    done = subprocess.run(words[0], shell=True, env=env, input=line, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"python3.12\n"
