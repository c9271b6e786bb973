"""What docs/automation.md has others run, run by them or held against their own checks, as far as they are installed.

None of them is among what the tests' command installs: it would be much for a few lines.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.filesystems import allocated, sparse_file

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/automation.md").read_text()
IMAGES, COPIES = "/var/lib/libvirt/images/", ("/srv/images/", "/mnt/backup/images/")


def need_installed(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def blocks(language: str, top: Path) -> list[str]:
    """The blocks of a language, whose paths are below a test's directory instead."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    places = {
        IMAGES: f"{top}/src/", **dict.fromkeys(COPIES, f"{top}/dst/"), "/var/lib/images/": f"{top}/",
        "/usr/local/bin/sparsesync": f"{top}/bin/sparsesync", "/usr/local/bin:": f"{top}/bin:",
        "/run/lock/": f"{top}/", "/usr/local/share/": f"{top}/", "/var/lib/prometheus/node-exporter": str(top),
    }  # fmt: skip
    for old, new in places.items():
        found = [text.replace(old, new) for text in found]
    return found


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("src", "dst", "bin"):
        (tmp_path / name).mkdir()
    sparse_file(tmp_path / "src/disk", 64 * MIB, [(MIB, 4096)])
    command = tmp_path / "bin/sparsesync"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m sparsesync "$@"\n')
    command.chmod(0o755)
    return tmp_path


def test_systemd_takes_the_units(top: Path) -> None:
    need_installed("systemd-analyze")
    service, timer, more = blocks("ini", top)
    service = service.replace("root@backup:", "")
    for text in (service + more, timer):
        match = re.match("# (.*)\n", text)
        assert match is not None
        (top / match[1]).write_text(text)
    units = [str(top / "images.timer"), str(top / "images.service")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if str(top) in line]) == (0, [])
    need_installed("rsync", "jq")
    for name in ("ExecStart", "ExecStopPost"):
        (line,) = re.findall(f"^{name}=(.*)$", service + more, re.MULTILINE)
        (top / "sparsesync.jq").write_text(*blocks("jq", top))
        subprocess.run(["sh", "-c", line], check=True)
    lines = (top / "images.prom").read_text().splitlines()
    assert len(lines) == 8 and all(re.fullmatch(r"[a-z_]+ [0-9]+(\.[0-9]+)?", line) for line in lines)
    assert {"sparsesync_status 0", "sparsesync_seeded_files 1", f"sparsesync_saved_bytes {64 * MIB - 4096}"} < {*lines}


def test_cron_takes_the_line(top: Path) -> None:
    need_installed("crontab", "flock", "rsync")
    (text,) = blocks("cron", top)
    (top / "crontab").write_text(text)
    subprocess.run(["crontab", "-n", top / "crontab"], check=True)
    *settings, line = text.splitlines()
    environment = dict(setting.split("=", 1) for setting in settings)
    environment["PATH"] += f":{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", line.split(None, 5)[5]], env=environment, cwd=top, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert allocated(top / "dst/disk") == 4096


def test_ansible_takes_the_play(top: Path) -> None:
    need_installed("ansible-playbook", "rsync")
    (text,) = blocks("yaml", top)
    (top / "play.yml").write_text(text)
    (top / "hosts").write_text(f"backup ansible_connection=local ansible_python_interpreter={sys.executable}\n")
    argv = ["ansible-playbook", "-i", "hosts", "play.yml"]
    changed = []
    for _ in range(2):
        done = subprocess.run(argv, cwd=top, env={**os.environ, "HOME": str(top)}, capture_output=True, text=True)
        if "couldn't resolve module/action 'ansible.posix.synchronize'" in done.stdout + done.stderr:
            pytest.skip("the collection ansible.posix is not installed")
        assert done.returncode == 0, done
        changed += re.findall("changed=([0-9]+)", done.stdout)
    assert changed == ["1", "0"] and allocated(top / "dst/disk") == 4096
    report = json.loads((top / "report.json").read_text())
    assert (report["status"], report["sync"]["left"]) == (0, [])
