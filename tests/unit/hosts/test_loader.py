"""What is sent to a remote Python: how the agent starts from it is in integration/test_remote_read and test_logins."""

from __future__ import annotations

import base64
import json
import marshal
import os
import subprocess
import sys
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from sparsesync.hosts import loader
from sparsesync.hosts.loader import Shell

ROOT = Path(loader.__file__).parents[2]
GREETS_AND_LOOKS = """
import sys
from sparsesync.engine import agent, roles
place = agent.LocalHost().destination()
assert place.open("/tmp/", roles.Opening(many=False, one_source=True, existing=True)) is None
assert list(place.states(["sparsesync-has-no-such-file"])) == [None]
print(*[name for name in sys.modules if name.startswith("sparsesync.engine")])
"""


def split() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The code of modules, the source of others, and the source that another Python asks for."""
    line = loader.program().decode("ascii")
    assert line.endswith("\n") and line.count("\n") == 1
    parts: dict[str, Any] = {}
    exec(line.partition("exec(")[0], parts)
    assert parts["version"] == loader.our_version() and parts["needs"] == loader.NEEDS
    more = loader.needed_source()
    assert len(more) == 10 + int(more[:10])
    code, others, needed = (
        zlib.decompress(base64.b64decode(text)) for text in (parts["code"], parts["packed"], more[10:])
    )
    return marshal.loads(code), json.loads(others), json.loads(needed)


def all_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from all_code(each)


def test_the_same_python_gets_code_and_each_other_one_gets_source() -> None:
    code, others, needed = split()
    assert code.keys() == needed.keys() and not code.keys() & others.keys()
    assert {name: each[0] for name, each in code.items()} == {name: each[0] for name, each in needed.items()}
    assert {*map(Path, ROOT.glob("sparsesync/engine/**/*.py"))} == {
        ROOT / name.replace(".", "/") / "__init__.py" if is_package else ROOT / (name.replace(".", "/") + ".py")
        for name, (is_package, _) in {**needed, **others}.items()
        if name != "sparsesync"
    }
    for name, (_, compiled) in code.items():
        # Nobody there has to know where it is here.
        assert {each.co_filename for each in all_code(compiled)} == {name}
        compiled_there = compile(needed[name][1], name, "exec", dont_inherit=True)
        assert [each.co_code for each in all_code(compiled)] == [each.co_code for each in all_code(compiled_there)]


def test_code_without_lines_raises_and_warns_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "import warnings\ndef f(x):\n    warnings.warn('odd', stacklevel=1)\n"
        + 100 * "    x += 1\n"
        + "    return 1 / 0\n"
    )
    (tmp_path / "lined.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    compiled, there = loader._compiled("lined"), {"__name__": "lined"}
    assert compiled is not None
    exec(marshal.loads(marshal.dumps(compiled)), there)
    with pytest.warns(UserWarning, match="odd"), pytest.raises(ZeroDivisionError) as caught:
        there["f"](1)  # type: ignore[operator]
    told = traceback.format_exception(caught.value)
    assert "in f" in told[-2] and told[-1] == "ZeroDivisionError: division by zero\n"
    assert sys.version_info < (3, 11) or {line for _, _, line in compiled.co_lines()} == {None}


def test_code_is_what_an_agent_begins_with() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", GREETS_AND_LOOKS], env=env, stdout=subprocess.PIPE, check=True)
    assert {*done.stdout.decode().split()} == split()[0].keys() - {"sparsesync"}


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
