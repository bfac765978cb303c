"""The bill of materials names what is compiled in, and nothing that only tests use."""

import json
import subprocess
import tomllib
from pathlib import Path

from support.paths import ROOT


def test_the_bill_names_what_is_compiled_in(tmp_path: Path) -> None:
    file = tmp_path / "bill.json"
    subprocess.run([ROOT / "tests" / "sbom", file], check=True, timeout=120, stdout=subprocess.DEVNULL)
    bill = json.loads(file.read_text())
    parts = {part["name"]: part for part in bill["components"]}
    assert {"lakehouse-operator", "lakehouse-cli", "datafusion", "kube", "reqwest", "rustls"} <= parts.keys()
    assert not {"proptest", "insta", "libfuzzer-sys", "lakehouse-fuzz"} & parts.keys()
    locked = {(it["name"], it["version"]): it for it in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    for part in bill["components"]:
        assert part["licenses"], part
        # Our own packages come from no registry.
        checksum = locked[part["name"], part["version"]].get("checksum")
        assert part.get("hashes") == ([{"alg": "SHA-256", "content": checksum}] if checksum else None)
    # Whatever a package needs is among them, under the name that it has there.
    references = {part["bom-ref"] for part in bill["components"]}
    assert len(references) == len(bill["components"])
    assert {it["ref"] for it in bill["dependencies"]} == references
    assert {needed for it in bill["dependencies"] for needed in it["dependsOn"]} <= references
