"""What is told of a Docker data root. Its size is that of real files: see tests/integration/test_migrate.py."""

from __future__ import annotations

import pytest
from pyfakefs.fake_filesystem import FakeFilesystem

from sparsesync.engine.queries.registry import answer_query
from tests.support.fake import DOCKER, SYSTEM, lay_out

MIB = 1 << 20


def test_the_driver_is_the_configured_one_or_that_in_use(fs: FakeFilesystem) -> None:
    configuration = {"etc/docker/daemon.json": '{"data-root": "/data/docker", "storage-driver": "devicemapper"}'}
    lay_out(fs, "/system", *SYSTEM, contents=configuration)
    lay_out(fs, "/system/data/docker", *DOCKER, "devicemapper/devicemapper/metadata", "aufs/")
    fs.create_file("/system/data/docker/devicemapper/devicemapper/data", st_size=100 * MIB)
    (found,) = answer_query("docker", source="/system/").roots
    assert (found.root, found.driver) == ("/system/data/docker", "devicemapper")
    assert (found.drivers, found.subvolumes) == (["overlay2", "devicemapper"], 0)
    pool = "/system/data/docker/devicemapper/devicemapper"
    assert [(each.path, each.size) for each in found.loop_files] == [
        (f"{pool}/data", 100 * MIB),
        (f"{pool}/metadata", 0),
    ]
    # The configuration is that of the system's tree, which this source does not say.
    assert answer_query("docker", source="/system/data/docker/").roots[0].driver == "overlay2"
    assert answer_query("docker", source="/system/usr").roots == []
    fs.remove_object("/system/etc/docker/daemon.json")
    lay_out(fs, "/system", contents={"etc/docker/daemon.json": "{"})
    with pytest.raises(ValueError, match=r"daemon\.json: not a configuration of dockerd"):
        answer_query("docker", source="/system/")
