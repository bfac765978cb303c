"""What tests/cluster decides without a cluster: cache, sources, root filesystems, image archives."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lakehouse_cluster import base, cache, gobuild, images, node, rootfs, settings, shell


class WithCache(unittest.TestCase):
    """Each test has a cache folder of its own."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        patch = mock.patch.dict(os.environ, {"LAKEHOUSE_CACHE": str(self.folder / "cache")})
        patch.start()
        self.addCleanup(patch.stop)


class Cache(WithCache):
    def test_an_artifact_is_built_once_per_key(self) -> None:
        builds: list[Path] = []

        def build(out: Path) -> None:
            builds.append(out)
            (out / "program").write_text("done")

        first = cache.artifact("thing", "k1", build)
        self.assertEqual(cache.artifact("thing", "k1", build), first)
        self.assertEqual((first / "program").read_text(), "done")
        self.assertNotEqual(cache.artifact("thing", "k2", build), first)
        self.assertEqual(len(builds), 2)

    def test_a_failed_build_leaves_nothing_and_is_tried_again(self) -> None:
        def fail(out: Path) -> None:
            (out / "half").write_text("half")
            raise shell.ClusterError("the compiler stopped")

        with self.assertRaisesRegex(shell.ClusterError, "the compiler stopped"):
            cache.artifact("thing", "k", fail)
        self.assertEqual(list((self.folder / "cache" / "artifacts").iterdir()), [])
        built = cache.artifact("thing", "k", lambda out: (out / "whole").write_text("whole"))
        self.assertEqual([path.name for path in built.iterdir()], ["whole"])

    def test_a_build_that_was_killed_is_swept_away_and_others_are_not(self) -> None:
        artifacts = self.folder / "cache" / "artifacts"
        for name in (".thing@dead", ".thing-image@busy"):
            (artifacts / name).mkdir(parents=True)
        built = cache.artifact("thing", "k", lambda out: None)
        self.assertEqual({path.name for path in artifacts.iterdir()}, {built.name, ".thing-image@busy"})

    def test_a_digest_sees_contents_names_and_modes(self) -> None:
        tree = self.folder / "tree"
        tree.mkdir()
        (tree / "a").write_text("1")
        digests = [cache.digest([tree])]
        (tree / "a").write_text("2")
        digests.append(cache.digest([tree]))
        (tree / "a").chmod(0o755)
        digests.append(cache.digest([tree]))
        (tree / "a").rename(tree / "b")
        digests.append(cache.digest([tree]))
        self.assertEqual(len(set(digests)), 4)
        self.assertNotEqual(cache.digest(["ab", "c"]), cache.digest(["a", "bc"]))


class Commands(unittest.TestCase):
    def test_a_failure_is_one_line_with_the_last_words(self) -> None:
        with self.assertRaises(shell.ClusterError) as failed:
            shell.run(["sh", "-c", "echo first >&2; echo second >&2; exit 3"], timeout=10, doing="doing it")
        self.assertEqual(str(failed.exception), "doing it: sh failed: first | second")

    def test_a_missing_program_and_an_overrun_say_so(self) -> None:
        with self.assertRaisesRegex(shell.ClusterError, "'no-such-program' is not installed"):
            shell.run(["no-such-program"], timeout=10, doing="x")
        with self.assertRaisesRegex(shell.ClusterError, "did not end within 0 s"):
            shell.run(["sleep", "5"], timeout=0.1, doing="x")


class DebianSources(WithCache):
    def entries(self, name: str, text: str) -> list[tuple[str, str]]:
        apt = self.folder / "apt"
        (apt / "sources.list.d").mkdir(parents=True, exist_ok=True)
        (apt / name).write_text(text)
        # Path("/etc/apt/…") becomes a path under the test's folder, any other stays
        real = Path
        with mock.patch.object(base, "Path", lambda path: real(str(path).replace("/etc/apt", str(apt)))):
            return base._apt_entries()

    def test_both_formats_of_apt_are_read(self) -> None:
        line = "# deb http://old/debian x main\ndeb [signed-by=/k.gpg] http://m/debian bookworm main contrib\n"
        self.assertEqual(self.entries("sources.list", line), [("http://m/debian", "bookworm")])
        paragraph = (
            "Types: deb\n# a remark: here\nURIs: http://s/debian\nSuites: bookworm bookworm-updates\n"
            "Components: main\n\nTypes: deb-src\nURIs: http://src/debian\nSuites: bookworm\nComponents: main\n"
        )
        self.assertEqual(
            self.entries("sources.list.d/d.sources", paragraph)[1:],
            [("http://s/debian", "bookworm"), ("http://s/debian", "bookworm-updates")],
        )

    def test_a_given_mirror_is_used_alone(self) -> None:
        with mock.patch.dict(os.environ, {"LAKEHOUSE_DEBIAN_MIRROR": "http://given/debian"}):
            self.assertEqual(base._sources(), f"deb http://given/debian {settings.DEBIAN_SUITE} main\n")


class RootFilesystem(WithCache):
    def test_a_dynamic_program_gets_its_libraries_and_a_nonroot_user(self) -> None:
        root = self.folder / "rootfs"
        rootfs.assemble(Path("/bin/ls"), root)
        names = {path.name for path in root.rglob("*") if path.is_file()}
        self.assertTrue({"ls", "libc.so.6", "ca-certificates.crt", "passwd"} <= names, names)
        self.assertTrue(any(name.startswith("ld-linux") for name in names), names)
        self.assertIn(":65532:65532:", (root / "etc/passwd").read_text())
        self.assertEqual((root / "tmp").stat().st_mode & 0o7777, 0o1777)

    def test_a_missing_binary_is_named(self) -> None:
        with self.assertRaisesRegex(shell.ClusterError, "there is no /no/such/binary"):
            rootfs.assemble(Path("/no/such/binary"), self.folder / "rootfs")


class ImageArchive(WithCache):
    def test_the_archive_names_its_image_layer_and_entrypoint(self) -> None:
        program = self.folder / "program"
        program.write_bytes(b"\x7fELF")
        node._write_image(self.folder / "image.tar", "example.test/program:1", program, "/usr/local/bin/program")
        with tarfile.open(self.folder / "image.tar") as archive:
            manifest = json.load(archive.extractfile("manifest.json"))[0]
            config = json.load(archive.extractfile(manifest["Config"]))
            layer = archive.extractfile(manifest["Layers"][0]).read()
        self.assertEqual(manifest["RepoTags"], ["example.test/program:1"])
        self.assertEqual(config["config"]["Entrypoint"], ["/usr/local/bin/program"])
        with tarfile.open(fileobj=io.BytesIO(layer)) as files:
            entry = files.getmember("usr/local/bin/program")
            self.assertEqual((entry.mode, files.extractfile(entry).read()), (0o755, b"\x7fELF"))


class Versions(unittest.TestCase):
    def test_every_kubernetes_module_follows_the_pinned_version(self) -> None:
        version = settings.kubernetes_version().removeprefix("v1.")
        text = (settings.GO_MODULES / "kubernetes" / "go.mod").read_text()
        replaced = [line.split()[-1] for line in text.splitlines() if line.startswith("replace ")]
        self.assertEqual(set(replaced), {f"v0.{version}"})

    def test_kube_router_is_built_from_the_packages_of_kubernetes(self) -> None:
        """With the same versions, required and replaced, they are compiled once for both modules."""

        def versions(module: str) -> dict[str, tuple[str, str]]:
            text = (settings.GO_MODULES / module / "go.mod").read_text()
            required = dict(re.findall(r"^(?:require |\t)(\S+) (v\S+)", text, re.MULTILINE))
            replaced = dict(re.findall(r"^replace (\S+) => \S+ (v\S+)$", text, re.MULTILINE))
            return {name: (version, replaced.get(name, version)) for name, version in required.items()}

        kubernetes, router = versions("kubernetes"), versions("kube-router")
        shared = kubernetes.keys() & router.keys() - {"github.com/go-openapi/jsonreference"}
        self.assertIn("k8s.io/client-go", shared)
        self.assertEqual({name: router[name] for name in shared}, {name: kubernetes[name] for name in shared})

    def test_kind_config_names_the_cluster(self) -> None:
        self.assertIn(f"\nname: {settings.CLUSTER}\n", settings.KIND_CONFIG.read_text())


class AirflowImage(unittest.TestCase):
    def test_the_dockerfile_copies_what_the_context_holds(self) -> None:
        lines = (settings.IMAGE_FILES / "airflow.Dockerfile").read_text().splitlines()
        copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
        self.assertEqual(copied, {path.name for path in images.airflow_inputs()})
        self.assertTrue(all(path.is_file() for path in images.airflow_inputs()))


class AirflowChart(unittest.TestCase):
    """What `helm template` makes of charts/lakehouse-platform; JSON-like parts are compared as text, YAML needs no parser here."""

    def rendered(self, *values: str) -> str:
        chart = settings.CHARTS / "lakehouse-platform"
        command = [gobuild.tool("helm"), "template", "lakehouse-platform", chart, "-n", "lakehouse", *values]
        return shell.run(command, timeout=120, doing="helm template")

    def airflow(self, *values: str) -> str:
        return self.rendered("--set", "airflow.enabled=true", *values)

    def test_without_it_nothing_is_airflow(self) -> None:
        self.assertNotIn("airflow", self.rendered())

    def test_every_dag_file_is_delivered_under_its_path(self) -> None:
        delivered = set(re.findall(r"- \{key: \S+\.py, path: (\S+)\}", self.airflow()))
        files = {str(path.relative_to(settings.DAGS)) for path in settings.DAGS.rglob("*.py")}
        self.assertIn("hello_world.py", files)
        self.assertEqual(delivered, files)

    def test_the_delivered_text_is_the_file(self) -> None:
        body = self.airflow().split("  hello_world.py: |\n", 1)[1]
        text = (settings.DAGS / "hello_world.py").read_text()
        held = [line.removeprefix("    ").rstrip() for line in body.splitlines()[: len(text.splitlines())]]
        self.assertEqual(held, text.splitlines())

    def test_no_pod_carries_the_value_of_a_secret(self) -> None:
        document = self.airflow()
        secrets = [part for part in document.split("\n---\n") if "\nkind: Secret\n" in part]
        others = "".join(part for part in document.split("\n---\n") if "\nkind: Secret\n" not in part)
        values = [
            base64.b64decode(value).decode()
            for part in secrets
            for value in re.findall(r"^  (?:password|\S*-(?:password|key|secret)): (\S+)$", part, re.MULTILINE)
        ]
        self.assertGreaterEqual(len(values), 6)
        for value in values:
            self.assertNotIn(value, others)

    def test_only_scheduler_and_triggerer_talk_to_kubernetes(self) -> None:
        def with_token(document: str) -> set[str]:
            deployments = [part for part in document.split("\n---\n") if "\nkind: Deployment\n" in part]
            return {
                re.search(r"^  name: (\S+)$", part, re.MULTILINE)[1]
                for part in deployments
                if "automountServiceAccountToken: true" in part
            }

        self.assertEqual(with_token(self.airflow()), {"airflow-scheduler", "airflow-triggerer"})
        kubernetes = self.airflow("--set", "airflow.executor=KubernetesExecutor")
        self.assertEqual(with_token(kubernetes), {"airflow-scheduler", "airflow-triggerer", "airflow-api-server"})
        self.assertIn("name: airflow-worker", kubernetes)

    def test_a_value_that_nothing_reads_is_refused(self) -> None:
        with self.assertRaisesRegex(shell.ClusterError, "schedulers"):
            self.rendered("--set", "airflow.schedulers=2")


if __name__ == "__main__":
    unittest.main()
