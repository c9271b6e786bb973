"""What a machine says of itself."""

from __future__ import annotations

from pyfakefs.fake_filesystem import FakeFilesystem

from sparsesync.engine.queries.registry import answer_query
from tests.support.fake import lay_out


def test_which_kernel_is_running(fs: FakeFilesystem) -> None:
    assert answer_query("host", rsync="/no/rsync").identity == ""
    lay_out(fs, "", contents={"/proc/sys/kernel/random/boot_id": "0-1-2\n"})
    found = answer_query("host", rsync="/no/rsync")
    assert (found.identity, found.rsync) == ("0-1-2", None)
