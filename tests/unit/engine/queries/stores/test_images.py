"""Chains of images, as qemu-img makes them."""

from __future__ import annotations

import os
from pathlib import Path

from sparsesync.engine.queries.stores.images import needed_by
from tests.support.filesystems import command, need_tools


def test_what_an_image_needs(tmp_path: Path) -> None:
    need_tools("qemu-img")
    (tmp_path / "vms").mkdir()
    base, middle, top, data = (tmp_path / name for name in ("base.raw", "middle", "vms/top", "data"))
    base.write_bytes(b"x" * 4096)
    command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, middle)
    command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "../middle", top)
    assert [*needed_by(str(top))] == [str(middle), str(base)]
    json = f'json:{{"driver": "qcow2", "file": {{"driver": "file", "filename": "{middle}"}}}}'
    command("qemu-img", "rebase", "-q", "-u", "-F", "qcow2", "-b", json, top)
    assert [*needed_by(str(top))] == [str(middle), str(base)]
    command("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", tmp_path / "one", "1M")
    assert [*needed_by(str(tmp_path / "one"))] == [str(data)]
    command("qemu-img", "rebase", "-q", "-u", "-F", "qcow2", "-b", "vms/top", middle)
    assert {*needed_by(str(top))} == {str(middle), str(top)}  # they need each other

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "cut").write_bytes(top.read_bytes()[:90])
    assert [[*needed_by(str(tmp_path / name))] for name in ("pipe", "cut", "base.raw", "none")] == [[]] * 4
