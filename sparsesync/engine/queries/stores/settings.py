"""Where paths are configured: in files of JSON, TOML and XML, and on the command lines of daemons that run.

Of each file only what is asked for is read, and none needs a parser of its own format. What begins with ``$HOME`` in a
machine's file stands for a path of each user.

A daemon that runs may have been told another path, or another file, than those that are there by default. That counts
if the path is the same to the daemon, who may be in a container. A process of a user says something of that user's
directories alone: its name is whatever that user wants.
"""

import glob
import json
import os
import pwd
import re
import stat
from fnmatch import fnmatchcase
from typing import Any, Iterator, List, Optional, Set, Tuple

from .reading import is_path, open_regular
from .running import Process, processes_of, words_of
from .table import Kind, Setting

_MAX_CHARACTERS = 1 << 22
_MAX_IMPORTS = 100

_Found = Tuple[str, str]
"""A path, and the home directory of the user whose setting it is, or ""."""


def homes(top: str) -> List[str]:
    """Return the home directories of the system at ``top``."""
    found = [home.rstrip("/") for home in sorted(glob.glob(at(glob.escape(top), "/home/*/")))] + [at(top, "/root")]
    for line in _text(at(top, "/etc/passwd")).splitlines():
        fields = line.split(":") + [""] * 6
        home = at(top, fields[5].rstrip("/"))
        if fields[5].startswith("/") and home not in found and _is_own(home, fields[2]):
            found.append(home)
    return found


def _is_own(home: str, user: str) -> bool:
    """Whether a directory is one that nobody but a user may write to. Some services have /tmp as their home."""
    try:
        st = os.lstat(home)
    except OSError:
        return False
    return stat.S_ISDIR(st.st_mode) and str(st.st_uid) == user and not st.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def at(top: str, path: str) -> str:
    """Return an absolute path of the system at ``top``."""
    return os.path.join(top, path.lstrip("/")) if top else path


def configured(kind: Kind, top: str) -> Iterator[_Found]:
    """Yield each path that the system at ``top``, "" for this one, has for a kind of store.

    Raises ValueError for a broken configuration of the machine's dockerd.
    """
    for setting in kind.settings:
        for found in read(setting, top):
            yield found
    for daemon in kind.daemons if not top else ():
        for process in processes_of((daemon.process,)):
            home = _home_of(process)
            words = words_of(process) + words_of(process, "environ") if home is not None else []
            for flag, value in _flags(words):
                if flag in daemon.root:
                    paths = [value]
                elif flag in daemon.file and _is_the_same(process, value):
                    paths = [path for path, _ in _of_file(value, kind.settings[0], "", home or "")]
                else:
                    continue
                for path in paths:
                    if _is_the_same(process, path):
                        yield path, home or ""


def _flags(words: List[str]) -> Iterator[Tuple[str, str]]:
    for word, following in zip(words, [*words[1:], ""]):
        name, given, value = word.partition("=")
        yield name, value if given else following


def _home_of(process: Process) -> Optional[str]:
    """Return the home directory of whom a process is, "" for root, None if there is none.

    A setuid program that a user has started under a daemon's name says nothing.
    """
    try:
        user = os.stat("/proc/" + process.number).st_uid
        with open("/proc/{}/status".format(process.number), "rb") as status:
            # Of a name that a process gives itself not all need be text.
            started_by = next(line.split()[1].decode() for line in status if line.startswith(b"Uid:"))
        if started_by != str(user):
            return None
        home = "" if user == 0 else pwd.getpwuid(user).pw_dir
    except (OSError, KeyError, StopIteration):
        return None
    return home if user == 0 or _is_own(home, started_by) else None


def _is_the_same(process: Process, path: str) -> bool:
    try:
        return path.startswith("/") and os.path.samefile("/proc/{}/root{}".format(process.number, path), path)
    except OSError:
        return False  # it has ended, or has another in its mount namespace


def read(setting: Setting, top: str) -> Iterator[_Found]:
    """Yield each path that a setting of the system at ``top`` has.

    Raises ValueError for a file of JSON that is broken.
    """
    for home in homes(top) if setting.files.startswith("~") else [""]:
        pattern = glob.escape(home or top.rstrip("/")) + setting.files.lstrip("~")
        for file in sorted(glob.glob(pattern)):
            for found in _of_file(file, setting, top, home):
                yield found


def _of_file(file: str, setting: Setting, top: str, home: str) -> Iterator[_Found]:
    try:
        paths = list(_FORMATS[setting.format](file, setting, top))
    except (OSError, ValueError):
        if not home:
            raise
        return  # a user's own, which must not keep the machine from being moved
    for path in paths:
        of_users = setting.format == "toml" and "$" in path
        for whose in [home] if home or not of_users else homes(top):
            expanded = _expanded(path, whose, top) if of_users else path
            # The machine's own encoding may be another than that of the file.
            found = os.fsdecode(expanded.encode("utf-8", "surrogateescape")) if _is_text(expanded) else ""
            if is_path(found):
                yield found, whose


def _is_text(text: str) -> bool:
    return not re.search("[\ud800-\udc7f\udd00-\udfff]", text)  # half a character, which JSON can name


def _expanded(path: str, home: str, top: str) -> str:
    """Return a path with what containers-storage.conf(5) lets stand for a user's, "" if there is more in it."""
    own = home[len(top.rstrip("/")) :]
    values = {"HOME": own, "XDG_DATA_HOME": own + "/.local/share", "USER": os.path.basename(own)}
    try:
        values["UID"] = str(os.stat(home).st_uid)
    except OSError:
        return ""  # it has gone
    expanded = re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda name: values.get(name.group(1) or name.group(2), "$"), path)
    return "" if "$" in expanded else expanded


def daemon_settings(file: str) -> "dict[str, object]":
    """Return dockerd's configuration, without any if there is no such file. Raises ValueError if it is broken."""
    try:
        settings = json_of(file)
        if not isinstance(settings, dict):
            raise ValueError("it is no object")
        return settings
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError("{}: not a configuration of dockerd: {}".format(file, error)) from None


def _json(file: str, setting: Setting, top: str) -> Iterator[str]:
    found = daemon_settings(file)
    path = next((found[key] for key in setting.keys if found.get(key)), None)
    return iter(() if path is None else (str(path),))


_TOML = re.compile(
    r"""^[ \t]*(?:
        \[{1,2}(?P<table>[^\n\[\]]*)\]
        |(?P<key>[\w.-]+|"[^"\n]*"|'[^'\n]*')[ \t]*=[ \t]*
         (?P<value>\[(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|\#[^\n]*|[^\]"'\#])*\]?|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    )""",
    re.MULTILINE | re.VERBOSE,
)
"""No part of a text is looked at again and again, whoever has written it: an array that has no end is the last."""
_TOML_STRING = re.compile(r"""#[^\n]*|"((?:\\.|[^"\\\n])*)"|'([^'\n]*)'""")


def _toml(file: str, setting: Setting, top: str) -> Iterator[str]:
    """Yield the strings that a file has for the setting's keys, and those of the files that it imports."""
    waiting: List[str] = [file]
    seen: Set[str] = set()
    while waiting and len(seen) < _MAX_IMPORTS:
        file = waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        for key, value in _toml_values(_text(file)):
            if key == "imports":
                # Whoever writes it would have all of a machine searched by wildcards in a path's other components.
                path = at(top, value) if value.startswith("/") else value
                folder, name = os.path.split(os.path.join(os.path.dirname(file), path))
                waiting += sorted(glob.glob(os.path.join(glob.escape(folder), name)))
            elif any(fnmatchcase(key, wanted) for wanted in setting.keys):
                yield value


def _toml_values(text: str) -> Iterator[Tuple[str, str]]:
    """Yield each string of a file of TOML after its key, with that of its table and a dot before it."""
    table = ""
    for match in _TOML.finditer(text):
        if match.group("table") is not None:
            table = re.sub(r"[\"']", "", match.group("table")).strip() + "."
            continue
        key = table + match.group("key").strip("\"'")
        for string in _TOML_STRING.finditer(match.group("value")):
            basic, literal = string.groups()
            if basic is not None:
                # But for a few rare ones the escapes are those of JSON.
                try:
                    yield key, json.loads('"' + basic + '"')
                except ValueError:
                    continue
            elif literal is not None:
                yield key, literal


def _pool(file: str, setting: Setting, top: str) -> Iterator[str]:
    text = _xml(file)
    # The others are devices' folders, or nothing of this machine's.
    if re.search(r"<pool\s[^<>]*\btype=[\"'](?:dir|fs|netfs)[\"']", text):
        for match in re.finditer(r"<path>([^<]*)</path>", text.partition("<target")[2]):
            yield _unescaped(match.group(1).strip())


def _domain(file: str, setting: Setting, top: str) -> Iterator[str]:
    text = _xml(file)
    for key in setting.keys:
        for source in re.findall(r"<source\s[^<>]*>", text):
            for match in re.finditer(r"\s{}=(?:\"([^\"]*)\"|'([^']*)')".format(key), source):
                yield _unescaped(match.group(1) or match.group(2) or "")
        for match in re.finditer(r"<{0}(?:\s[^<>]*)?>([^<]*)</{0}>".format(key), text):
            yield _unescaped(match.group(1).strip())


def _xml(file: str) -> str:
    first, *others = _text(file).split("<!--")
    return first + "".join(each.partition("-->")[2] for each in others)


def _unescaped(text: str) -> str:
    for name, character in (("lt", "<"), ("gt", ">"), ("quot", '"'), ("apos", "'"), ("amp", "&")):
        text = text.replace("&{};".format(name), character)
    return text


def _text(file: str) -> str:
    try:
        return text_of(file)
    except OSError:
        return ""  # it is another user's, or has gone


def json_of(file: str) -> Any:
    """Return what a file of JSON says. Raises OSError, and ValueError for what is none."""
    try:
        return json.loads(text_of(file))
    except RecursionError:
        raise ValueError("too many brackets") from None


def text_of(file: str) -> str:
    """Return what is in a file, of which some are a user's: one without an end is cut, and nobody waits for a pipe.

    Raises OSError.
    """
    with open(open_regular(file), encoding="utf-8", errors="surrogateescape") as opened:
        return opened.read(_MAX_CHARACTERS)


_FORMATS = {"json": _json, "toml": _toml, "pool": _pool, "domain": _domain}
