"""Checks of the chart that need no cluster: its renderings, values, permissions and options."""

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess

from render import CHART, NAMESPACE, SETS, Refused, container
from tools import PROJECT
from wrong import SCHEMA, TOGETHER

GOLDEN = PROJECT / "tests" / "golden" / "chart"
# The oldest and the newest version that the validator has schemas for.
KUBERNETES = ["1.25", "1.37"]
# Custom resources, for which there is no schema.
FOREIGN = {"ServiceMonitor"}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def same(what, expected, found):
    assert expected == found, f"{what}: expected {expected!r}, found {found!r}"


@check
def lint(run):
    """`helm lint` finds nothing."""
    for values in SETS.values():
        more = ["--values", values] if values else []
        run.chart.helm("lint", "--strict", "--quiet", run.chart.place, *more)


@check
def version(run):
    """The chart's appVersion is the version of the crate."""
    import yaml
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    cargo = re.search(r'^version = "(.*)"$', (PROJECT / "Cargo.toml").read_text(), re.M)
    same("appVersion in chart/Chart.yaml", cargo[1], chart["appVersion"])


@check
def golden(run):
    """The manifests equal those in tests/golden/chart; UPDATE_GOLDEN=1 rewrites them."""
    for name, values in SETS.items():
        place, text = GOLDEN / f"{name}.yaml", run.chart.text(values)
        if os.environ.get("UPDATE_GOLDEN") == "1":
            GOLDEN.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        assert place.exists() and place.read_text() == text, (
            f"{place.relative_to(PROJECT)} differs from the rendering; if the change is intended, rewrite it: "
            f"UPDATE_GOLDEN=1 tests/chart/run golden\n{difference(place, text)}")
    same("golden files", sorted(SETS), sorted(path.stem for path in GOLDEN.glob("*")))


def difference(place, text):
    return subprocess.run(["diff", "-u", "--", place, "-"], input=text, capture_output=True, text=True,
                          check=False).stdout[:4000]


@check
def schemas(run):
    """Every manifest matches the schema of the API and has no unknown field."""
    import kubernetes_validate
    checked = set()
    for name, values in SETS.items():
        for thing in run.chart.objects(values):
            if thing["kind"] in FOREIGN:
                continue
            for version in KUBERNETES:
                try:
                    kubernetes_validate.validate(thing, version, strict=True)
                except Exception as error:  # of several types, each with a useful message
                    raise AssertionError(f"{name}: {thing['kind']} {thing['metadata']['name']}, Kubernetes "
                                         f"{version}: {error}") from error
            checked.add(thing["kind"])
    same("kinds", {
        "ClusterRole", "ClusterRoleBinding", "NetworkPolicy", "PersistentVolumeClaim", "Pod", "PodDisruptionBudget",
        "Role", "RoleBinding", "Service", "ServiceAccount", "StatefulSet", "StorageClass"}, checked)


@check
def wrong_values(run):
    """An invalid value is refused with an error that names it."""
    for values, words in SCHEMA + TOGETHER:
        try:
            run.chart.text(values)
        except Refused as refused:
            said = str(refused)
            by_schema = "don't meet the specifications of the schema" in said
            same(f"{values!r} is refused by the schema and not by a template ({said})", (values, words) in SCHEMA,
                 by_schema)
            missing = [word for word in words.split() if word not in said]
            assert not missing, f"the error for {values!r} lacks {missing}: {said}"
        else:
            raise AssertionError(f"{values!r} is accepted")


@check
def rights(run):
    """The roles have the rules of tests/cluster/roles.yaml; `namespaces` moves them and adds none."""
    import yaml
    wanted = list(yaml.safe_load_all((PROJECT / "tests/cluster/roles.yaml").read_text()))
    for kind in ["ClusterRole", "Role"]:
        [expected] = [role["rules"] for role in wanted if role["kind"] == kind]
        [found] = [thing["rules"] for thing in run.chart.objects() if thing["kind"] == kind]
        same(f"rules of the {kind}", expected, found)
    few = [thing for thing in run.chart.objects(SETS["namespaces"]) if thing["kind"] in ["ClusterRole", "Role"]]
    same("permissions with `namespaces`", {grant[:3] for grant in grants(wanted)},
         {grant[:3] for grant in grants(few)})
    own = [grant for grant in grants(few) if grant[1] in ("leases", "services")]
    same("permissions on leases and services without resourceNames", {("coordination.k8s.io", "leases", "create", ())},
         {grant for grant in own if not grant[3]})
    everywhere = grants(thing for thing in few if thing["kind"] == "ClusterRole")
    same("cluster-wide permissions on claims and events", set(),
         {grant for grant in everywhere if "claims" in grant[1] or grant[1] == "events"})
    [lease] = [grant[3] for grant in grants(run.chart.objects("leaderElection: {leaseName: mine}"))
               if grant[:3] == ("coordination.k8s.io", "leases", "update")]
    same("resourceNames with leaderElection.leaseName", ("mine",), lease)
    without = grants(run.chart.objects("nfsServer: nas.example.org"))
    assert not any(grant[1] == "services" for grant in without), without
    for thing in run.chart.objects(SETS["namespaces"]):
        if thing["kind"].endswith("Binding"):
            same("subjects", [{"kind": "ServiceAccount", "name": "berth", "namespace": NAMESPACE}],
                 thing["subjects"])


def grants(roles):
    return {(group, resource, verb, tuple(rule.get("resourceNames", []))) for role in roles
            for rule in role.get("rules", []) for group in rule["apiGroups"]
            for resource in rule["resources"] for verb in rule["verbs"]}


@check
def options(run):
    """`berth serve` knows every option and every BERTH_ variable that the chart sets."""
    words = [run.berth, "serve", "--help"]
    known = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for name, values in SETS.items():
        one = container(run.chart.objects(values))
        same("command", "serve", one["args"][0])
        given = [argument.partition("=")[0] for argument in one["args"][1:]]
        for option in given:
            assert re.search(rf"^ +{option} <", known, re.M), f"{name}: berth serve has no option {option}"
        repeated = {option for option in given if given.count(option) > 1} - {"--listen"}
        same(f"{name}: repeated options", set(), repeated)
        for variable in one["env"]:
            ours = variable["name"].startswith("BERTH_")
            assert not ours or f"[env: {variable['name']}=" in known, (
                f"{name}: berth serve has no variable {variable['name']}")


@check
def one_writer(run):
    """With any values there is one pod, its disk is persistent, and its only other volume is in memory."""
    for name, values in SETS.items():
        objects = run.chart.objects(values)
        [one] = [thing for thing in objects if thing["kind"] == "StatefulSet"]
        same(f"{name}: pods", 1, one["spec"]["replicas"])
        volumes = {volume.pop("name"): list(volume) for volume in one["spec"]["template"]["spec"]["volumes"]}
        assert volumes.pop("data") in [["persistentVolumeClaim"], ["hostPath"]], f"{name}: data on {volumes}"
        same(f"{name}: other volumes", {"run": ["emptyDir"]}, volumes)
        for thing in objects:
            kept = thing["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
            lasting = (thing["kind"], thing["metadata"]["name"]) in [
                ("PersistentVolumeClaim", f"{one['metadata']['name']}-data"), ("Service", one["metadata"]["name"])]
            same(f"{name}: {thing['kind']} {thing['metadata']['name']} has the policy `keep`", lasting, kept)


@check
def privileges(run):
    """As root, the container has exactly the capabilities that the manual lists; as another user, none."""
    page = (PROJECT / "src/manual/serve.md").read_text()
    needed = sorted(re.findall(r"CAP_([A-Z_]+)", page[page.index("| root (or with"):].split("|")[1]))
    assert len(needed) == 8, f"the manual names {needed}"
    same("capabilities of root", {"drop": ["ALL"], "add": needed},
         container(run.chart.objects())["securityContext"]["capabilities"])
    objects = run.chart.objects(SETS["rootless"])
    same("capabilities of a user", {"drop": ["ALL"]}, container(objects)["securityContext"]["capabilities"])
    [pod] = [thing["spec"]["template"]["spec"] for thing in objects if thing["kind"] == "StatefulSet"]
    same("security context of the pod",
         {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 65532, "fsGroup": None,
          "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}},
         pod["securityContext"])


@check
def apart(run):
    """Two releases in two namespaces share no cluster-wide name."""
    # Joined by a hyphen, namespace and release would be a-b-berth in both.
    one, two = (run.chart.objects("storageClasses: []", namespace=namespace, release=release)
                for namespace, release in [("a", "b-berth"), ("a-b", "berth")])
    assert cluster_wide(one) and not cluster_wide(one) & cluster_wide(two), (
        f"both have {cluster_wide(one) & cluster_wide(two)}, of {cluster_wide(one)}")
    names = [provisioner(objects) for objects in [one, two]]
    assert names[0] != names[1], f"both have the provisioner {names[0]}"
    leases = [name.replace("/", "-") for name in names]
    assert leases[0] != leases[1], f"both have the Lease {leases[0]}"


def provisioner(objects):
    """The value of --provisioner."""
    [option] = [option for option in container(objects)["args"] if option.startswith("--provisioner=")]
    return option.partition("=")[2]


def cluster_wide(objects):
    return {(thing["kind"], thing["metadata"]["name"]) for thing in objects if "namespace" not in thing["metadata"]}


@check
def table(run):
    """The table and the schema have the same values, and the table has the defaults of values.yaml."""
    import yaml
    text = (CHART / "values.yaml").read_text()
    rows = {path: yaml.safe_load(default) for path, default, _ in values_table().rows(text)}
    values, schema = yaml.safe_load(text), json.loads((CHART / "values.schema.json").read_text())
    for path, default in rows.items():
        found, place = values, schema
        for key in path.split("."):
            found = found[key]
            place = place["properties"].get(key) or {}
            assert place, f"{path} is not in the schema"
        same(f"default of {path} in the table", found, default)
    known = set(properties(schema, rows))
    same("properties of the schema that the table lacks", {"global"}, known - set(rows))
    printed = subprocess.run([PROJECT / "tests/chart/values-table"], capture_output=True, text=True, check=True).stdout
    same("lines of the table", len(rows) + 2, printed.count("\n"))


@check
def readme(run):
    """The table in chart/README.md is the one of values.yaml; UPDATE_GOLDEN=1 rewrites it."""
    place = CHART / "README.md"
    before, rest = place.read_text().split("<!-- values: tests/chart/values-table -->\n")
    _, after = rest.split("<!-- /values -->\n")
    table = values_table().table((CHART / "values.yaml").read_text())
    text = f"{before}<!-- values: tests/chart/values-table -->\n{table}<!-- /values -->\n{after}"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        place.write_text(text)
    assert text == place.read_text(), (
        "the table in chart/README.md is out of date; rewrite it: UPDATE_GOLDEN=1 tests/chart/run readme")


def values_table():
    place = str(PROJECT / "tests/chart/values-table")
    loader = importlib.machinery.SourceFileLoader("values_table", place)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("values_table", loader))
    loader.exec_module(module)
    return module


def properties(schema, rows, prefix=""):
    """Yields the paths of a schema, no deeper than the rows of the table."""
    for key, below in schema["properties"].items():
        path = prefix + key
        if path not in rows and "properties" in below:
            yield from properties(below, rows, f"{path}.")
        else:
            yield path


@check
def parameters(run):
    """The schema has exactly the StorageClass parameters that Berth knows."""
    source = (PROJECT / "src/provisioner/params.rs").read_text()
    words = re.findall(r"^    (\w+): Option<String>,$", source[source.index("struct RawParameters {"):].split("}")[0], re.M)
    known = [re.sub(r"_(.)", lambda match: match[1].upper(), word) for word in words]
    schema = json.loads((CHART / "values.schema.json").read_text())
    same("parameters", sorted(known), sorted(schema["definitions"]["parameters"]["properties"]))
