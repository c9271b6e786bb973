"""What the preflight says of machines that are not at hand: the sentence a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sparsesync.engine.host import LocalHost
from sparsesync.engine.queries.examples.collect import Example
from sparsesync.engine.queries.examples.trial import Refused
from sparsesync.engine.queries.in_use import AllInUse, InUse
from sparsesync.engine.queries.kernel import Kernel, Lacking
from sparsesync.engine.queries.probe import Probe
from sparsesync.engine.queries.stores.stores import Needed, Store
from sparsesync.engine.queries.stores.table import BY_NAME
from sparsesync.engine.queries.survey import Survey
from sparsesync.engine.queries.system import System
from sparsesync.engine.transfer.records import Space
from sparsesync.hosts.base import Location
from sparsesync.migration import findings
from sparsesync.migration.findings import OK, STOP, WARNING, Finding
from sparsesync.migration.plan import Files, Plan
from sparsesync.migration.preflight import Facts
from sparsesync.migration.request import Commands, MigrationCommand, Request
from sparsesync.migration.stores import of_stores

GIB = 1 << 30
HOST = System(system="Linux 6.1", python="3.11.2", rsync="3.2.7", root=True, identity="")
SURVEY = Survey(
    real="/data",
    place="8:1 /data",
    kind="d",
    device=1,
    inode=3,
    files=10,
    others=2,
    size=100 * GIB,
    allocated=GIB,
    largest=100 * GIB,
    largest_path="/data/img",
    devices=0,
    whiteouts=0,
    foreign=0,
    unreadable=0,
    example="",
    mounts=[],
    examples=[],
    names=["img"],
)
PROBE = Probe(
    kind="d",
    parent=True,
    real="/new",
    place="8:2 /new",
    device=2,
    type="ext4",
    free=50 * GIB,
    inodes=1000,
    refused=None,
    full=False,
    holes=True,
    punch=True,
    clone=True,
    xattrs=True,
    trusted=True,
    acls=True,
    largest=True,
    nanoseconds=True,
    busy=False,
)
DOCKER = Store(
    kind="docker",
    root="/data/docker",
    driver="overlay2",
    drivers=["overlay2"],
    loop_files=[],
    layers=True,
    subvolumes=0,
    companions=[],
    running=[],
    place="",
    kernel=[*BY_NAME["docker"].kernel],
    outer="",
    goes_on=False,
)
KERNEL = Kernel(release="6.1", lacks=[], unknown=[])


def facts(
    *options: str,
    hosts: tuple[System, System] = (HOST, HOST),
    store: Store | None = None,
    kernel: Kernel = KERNEL,
    probe: Probe = PROBE,
    survey: Survey = SURVEY,
    local: bool = False,
    refusals: Sequence[tuple[Example, Refused]] = (),
) -> Facts:
    asked = MigrationCommand(Request(("/data/",), "new:/new", options))
    stores = [] if store is None else [store]
    here: Any = LocalHost()
    there = here if local else SimpleNamespace(name="new")
    ends = Location(here, "/data/", ""), Location(there, "/new", "" if local else "new:")
    presets, surveys, used = {"/data/": "none"}, {"/data/": survey}, AllInUse([], 0)
    return Facts(*ends, asked, hosts, presets, [], surveys, stores, kernel, probe, [*refusals], used)


def all_findings(found: Facts) -> list[Finding]:
    return [*findings.findings(found), *of_stores(found)]


def told(level: str, found: Facts) -> list[str]:
    return [f"{each.subject}: {each.text}" for each in all_findings(found) if each.level == level]


def test_a_store_keeps_its_path() -> None:
    (said,) = told(WARNING, facts(store=DOCKER._replace(place="/data/docker")))
    assert said.startswith("/data/docker: is /new/docker at the destination: mount or bind it at /data/docker there")
    assert told(WARNING, facts(store=DOCKER._replace(place="/new/docker"))) == []


def test_all_is_well() -> None:
    assert told(STOP, facts()) == told(WARNING, facts()) == []
    assert told(findings.OK, facts()) == [
        "this host: rsync 3.2.7, Python 3.11.2, Linux 6.1, root",
        "new: rsync 3.2.7, Python 3.11.2, Linux 6.1, root",
        "/data/: 1.0 GiB allocated, 100.0 GiB apparent, 10 files, preset none",
        "new:/new: ext4, 50.0 GiB and 1000 inodes free, has holes, punching holes, clones, xattrs, ACLs",
    ]


def test_one_machine_is_both_ends() -> None:
    """It is told of once, and a destination inside the source is seen though the machine has no identity of its own."""
    assert [line for line in told(findings.OK, facts(local=True)) if line.startswith("this host: rsync")] == [
        "this host: rsync 3.2.7, Python 3.11.2, Linux 6.1, root"
    ]
    inside = PROBE._replace(place="8:1 /data/new", device=SURVEY.device)
    text = "is inside the source /data/ and would be copied into itself; name another place"
    assert told(STOP, facts(local=True, probe=inside)) == [f"/new: {text}"]
    assert told(STOP, facts(probe=inside)) == []


@pytest.mark.parametrize(
    ("version", "said"),
    [(None, "new: rsync is not installed; install it, for instance: apt install rsync"),
     ("3.0.9", "new: rsync 3.0.9 is too old; 3.1 or newer is needed")],
)  # fmt: skip
def test_rsync(version: str | None, said: str) -> None:
    assert told(STOP, facts(hosts=(HOST, HOST._replace(rsync=version)))) == [said]


def test_who_is_not_root_loses_what() -> None:
    survey = SURVEY._replace(devices=2, whiteouts=1, foreign=30)
    found = facts(hosts=(HOST, HOST._replace(root=False)), survey=survey)
    lost = "the owners of 30 files, 3 device nodes, trusted.* attributes"
    assert told(WARNING, found) == [f"new: you are not root: lost are {lost}"]
    nothing = facts(hosts=(HOST, HOST._replace(root=False)), survey=SURVEY)
    assert told(WARNING, nothing) == ["new: you are not root: lost are trusted.* attributes"]
    assert told(WARNING, facts("-M--fake-super", hosts=(HOST, HOST._replace(root=False)), survey=survey)) == []
    (said,) = told(WARNING, facts(hosts=(HOST._replace(root=False), HOST)))
    assert said.startswith("this host: you are not root: files you may not read")


@pytest.mark.parametrize(
    ("example", "refused", "said"),
    [
        (("time", "-"), Refused(0, "it becomes x", 1), "(it becomes x); give --modify-window=1 after --"),
        (("time", "-"), Refused(0, "no"), "the time of /p (no); touch it"),
        (("time", "l"), Refused(0, "no"), "times of symlinks such as /p (no); give --omit-link-times after --"),
        (("time", "d"), Refused(0, "x", 9), "times of directories such as /p (x); give --omit-dir-times after --"),
        (("type", "c"), Refused(0, "no"), "the whiteout /p (no); use another filesystem"),
    ],
)
def test_what_is_refused_and_what_to_do(example: tuple[str, str], refused: Refused, said: str) -> None:
    (found,) = told(STOP, facts("-a", refusals=[(Example(*example, "", "", 0, "/p"), refused)]))
    assert f"cannot hold {said}" in found or said in found


def test_docker_and_who_is_not_root() -> None:
    survey = SURVEY._replace(whiteouts=2)
    found = facts(hosts=(HOST, HOST._replace(root=False)), survey=survey, store=DOCKER)
    what = "its layers have 2 whiteouts and trusted.overlay.opaque attributes"
    lost = "files deleted in images would come back"
    assert told(STOP, found) == [f"/data/docker: {what}, which only root can copy: {lost}; be root on new"]
    found = facts(survey=survey, store=DOCKER, probe=PROBE._replace(trusted=False))
    assert told(STOP, found) == [f"/data/docker: {what}, which new:/new cannot hold: {lost}; use another filesystem"]
    assert told(STOP, facts(survey=survey, store=DOCKER)) == []


@pytest.mark.parametrize(
    ("driver", "lacks", "said"),
    [("overlay2", ["overlay"], "has no overlay (module overlay), which the storage driver overlay2 needs"),
     ("containerd's overlayfs", ["overlay"], "which the storage driver containerd's overlayfs needs"),
     ("devicemapper", ["loop", "device-mapper"],
      "and no device-mapper (module device-mapper), which the storage driver devicemapper needs"),
     ("btrfs", ["btrfs"], "has no btrfs (module btrfs), which the storage driver btrfs needs"),
     ("vfs", ["overlay"], None)],
)  # fmt: skip
def test_the_kernel_over_there(driver: str, lacks: list[str], said: str | None) -> None:
    kernel = KERNEL._replace(lacks=[Lacking(name, f"module {name}") for name in lacks])
    found = told(WARNING, facts(kernel=kernel, store=DOCKER._replace(driver=driver, drivers=[driver])))
    assert len(found) == (said is not None)
    for line in found:
        assert line.startswith("new: its kernel has no ") and f"{said}: Docker will not start" in line


def test_networks_over_there() -> None:
    """What two stores need is told once."""
    lacking = Lacking("MASQUERADE", "module xt_MASQUERADE, CONFIG_NETFILTER_XT_TARGET_MASQUERADE; or module nft_masq")
    found = facts(kernel=KERNEL._replace(lacks=[lacking], unknown=["bridge"]), store=DOCKER)
    found = found._replace(stores=[DOCKER, DOCKER._replace(kind="podman", root="/data/podman", place="")])
    lacks, unknown = told(WARNING, found)
    assert lacks.startswith(f"new: its kernel has no MASQUERADE ({lacking.needs}), which Docker needs: containers or")
    assert "whether its kernel has bridge, which Docker needs, cannot be told without /proc/config.gz" in unknown


def test_half_of_a_docker_host() -> None:
    """What is at the source and belongs together is told with the command that moves it."""
    images = Needed("/data/containerd", "the images", True)
    store = DOCKER._replace(companions=[images, Needed("/etc/docker", "its configuration", False)])
    alone = SURVEY._replace(real="/data/docker")
    half, configuration = told(WARNING, facts(store=store, survey=alone))
    assert half == "/data/docker: is not all: not among the sources is /data/containerd (the images); " + (
        "migrate it as well (sparsesync migrate /data/containerd new:/data/), and start services only "
        "after the last final pass"
    )
    assert configuration.startswith("/data/docker: not among the sources is /etc/docker (its configuration); copy it")
    asked = MigrationCommand(Request(("/data/docker/",), "new:/data/docker/"))
    (half, _) = told(WARNING, facts(store=store, survey=alone)._replace(asked=asked))
    assert half.endswith("; move all at once: sparsesync migrate /data/docker /data/containerd new:/data/")
    elsewhere = store._replace(companions=[Needed("/srv/a b.img", "a disk", True), Needed("/dev/vg/b", "a disk", True)])
    (half,) = told(WARNING, facts(store=elsewhere, survey=alone)._replace(asked=asked))
    assert half.endswith("; move all at once: sparsesync migrate /data/docker '/srv/a b.img' new:/ -- --relative")
    inside = [Needed("", "a pool", True), *(Needed(path, "x", True) for path in ("/srv/a/b", "/srv/a"))]
    (half,) = told(WARNING, facts(store=store._replace(companions=inside), survey=alone))
    assert "not among the sources are a pool, /srv/a (x); migrate" in half
    both = MigrationCommand(Request(("/data/docker", "/data/containerd"), "new:/data/"))
    surveys = {path: SURVEY._replace(real=path) for path in both.sources}
    found = facts(store=store)._replace(asked=both, surveys=surveys, presets=dict.fromkeys(surveys, "docker"))
    assert [line for line in told(WARNING, found) if "is not all" in line] == []
    store = DOCKER._replace(companions=[Needed("", "containerd's root, which has the images", True)])
    assert "not among the sources is containerd's root, which has" in told(WARNING, facts(store=store))[0]


def test_a_store_that_runs_and_has_to_keep_its_path() -> None:
    store = DOCKER._replace(kind="libvirt", root="/data/", driver="", drivers=[], running=["vm1 (process 7)"])
    store = store._replace(layers=False)
    place, running = told(WARNING, facts(store=store._replace(place="/var/lib/libvirt/images")))
    assert place.startswith("/data/: is /new at the destination: mount or bind it at /var/lib/libvirt/images there")
    assert running.startswith("/data/: in use by vm1 (process 7); before the final pass (--before): virsh shutdown")
    asked = MigrationCommand(Request(("/data/",), "new:/new", final=True, commands=Commands(before="true")))
    assert told(WARNING, facts(store=store._replace(place="/new"))._replace(asked=asked)) == []


def test_containers_that_go_on() -> None:
    (said,) = told(WARNING, facts(store=DOCKER._replace(goes_on=True)))
    assert said.startswith('/data/docker: its containers go on when Docker is stopped ("live-restore"): set that to')


def test_btrfs_subvolumes() -> None:
    (said,) = told(WARNING, facts(store=DOCKER._replace(subvolumes=3)))
    assert said.startswith("/data/docker: 3 btrfs subvolumes become directories")


def test_a_subvolume_is_not_entered() -> None:
    (said,) = told(WARNING, facts(survey=SURVEY._replace(mounts=[["/data/sub", "btrfs subvolume", ""]])))
    assert said.startswith("/data/sub: is a btrfs subvolume, and --one-file-system does not enter it: only an empty")
    assert said.endswith("migrate it by itself if it is to, or enter all with -- --no-one-file-system")


def test_what_is_mounted_from_within() -> None:
    rows = [["/data/pool", "btrfs", "/data/disks/a.img"], ["/data/volume", "bind mount", "/srv"]]
    found = facts(survey=SURVEY._replace(mounts=rows))
    assert "/data/pool: is mounted from /data/disks/a.img, and goes along in that" in told(OK, found)
    (said,) = told(WARNING, found)
    assert said.startswith("/data/volume: is a bind mount of /srv in the same filesystem, so what is in it goes along")


def test_of_many_alike_a_few_are_told() -> None:
    mounts = [[f"/data/{number}", "xfs", ""] for number in range(25)]
    said = told(WARNING, facts(survey=SURVEY._replace(mounts=mounts)))
    assert len(said) == 11 and said[-1] == "and: 15 more like the last"
    used = [InUse(f"/data/{number}", "writing", "x (process 1)", 1) for number in range(12)]
    found = [*findings.of_use(facts(), used, 5, STOP)]
    assert found[-1] == Finding(STOP, "and", "7 more like the last")
    assert found[0].text == "is open for writing: x (process 1); stop that first (--before), or give --allow-live"


def space(found: Facts, **plan: Any) -> list[Finding]:
    return [*findings.of_space(found, Plan(seeds=Files(1, 100 * GIB, GIB), **plan))]


def test_space() -> None:
    (said,) = space(facts(), space=[Space(GIB, 50 * GIB, "/new")])
    text = "1.0 GiB are needed, 50.0 GiB are free (plain rsync would ask for 100.0 GiB)"
    assert said == Finding("ok", "new:/new", text)
    (said,) = space(facts(), space=[Space(60 * GIB, 50 * GIB, "/new")])
    assert (said.level, said.text.partition(";")[0]) == (STOP, "60.0 GiB are needed, 50.0 GiB are free")
    # Where there are no holes, the apparent size counts.
    (said,) = space(facts(probe=PROBE._replace(holes=False)), space=[Space(GIB, 50 * GIB, "/new")])
    assert (said.level, said.text.partition(";")[0]) == (STOP, "100.0 GiB are needed, 50.0 GiB are free")
    # A file that is replaced is there twice for a while, unless extents can be shared.
    tight = {"space": [Space(0, GIB, "/new")], "replaced": 2 * GIB}
    (said,) = space(facts(probe=PROBE._replace(clone=False)), **tight)
    assert said.level == STOP and "2.0 GiB are needed while a file is replaced, 1.0 GiB are free" in said.text
    (said,) = space(facts(), **tight)
    assert said.level == "ok"
    assert space(facts(), created=1001)[0].text.startswith("1001 inodes are needed, 1000 are free")
    assert space(facts(probe=PROBE._replace(inodes=-1)), created=1001) == []
