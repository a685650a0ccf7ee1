"""Tenants who may only write claims of their own namespace, and write as much as the API server
accepts: claims of other namespaces are not delayed, nothing is left behind, and the memory of the server
stays bounded."""

from concurrent.futures import ThreadPoolExecutor

from kube import until
from stage import mount, same, scenario

MANY = 16  # requests at a time
GIANT = 240_000  # bytes in the annotations of one claim; the API server accepts 256 KiB
BYTES = "x" * 60
SOURCE = {"kind": "PersistentVolumeClaim", "name": "source"}

# Other fields that can be large: name, spec, metadata.
LARGE = [
    ("source", {"dataSource": {"kind": "PersistentVolumeClaim", "name": "x" * 1_000_000}}, {}),
    ("selector", {"selector": {"matchLabels": {f"key-{n}": BYTES for n in range(9000)}}}, {}),
    ("labels", {}, {"labels": {f"key-{n}": BYTES for n in range(9000)}}),
    ("finalizers", {}, {"finalizers": [f"example.org/{n}-{BYTES[:40]}" for n in range(5000)]}),
    ("modes", {"accessModes": ["ReadWriteMany"] * 50_000}, {}),
]


def at_once(what, count):
    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(what, range(count)))


def memory(berth):
    """The memory of the server, in bytes."""
    with open(f"/proc/{berth.process.pid}/status", encoding="ascii") as status:
        [line] = [line for line in status if line.startswith("VmRSS:")]
    return int(line.split()[1]) << 10


def made_with(stage, name, storage_class, spec, metadata):
    return stage.kube.create("persistentvolumeclaims", {
        "metadata": {"name": name} | metadata,
        "spec": {"storageClassName": storage_class, "accessModes": ["ReadWriteMany"],
                 "resources": {"requests": {"storage": "1Mi"}}} | spec}, stage.namespace)


@scenario
def giant_claims(stage):
    """Claims of the largest size that the API server accepts: they take no memory, and get events."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    stage.made("before", storage_class)
    before = memory(berth)
    annotations = {"annotations": {f"example.org/{n}": "x" * (GIANT // 2) for n in range(2)}}
    at_once(lambda n: made_with(stage, f"giant-{n}", "of-nobody", {}, annotations), 200)
    for name, spec, metadata in LARGE:
        made_with(stage, name, storage_class, spec, metadata)
    stage.event(stage.claimed("source"), "ProvisioningFailed", "data source xxx")
    stage.event(stage.claimed("selector"), "ProvisioningFailed", "selector")
    for name in ["labels", "finalizers", "modes"]:
        stage.bound(name)
    # Once this claim is bound, all claims that were created before it have been reconciled.
    stage.made("after", storage_class)
    grown = memory(berth) - before
    assert grown < 24 << 20, f"it has grown by {grown >> 10} KiB"
    stage.kube.patch("persistentvolumeclaims", "finalizers", {"metadata": {"finalizers": None}}, stage.namespace)
    # The controller-manager compares every pending claim with every volume, which occupies a
    # processor.
    for name, _, _ in LARGE:
        stage.delete_claim(name)
    at_once(lambda n: stage.delete_claim(f"giant-{n}"), 200)


@scenario
def storm(stage):
    """Claims that are created and deleted at once, while they are copied, and with their namespace:
    nothing is left."""
    berth = stage.berth()
    storage_class = stage.storage_class()
    source = stage.made("source", storage_class, "64Mi")
    for n in range(4):
        mount(source).write(f"file-{n}", bytes(8 << 20))
    at_once(lambda n: stage.claim(f"copy-{n}", storage_class, "64Mi", dataSource=SOURCE), 24)
    at_once(lambda n: stage.claim(f"claim-{n}", storage_class, "1Mi"), 100)
    at_once(lambda n: stage.delete_claim(f"claim-{n}"), 100)
    at_once(lambda n: stage.delete_claim(f"copy-{n}"), 24)
    stage.delete_claim("source")
    leaving = stage.namespaced(f"{stage.namespace}-leaving")
    at_once(lambda n: stage.claim(f"claim-{n}", storage_class, "1Mi", namespace=leaving), 50)
    stage.kube.delete("namespaces", leaving)
    kept = stage.made("kept", storage_class)
    until("the claims are gone", lambda: not stage.kube.list("persistentvolumeclaims", leaving))
    until("their PersistentVolumes are gone", lambda: [pv["metadata"]["name"] for pv in stage.volumes()]
          == [kept["metadata"]["name"]])
    until("their volumes are gone", lambda: len(berth.list()) == 1)
    same("directories", 1, len(berth.directories()))
