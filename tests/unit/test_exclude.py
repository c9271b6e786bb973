"""Patterns of exclude files: how a name is quoted for each program, and where it is anchored. Nothing is scanned."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyfakefs.fake_filesystem import FakeFilesystem

from sparsesync.engine.queries.presets import preset_patterns
from sparsesync.exclude import FORMATS, place_patterns, quoter
from sparsesync.rsync.paths import transfer_name
from tests.support.fake import DOCKER, SYSTEM, lay_out


@pytest.mark.parametrize(
    ("source", "path", "relative", "name"),
    [
        # A slash behind a source means its contents: rsync(1).
        ("/a/b", "/a/b/c", False, "b/c"), ("/a/b/", "/a/b/c", False, "c"), ("/a/b/.", "/a/b/c", False, "c"),
        ("/a/b", "/a/b", False, "b"), ("/a/b/", "/a/b/", False, ""), ("/", "/etc/x", False, "etc/x"),
        (".", "./x", False, "x"), ("b/..", "b/../x", False, "x"), ("//a//b//", "//a//b//c", False, "c"),
        # With --relative all of the path, or what is behind "/./", counts.
        ("/a/b", "/a/b/c", True, "a/b/c"), ("/a/b/", "/a/b/c", True, "a/b/c"), ("/a/./b", "/a/./b/c", True, "b/c"),
        ("a/./", "a/./c", True, "c"), ("/", "/etc", True, "etc"),
        # What is not below the source has no name in its transfer, and "..", behind a symlink, may be anything.
        ("/a/b", "/a/bc", False, None), ("/a/b", "/a", False, None), ("/a/b", "/a/c/../b/c", False, None),
    ],
)  # fmt: skip
def test_the_name_in_the_transfer(source: str, path: str, relative: bool, name: str | None) -> None:
    assert transfer_name(source, path, relative) == name


# No registry has kopia and rustic. Their own code that matches was held against these and 600,000 random names by hand.
@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("/plain", {"rsync": "/plain", "tar": "/plain", "borg": "pf:plain", "restic": "/plain",
         "kopia": "/plain", "rustic": "!/plain"}),
        ("/a*b", {"rsync": r"/a\*b", "tar": r"/a\*b", "borg": "pf:a*b", "restic": r"/a\*b",
         "kopia": r"/a\*b", "rustic": r"!/a\*b"}),
        ("/[x]?", {"rsync": r"/\[x]\?", "tar": r"/\[x]\?", "borg": "pf:[x]?", "restic": r"/\[x]\?",
         "kopia": r"/\[x]\?", "rustic": r"!/\[x\]\?"}),
        # For rsync a backslash escapes only where there is a wildcard.
        ("/a\\b", {"rsync": "/a\\b", "tar": "/a\\\\b", "borg": "pf:a\\b", "restic": "/a\\\\b",
         "kopia": "/a\\\\b", "rustic": "!/a\\\\b"}),
        ("/a\\*", {"rsync": "/a\\\\\\*", "tar": "/a\\\\\\*", "borg": "pf:a\\*", "restic": "/a\\\\\\*",
         "kopia": "/a\\\\\\*", "rustic": "!/a\\\\\\*"}),
        ("/$HOME", {"rsync": "/$HOME", "tar": "/$HOME", "borg": "pf:$HOME", "restic": "/$$HOME",
         "kopia": "/$HOME", "rustic": "!/$HOME"}),
        ("/end ", {"rsync": "/end ", "tar": "/end[ ]", "borg": "re:^end\\U00000020\\Z", "restic": "/end[ ]",
         "kopia": "/end[ ]", "rustic": "!/end{ }"}),
        ("/\udcff", {"rsync": "/\udcff", "tar": "/\udcff", "borg": None, "restic": "/\udcff",
         "kopia": None, "rustic": None}),
        ("/a\nb", {"rsync": None, "tar": None, "borg": "re:^a\\U0000000ab\\Z", "restic": None,
         "kopia": None, "rustic": None}),
        ("/a\rb", {"rsync": None, "tar": "/a\rb", "borg": "re:^a\\U0000000db\\Z", "restic": "/a\rb",
         "kopia": "/a\rb", "rustic": "!/a\rb"}),
        ("/a\r", {"rsync": None, "tar": "/a[\r]", "borg": "re:^a\\U0000000d\\Z", "restic": "/a[\r]",
         "kopia": "/a[\r]", "rustic": "!/a{\r}"}),
        ("/{a,b}", {"rsync": "/{a,b}", "tar": "/{a,b}", "borg": "pf:{a,b}", "restic": "/{a,b}",
         "kopia": "/{a,b}", "rustic": r"!/\{a,b\}"}),
        ("/!#", {"rsync": "/!#", "tar": "/!#", "borg": "pf:!#", "restic": "/!#", "kopia": "/!#", "rustic": "!/!#"}),
        ("/\ufffd", {"rsync": "/\ufffd", "tar": "/\ufffd", "borg": "pf:\ufffd", "restic": "/\ufffd",
         "kopia": None, "rustic": "!/\ufffd"}),
    ],
)  # fmt: skip
def test_a_name_is_quoted_for_each_program(name: str, quoted: dict[str, str | None]) -> None:
    assert set(quoted) == set(FORMATS)
    for form, pattern in quoted.items():
        if pattern is None:
            with pytest.raises(ValueError, match=r"cannot carry|has a line break in its name"):
                quoter(form)(name)
        else:
            assert quoter(form)(name) == pattern


def test_from0_takes_any_name() -> None:
    assert quoter(null=True)("/a\nb\r*") == "/a\nb\r\\*"
    with pytest.raises(ValueError, match="unknown format 'zip'; there are rsync, tar, borg, restic, kopia, rustic"):
        quoter("zip")


@given(st.text("ab*?[]\\", max_size=6), st.text("ab*?[]\\", max_size=6))
def test_a_quoted_name_matches_itself_alone(name: str, other: str) -> None:
    """By fnmatch(3)'s rules with escapes, which Python's fnmatch writes as a class of one."""
    pattern = re.sub(r"\\(.)", r"[\1]", quoter("tar")(name))
    assert fnmatch.fnmatchcase(other, pattern.replace("[\\]", "[\\\\]")) == (other == name)


def patterns(preset: str, source: str, relative: bool = False) -> list[str]:
    return list(place_patterns(list(preset_patterns(preset, [source])), relative, quoter()))


def test_a_preset_is_anchored_where_the_transfer_begins(fs: FakeFilesystem) -> None:
    lay_out(fs, "/var/lib/docker", *DOCKER)
    views = ["overlay2/*/merged/*", "containers/*/mounts/*/*", "tmp/*"]
    assert patterns("docker", "/var/lib/docker/") == [f"/{place}" for place in views]
    assert patterns("docker", "/var/lib/docker") == [f"/docker/{place}" for place in views]
    assert patterns("docker", "/var/lib/docker", relative=True) == [f"/var/lib/docker/{place}" for place in views]
    assert patterns("docker", "/var/lib/./docker/", relative=True) == [f"/docker/{place}" for place in views]
    assert patterns("docker", "/var/") == [f"/lib/docker/{place}" for place in views]


def test_the_wildcards_of_a_preset_are_not_those_of_a_name(fs: FakeFilesystem) -> None:
    lay_out(fs, "/mnt/old*[1]", *SYSTEM)
    found = patterns("system", "/mnt/old*[1]")
    assert found[0] == "/old\\*\\[1]/proc/*" and found[-1] == "/old\\*\\[1]/lost+found"
    assert patterns("system", "/mnt/old*[1]/")[:2] == ["/proc/*", "/sys/*"]


def test_a_place_outside_of_the_transfer_has_no_pattern(fs: FakeFilesystem) -> None:
    lay_out(fs, "/mnt/old", *SYSTEM)
    places = list(preset_patterns("system", ["/mnt/old"]))
    assert len(list(place_patterns(places, False, quoter()))) == len(places) == 8
    assert list(place_patterns([place._replace(source="/mnt/new") for place in places], False, quoter())) == []
