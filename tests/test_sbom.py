"""The list of parts beside the image, read by something else than what wrote it."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


@pytest.fixture(scope="module")
def listed():
    return json.loads((DIST / "mote-x86_64.cdx.json").read_text())


def packages(path):
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {line.partition("=")[0] for line in lines if line}


def test_every_reference_leads_somewhere(listed):
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.5")
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", listed["serialNumber"])
    references = [part["bom-ref"] for part in listed["components"]]
    assert len(references) == len(set(references))
    known = {*references, listed["metadata"]["component"]["bom-ref"]}
    for dependency in listed["dependencies"]:
        assert {dependency["ref"], *dependency.get("dependsOn", [])} <= known


def test_everything_can_be_reached_from_the_image(listed):
    needs = {one["ref"]: one.get("dependsOn", []) for one in listed["dependencies"]}
    found, following = set(), ["mote"]
    while following:
        reference = following.pop()
        if reference not in found:
            found.add(reference)
            following.extend(needs[reference])
    assert found == set(needs)


def test_every_part_has_what_identifies_it(listed):
    for part in listed["components"]:
        assert part["version"] and part["purl"].startswith("pkg:") and part["licenses"], part["name"]
        if part["purl"].startswith(("pkg:cargo/", "pkg:pypi/")):
            assert len(part["hashes"][0]["content"]) == 64, part["name"]


def test_every_package_of_the_lists_and_both_kernels_are_in_it(listed):
    names = {part["name"] for part in listed["components"]}
    wanted = {"hostd", "mote-init", "mote-agent", "linux-host", "linux-guest", "rust-std", "tokio"}
    for path in [ROOT / "image/tools/packages.list", *ROOT.glob("image/runtimes/*/packages.list")]:
        wanted |= packages(path)
    assert wanted <= names, wanted - names
    assert not names & {"proptest", "syn", "cyclonedx-bom"}, "what only builds or tests is not in the image"


def test_every_text_is_there_and_told_of():
    folder = DIST / "licences"
    told = set()
    for page in ("README.md", "SOURCES.md"):
        told |= set(re.findall(r"\]\(([^)]+)\)", (folder / page).read_text()))
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert told - there == set()
    assert there - told == {"README.md", ".inputs"}
    assert all((folder / name).read_text().strip() for name in told)
