"""The bill of materials keeps the rules of the CycloneDX 1.6 schema (bom-1.6.schema.json) that concern what it has."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

from tiny_package import make_ship  # noqa: E402

from deploy.package.package import Package  # noqa: E402
from edgemt.dossier.sbom import make_sbom  # noqa: E402

TOP = {"$schema", "bomFormat", "specVersion", "serialNumber", "version", "metadata", "components", "dependencies"}
COMPONENT = {"type", "mime-type", "bom-ref", "name", "version", "hashes", "licenses", "purl", "properties"}
TYPES = {
    "application", "framework", "library", "container", "platform", "operating-system", "device", "device-driver",
    "firmware", "file", "machine-learning-model", "data", "cryptographic-asset",
}  # fmt: skip


class Written(metadata.Distribution):
    """A distribution with the given METADATA."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read_text(self, filename: str) -> str | None:
        return self.text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


def written(name: str, version: str, *lines: str) -> Written:
    return Written("\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines, "", ""]))


def check_bom(bom: dict[str, Any]) -> None:
    assert set(bom) == TOP and (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", bom["serialNumber"])
    assert isinstance(bom["version"], int) and bom["version"] >= 1
    about = bom["metadata"]
    assert set(about) == {"timestamp", "lifecycles", "tools", "component"} and about["lifecycles"] == [
        {"phase": "operations"}
    ]
    assert datetime.fromisoformat(about["timestamp"]).tzinfo is not None
    assert set(about["tools"]) == {"components"}
    components = [about["component"], *bom["components"]]
    for component in (*components, *about["tools"]["components"]):
        check_component(component)
    refs = [component["bom-ref"] for component in components]
    assert len(refs) == len(set(refs)) and not [ref for ref in refs if ref.startswith("urn:cdx:")]
    from_ = [edge["ref"] for edge in bom["dependencies"]]
    assert len(from_) == len(set(from_))
    for edge in bom["dependencies"]:
        assert set(edge) == {"ref", "dependsOn"} and len(edge["dependsOn"]) == len(set(edge["dependsOn"]))
        assert {edge["ref"], *edge["dependsOn"]} <= set(refs)


def check_component(component: dict[str, Any]) -> None:
    assert set(component) <= COMPONENT and component["type"] in TYPES and component["name"]
    for digest in component.get("hashes", []):
        assert digest["alg"] == "SHA-256" and re.fullmatch(r"[0-9a-f]{64}", digest["content"])
    if "mime-type" in component:
        assert re.fullmatch(r"[-+a-z0-9.]+/[-+a-z0-9.]+", component["mime-type"])
    choices = component.get("licenses", [{"license": {"name": "none"}}])
    expressions = [choice for choice in choices if "expression" in choice]
    assert not expressions or (len(choices) == 1 and set(choices[0]) == {"expression"})
    for choice in choices if not expressions else []:
        assert set(choice) == {"license"} and set(choice["license"]) in ({"id"}, {"name"})
        assert all(isinstance(value, str) and value for value in choice["license"].values())
    for pair in component.get("properties", []):
        assert set(pair) == {"name", "value"} and all(isinstance(value, str) for value in pair.values())


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Package:
    weights = {"origin": "a package", "licence": "Apache-2.0"}
    folder = tmp_path_factory.mktemp("sbom") / "ship"
    return make_ship(folder, version=3, network={"encoder_weights": weights})


def test_the_installed_environment_keeps_the_rules(ship: Package) -> None:
    bom = make_sbom(ship)
    check_bom(bom)
    libraries = {c["name"].lower(): c for c in bom["components"] if c["type"] == "library"}
    assert libraries["numpy"]["version"] == metadata.version("numpy")
    assert libraries["numpy"]["purl"] == f"pkg:pypi/numpy@{metadata.version('numpy')}"
    assert make_sbom(ship, distributions=[])["serialNumber"] != bom["serialNumber"]


def test_files_of_the_ship_have_the_hashes_of_their_bytes(ship: Package) -> None:
    bom = make_sbom(ship, distributions=[])
    files = {c["name"]: c["hashes"][0]["content"] for c in bom["components"] if c["type"] == "file"}
    there = {p.relative_to(ship.folder).as_posix(): p for p in ship.folder.rglob("*") if p.is_file()}
    assert files == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}
    model = bom["metadata"]["component"]
    assert (model["type"], model["version"]) == ("machine-learning-model", "3")
    assert {"name": "edgemt:encoder_weights.licence", "value": "Apache-2.0"} in model["properties"]
    assert set(bom["dependencies"][0]["dependsOn"]) == {f"file:{name}" for name in there}


def test_licences_purls_and_edges(ship: Package) -> None:
    bom = make_sbom(
        ship,
        distributions=[
            written("EdgeMT", "1.0", "License-Expression: Apache-2.0", "Requires-Dist: Some_Thing>=1",
                    "Requires-Dist: absent", "Requires-Dist: optional; extra == 'more'"),
            written("Some.Thing", "2.0+cu130", "Classifier: License :: OSI Approved :: MIT License"),
            written("optional", "1", "Classifier: License :: OSI Approved :: BSD License"),
            written("words", "1", "License: A text of its own"),
            written("none", "1", "License: UNKNOWN"),
            written("some-thing", "9"),  # later on the path: not in use
        ],
    )  # fmt: skip
    check_bom(bom)
    found = {c["name"]: c for c in bom["components"] if c["type"] == "library"}
    assert sorted(found) == ["EdgeMT", "Some.Thing", "none", "optional", "words"]
    assert found["Some.Thing"]["purl"] == "pkg:pypi/some-thing@2.0%2Bcu130"
    assert [found[name].get("licenses") for name in sorted(found)] == [
        [{"expression": "Apache-2.0"}], [{"license": {"id": "MIT"}}], None,
        [{"license": {"name": "BSD License"}}], [{"license": {"name": "A text of its own"}}],
    ]  # fmt: skip
    edges = {edge["ref"]: edge["dependsOn"] for edge in bom["dependencies"]}
    assert edges["pkg:pypi/edgemt@1.0"] == ["pkg:pypi/some-thing@2.0%2Bcu130"]
    assert "pkg:pypi/edgemt@1.0" in edges["ship"]


def test_source_date_epoch_gives_the_same_bytes(ship: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764374400")
    first, second = (json.dumps(make_sbom(ship, distributions=[])) for _ in range(2))
    assert first == second and '"2025-11-29T00:00:00+00:00"' in first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(ValueError, match="SOURCE_DATE_EPOCH: 'today'"):
        make_sbom(ship, distributions=[])


def test_other_content_has_another_serial_number(ship: Package, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764374400")
    other = make_ship(tmp_path / "ship", version=4)
    assert make_sbom(ship, distributions=[])["serialNumber"] != make_sbom(other, distributions=[])["serialNumber"]
