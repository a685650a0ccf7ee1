"""The life cycle of a claim, with every way to reclaim its volume."""

from berth import ToolFailed
from kube import until
from stage import FINALIZER, ON_DELETE, PROVISIONED_BY, exported, mount, same, scenario


@scenario
def delete(stage):
    """All fields of a PV, files over NFS, the enforced capacity, and deletion without remains."""
    berth = stage.berth()
    storage_class = stage.storage_class(mount_options=["noatime"])
    claim = stage.claim("data", storage_class, "10Mi", modes=["ReadWriteMany", "ReadOnlyMany"])
    pv = stage.bound("data")

    uid = claim["metadata"]["uid"]
    same("name of the PV", f"pvc-{uid}", pv["metadata"]["name"])
    same("provisioned-by", stage.provisioner, pv["metadata"]["annotations"][PROVISIONED_BY])
    assert FINALIZER in pv["metadata"]["finalizers"], pv["metadata"]
    spec = pv["spec"]
    reference = {key: spec["claimRef"].get(key) for key in ("apiVersion", "kind", "namespace", "name", "uid")}
    same("claimRef", {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": stage.namespace,
                      "name": "data", "uid": uid}, reference)
    assert spec["claimRef"]["resourceVersion"], spec["claimRef"]
    same("class, mode, policy", (storage_class, "Filesystem", "Delete"),
         (spec["storageClassName"], spec["volumeMode"], spec["persistentVolumeReclaimPolicy"]))
    same("access modes and capacity", (["ReadWriteMany", "ReadOnlyMany"], {"storage": "10Mi"}),
         (spec["accessModes"], spec["capacity"]))
    same("server", "127.0.0.1", spec["nfs"]["server"])
    same("volume", f"{stage.namespace}-data-pvc-{uid}", exported(pv)[0])
    options = {"noatime", "nfsvers=3", "proto=tcp", f"port={berth.port}", f"mountport={berth.port}",
               "mountproto=tcp", "nolock", "hard", "nosuid", "nodev"}
    same("mount options", options, set(spec["mountOptions"]))

    stage.event(claim, "Provisioning", f"{stage.namespace}/data")
    stage.event(claim, "ProvisioningSucceeded", pv["metadata"]["name"])
    client = mount(pv)
    client.write("file", b"content" * 1000)
    directory = berth.volumes / f"{stage.namespace}-data-pvc-{uid}"
    same("the file on the server", b"content" * 1000, (directory / "file").read_bytes())
    same("size that df shows", 10 << 20, client.size())
    refused(lambda: client.write("large", b"x" * (11 << 20)), "write")

    stage.delete_claim("data")
    stage.gone(pv)
    same("volumes left", ({}, []), (berth.list(), berth.directories()))
    refused(client.names, "MNT3ERR_NOENT")


@scenario
def unguessable(stage):
    """Namespace and name of a claim reveal the directory on the server, but not the path to mount."""
    berth = stage.berth()
    storage_class = stage.storage_class(pathPattern="${.PVC.namespace}-${.PVC.name}")
    pv = stage.made("data", storage_class)
    mount(pv).write("file", b"mine")
    name, token = exported(pv)
    same("directories", [f"{stage.namespace}-data"], berth.directories())
    for path in [f"/{name}", f"/{name}/", f"/{name}/.", f"/{name}/{'0' * 32}", f"/{name}/{token[:-1]}"]:
        guess = pv | {"spec": pv["spec"] | {"nfs": {"server": "127.0.0.1", "path": path}}}
        refused(mount(guess).names, "MNT3ERR_NOENT")
    same("clients that mounted it", ["127.0.0.1"], berth.list()[name]["mountedBy"])
    for text in [berth.log_text(), *(event["message"] for event in stage.events_of(pv["spec"]["claimRef"]["uid"]))]:
        assert token not in text, text
    # The next claim of this name has another token, so the old path leads nowhere.
    stage.delete_claim("data")
    stage.gone(pv)
    assert exported(stage.made("data", storage_class))[1] != token
    refused(mount(pv).names, "MNT3ERR_NOENT")

    # A restart does not change the path.
    again = stage.made("other", storage_class)
    mount(again).write("file", b"mine")
    berth.stop()
    berth.start()
    same("the file", b"mine", mount(again).read("file"))


@scenario
def mount_options(stage):
    """A class decides about suid and dev; nosuid and nodev are the defaults."""
    stage.berth()
    for number, (given, expected) in enumerate([
            ([], {"nosuid", "nodev"}), (["suid"], {"suid", "nodev"}), (["noatime,dev"], {"nosuid", "dev"}),
            (["suid", "dev"], {"suid", "dev"})]):
        pv = stage.made(f"data-{number}", stage.storage_class(f"given-{number}", mount_options=given))
        options = {option for entry in pv["spec"]["mountOptions"] for option in entry.split(",")}
        same(f"options with {given}", expected, options & {"suid", "nosuid", "dev", "nodev"})


@scenario
def archive(stage):
    """Two successive claims of the same name: the content of both is archived."""
    berth = stage.berth()
    storage_class = stage.storage_class(onDelete="archive", pathPattern="${.PVC.name}")
    for content in [b"first", b"second"]:
        pv = stage.made("data", storage_class)
        same("volume", "data", exported(pv)[0])
        mount(pv).write("file", content)
        stage.delete_claim("data")
        stage.gone(pv)
        stage.event(pv, "VolumeArchived", "archived-data-")
    kept = berth.directories()
    same("archived", 2, sum(name.startswith("archived-data-") for name in kept))
    same("content", {b"first", b"second"}, {(berth.volumes / name / "file").read_bytes() for name in kept})
    same("volumes left", {}, berth.list())


@scenario
def archive_on_delete(stage):
    """The parameter archiveOnDelete of nfs-subdir-external-provisioner archives, too."""
    berth = stage.berth()
    pv = stage.made("data", stage.storage_class(archiveOnDelete="true"))
    mount(pv).write("file", b"kept")
    stage.delete_claim("data")
    stage.gone(pv)
    same("content", [b"kept"], [(berth.volumes / name / "file").read_bytes() for name in berth.directories()])


@scenario
def recycle(stage):
    """A recycled PV is bound to a claim of another namespace, which finds it empty."""
    berth = stage.berth()
    pv = stage.made("before", stage.storage_class(onDelete="recycle"), "20Mi")
    mount(pv).write("secret", b"of the first tenant")
    free = recycled(stage, pv, "before")
    same("policy", "Delete", free["spec"]["persistentVolumeReclaimPolicy"])
    assert FINALIZER in free["metadata"]["finalizers"], free["metadata"]

    other = stage.namespaced(f"{stage.namespace}-other")
    again = stage.made("after", stage.classes[0], "5Mi", namespace=other)
    same("volume of the next claim", pv["metadata"]["name"], again["metadata"]["name"])
    same("names in the recycled volume", [], mount(again).names())
    mount(again).write("file", b"of the second tenant")
    same("volumes", 1, len(berth.list()))

    # The policy Retain keeps the content of a recycled volume like that of any other.
    stage.kube.patch("persistentvolumes", pv["metadata"]["name"],
                     {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    stage.delete_claim("after", other)
    stage.phase(pv, "Released")
    same("the retained file", b"of the second tenant", mount(again).read("file"))


@scenario
def recycle_by_policy(stage):
    """With the policy Recycle, Berth recycles the volume, and not a recycler pod of the cluster."""
    stage.berth()
    pv = stage.made("data", stage.storage_class())
    mount(pv).write("secret", b"of the first tenant")
    name = pv["metadata"]["name"]
    stage.kube.patch("persistentvolumes", name, {"spec": {"persistentVolumeReclaimPolicy": "Recycle"}})
    taken = until("the policy is Delete again", lambda: policy_is(stage, name, "Delete"))
    same("the annotation", "recycle", taken["metadata"]["annotations"][ON_DELETE])
    free = recycled(stage, pv, "data")
    same("names in the recycled volume", [], mount(free).names())
    pods = [pod["metadata"]["name"] for pod in stage.kube.list("pods", "default")]
    assert f"recycler-for-{name}" not in pods, pods


def recycled(stage, pv, claim):
    stage.delete_claim(claim)
    free = stage.phase(pv, "Available")
    assert not free["spec"].get("claimRef"), free["spec"]
    stage.event(pv, "VolumeRecycled")
    return free


def policy_is(stage, name, policy):
    pv = stage.volume(name)
    return pv if pv["spec"]["persistentVolumeReclaimPolicy"] == policy else None


@scenario
def claimed_needs_force(stage):
    """`berth volume` deletes, archives and recycles a volume that a claim uses only with --force."""
    berth = stage.berth()
    storage_class = stage.storage_class(pathPattern="${.PVC.name}")
    pv = stage.made("data", storage_class)
    mount(pv).write("file", b"kept")
    for words in [["delete", "data"], ["archive", "data"], ["recycle", "data"], ["delete", "data", "--on-delete", "archive"]]:
        done = berth.run("volume", *words, "--yes")
        same(f"exit status of {words}", 4, done.returncode)
        for word in [f"{stage.namespace}/data", "--force", "kubectl"]:
            assert word in done.stderr, done.stderr
    same("the file", b"kept", mount(pv).read("file"))

    # Without the provisioner, the record of the volume still names the claim.
    berth.stop()
    alone = stage.server(volumes=berth.volumes, provisioner=False).start()
    done = alone.run("volume", "delete", "data", "--yes")
    same("exit status without the provisioner", 4, done.returncode)
    assert f"{stage.namespace}/data" in done.stderr, done.stderr
    alone.stop()
    berth.start()

    # A retained volume no longer belongs to a claim.
    stage.kube.patch("persistentvolumes", pv["metadata"]["name"], {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    stage.delete_claim("data")
    stage.phase(pv, "Released")
    until("it can be deleted", lambda: berth.run("volume", "delete", "data", "--yes").returncode == 0)
    same("volumes", {}, berth.list())

    forced = stage.made("forced", storage_class)
    mount(forced).write("file", b"lost")
    berth.volume("delete", "forced", "--yes", "--force")
    same("volumes", {}, berth.list())


@scenario
def retain(stage):
    """The policy Retain, of the class or set by hand, keeps PV and volume; `onDelete: retain` keeps
    the volume."""
    berth = stage.berth()
    by_class = stage.made("by-class", stage.storage_class(policy="Retain"))
    by_hand = stage.made("by-hand", stage.storage_class("deleted"))
    without_pv = stage.made("without-pv", stage.storage_class("kept", onDelete="retain"))
    ended = stage.made("ended", stage.classes[1])
    for pv in [by_class, by_hand, without_pv]:
        mount(pv).write("file", b"kept")
    stage.kube.patch("persistentvolumes", by_hand["metadata"]["name"],
                     {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    for name in ["by-class", "by-hand", "without-pv", "ended"]:
        stage.delete_claim(name)
    for pv in [without_pv, ended]:
        stage.gone(pv)
    for pv in [by_class, by_hand]:
        stage.phase(pv, "Released")
    for pv in [by_class, by_hand, without_pv]:
        same("the retained file", b"kept", mount(pv).read("file"))
    same("volumes", 3, len(berth.list()))

    # Deleting a retained PV by hand keeps its data.
    stage.kube.delete("persistentvolumes", by_hand["metadata"]["name"])
    stage.gone(by_hand)
    same("volumes", 3, len(berth.list()))


@scenario
def expand(stage):
    """A claim grows while it is used; growing beyond the disk fails with an event and changes
    nothing."""
    stage.berth()
    storage_class = stage.storage_class()
    pv = stage.made("data", storage_class, "8Mi")
    client = mount(pv)
    refused(lambda: client.write("too-early", b"x" * (9 << 20)), "write")
    grow(stage, "data", "32Mi")
    claim = until("the claim has the new capacity", lambda: has_capacity(stage.claimed("data"), "32Mi"))
    same("conditions", [], claim["status"].get("conditions") or [])
    same("capacity of the PV", "32Mi", stage.volume(pv["metadata"]["name"])["spec"]["capacity"]["storage"])
    stage.event(claim, "VolumeExpanded", "32Mi")
    same("size that df shows", 32 << 20, client.size())
    client.write("in-time", b"x" * (9 << 20))

    grow(stage, "data", "1Ei")
    stage.event(claim, "VolumeResizeFailed")
    same("capacity after a failure", "32Mi", stage.claimed("data")["status"]["capacity"]["storage"])
    # Other claims are not delayed by the failure.
    stage.made("other", storage_class)


def grow(stage, name, size):
    change = {"spec": {"resources": {"requests": {"storage": size}}}}
    stage.kube.patch("persistentvolumeclaims", name, change, stage.namespace)


def has_capacity(claim, size):
    now = claim["status"]["capacity"]["storage"]
    same("capacity of the claim", size, now)
    return claim


@scenario
def clone(stage):
    """A claim with a dataSource gets a copy of its content, which is independent of the source."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    source = stage.made("source", storage_class)
    mount(source).write("file", b"content" * 100_000)
    data_source = {"kind": "PersistentVolumeClaim", "name": "source"}
    copy = stage.made("copy", storage_class, dataSource=data_source)
    same("the copy", b"content" * 100_000, mount(copy).read("file"))
    mount(copy).write("other", b"of the copy")
    same("the source", ["file"], mount(source).names())
    stage.delete_claim("source")
    stage.gone(source)
    same("the copy without its source", b"of the copy", mount(copy).read("other"))

    # A claim may be created before its source.
    early = stage.claim("early", storage_class, dataSource={"kind": "PersistentVolumeClaim", "name": "late"})
    stage.event(early, "ProvisioningFailed", "late")
    late = stage.made("late", storage_class)
    stage.bound("early")
    same("volumes", 3, len(berth.list()))
    same("names", [], mount(late).names())


@scenario
def parameters(stage):
    """The parameters of a class take effect on the disk, for clients and in the PV."""
    berth = stage.berth()
    storage_class = stage.storage_class(
        uid="1000", gid="2000", mode="2750", inodes="3", labels="team=blue, tier=gold",
        pathPattern="${pvc.metadata.namespace}_${.PVC.labels.app}_${.PVC.annotations.example.org/part}")
    pv = stage.made("data", storage_class, labels={"app": "web"}, annotations={"example.org/part": "ä b"},
                    modes=["ReadWriteOnce"])
    name = f"{stage.namespace}_web_ä b"
    same("volume", name, exported(pv)[0])
    same("labels", {"team": "blue", "tier": "gold"}, pv["metadata"]["labels"])
    status = (berth.volumes / name).stat()
    same("owner, group, mode", (1000, 2000, 0o2750), (status.st_uid, status.st_gid, status.st_mode & 0o7777))
    mount(pv, uid=1000).write("mine", b"1")
    refused(lambda: mount(pv, uid=1001).write("theirs", b"1"), "ACCES")
    mount(pv, uid=1000).write("mine too", b"1")
    refused(lambda: mount(pv, uid=1000).write("too many", b"1"), "NOSPC")

    squashed = stage.made("squashed", stage.storage_class("squashed", squash="all_squash", anonUid="3000",
                                                          anonGid="3001"), modes=["ReadOnlyMany"])
    mount(squashed).write("file", b"1")
    status = (berth.volumes / exported(squashed)[0] / "file").stat()
    same("owner after squashing", (3000, 3001), (status.st_uid, status.st_gid))


def refused(attempt, word):
    """Asserts that a client's attempt fails with an error that contains `word`."""
    try:
        attempt()
    except ToolFailed as why:
        assert word in str(why), why
        return
    assert False, f"succeeded, instead of failing with {word}"


@scenario
def deep_path(stage):
    """A pathPattern of several levels: archiving moves this volume only, to the top of the
    directory of volumes."""
    berth = stage.berth()
    storage_class = stage.storage_class(pathPattern="${.PVC.namespace}/${.PVC.name}", onDelete="archive")
    pv = stage.made("data", storage_class)
    mount(pv).write("file", b"deep")
    neighbour = stage.made("neighbour", storage_class)
    mount(neighbour).write("file", b"beside")
    folder = berth.volumes / stage.namespace
    same("the file on the server", b"deep", (folder / "data" / "file").read_bytes())
    stage.delete_claim("data")
    stage.gone(pv)
    left = sorted(path.relative_to(berth.volumes) for path in berth.volumes.glob("**/file")
                  if ".berth" not in path.parts)
    assert len(left) == 2, left
    same("the neighbour", b"beside", mount(neighbour).read("file"))
    archived = [path for path in left if str(path).startswith(f"archived-{stage.namespace}-data-")]
    same("archived", 1, len(archived))
    same("the archived file", b"deep", (berth.volumes / archived[0]).read_bytes())
