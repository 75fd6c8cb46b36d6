"""deploy/kubernetes: what Kubernetes takes, and what portd reads there."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from portd.config.load import load_settings
from portd.config.settings import default
from portd.http.handlers import ANY_ROLE, ENDPOINTS

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy/kubernetes/portd.yaml"
VERSIONS = ("1.29", "1.33")  # of Kubernetes: an old one and a newer one


def objects() -> dict[str, dict[str, Any]]:
    """What is in the manifest, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))}


def pod() -> dict[str, Any]:
    """What a pod is made of."""
    spec: dict[str, Any] = objects()["Deployment"]["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    """The only container."""
    (only,) = pod()["containers"]
    found: dict[str, Any] = only
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_fits_its_schema(version: str) -> None:
    """By the schemas of the API, with no field that they do not know."""
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    documents = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
    assert [each["kind"] for each in documents] == [
        "ConfigMap",
        "Secret",
        "Deployment",
        "PodDisruptionBudget",
        "Service",
    ]
    for each in documents:
        validator.validate(each, version, strict=True)
    with pytest.raises(validator.ValidationError):  # it does look
        validator.validate({**documents[2], "spec": {**documents[2]["spec"], "replica": 2}}, version, strict=True)


def test_labels_select_what_is_there() -> None:
    """The budget, the service and the spread mean the pods of the deployment."""
    every = objects()
    labels = every["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert every["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert every["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert every["Service"]["spec"]["selector"] == labels
    (spread,) = pod()["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    assert every["Service"]["spec"]["ports"][0]["targetPort"] == container()["ports"][0]["name"]


def test_two_of_them_can_always_be_drained() -> None:
    """Both are ready, one may go at a time, and has the time to end in order."""
    every = objects()
    assert every["Deployment"]["spec"]["replicas"] == 2
    assert every["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in every["PodDisruptionBudget"]["spec"]
    assert pod()["terminationGracePeriodSeconds"] >= default("drain_seconds") + 10


def test_probes_ask_by_role() -> None:
    """A standby is alive, and ready as long as it could take over."""
    paths = {name: container()[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": f"/readyz?role={ANY_ROLE}"}
    assert {path.split("?")[0] for path in paths.values()} <= set(ENDPOINTS)


def test_the_settings_are_those_of_a_standby(tmp_path: Path) -> None:
    """Portd reads them, with the passwords that are mounted, and its spool fits into its volume."""
    every = objects()
    text = every["ConfigMap"]["data"]["portd.toml"]
    mounts = {each["name"]: each["mountPath"] for each in container()["volumeMounts"]}
    volumes = {each["name"]: each for each in pod()["volumes"]}
    assert volumes["settings"]["configMap"]["name"] == every["ConfigMap"]["metadata"]["name"]
    assert volumes["passwords"]["secret"]["secretName"] == every["Secret"]["metadata"]["name"]
    for name, value in tomllib.loads(text).items():
        if name.endswith("_password_file"):
            folder, _, key = value.rpartition("/")
            assert folder == mounts["passwords"]
            assert key in every["Secret"]["stringData"]
            (tmp_path / key).write_text("secret\n")
    file = tmp_path / "portd.toml"
    file.write_text(text.replace(mounts["passwords"], str(tmp_path)))
    settings = load_settings({}, file)
    assert settings.standby
    assert settings.spool_max_bytes < _bytes(volumes["spool"]["emptyDir"]["sizeLimit"])
    assert _bytes(container()["resources"]["limits"]["ephemeral-storage"]) > _bytes(
        volumes["spool"]["emptyDir"]["sizeLimit"]
    )
    assert container()["args"] == ["sync", "--config", mounts["settings"]]


def test_a_pod_may_do_nothing_but_copy() -> None:
    """No root, nothing to write but the spool, no rights, no token; the group of its volumes is its own."""
    here = pod()
    assert here["automountServiceAccountToken"] is False
    assert here["enableServiceLinks"] is False  # they would be read as settings: PORTD_PORT
    context = here["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["fsGroup"] == _uid()
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container()["resources"]["limits"]["memory"] == "128Mi"


def _uid() -> int:
    """The user of the image."""
    (line,) = [line for line in (ROOT / "deploy/Dockerfile").read_text().splitlines() if "useradd" in line]
    return int(line.split("--uid ")[1].split()[0])


def _bytes(text: str) -> int:
    """A quantity of Kubernetes."""
    return int(text[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[text[-2:]]
