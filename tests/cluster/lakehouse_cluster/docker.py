"""The docker daemon: found or started, and the few things asked of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from .cache import artifact, digest
from .settings import NODE_FILES, cache_dir
from .shell import ClusterError, run, say, succeeds, wait_until

_CAP_SYS_RESOURCE = 24
_RUNTIME = "runc-without-sys-resource"
# buildx is not part of Debian's docker.io; the classic builder is
_BUILD_ENV = {"DOCKER_BUILDKIT": "0"}


def missing_sys_resource() -> bool:
    """Whether CAP_SYS_RESOURCE is outside this process's bounding set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return not int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1
    return False


def ensure_root(step: str) -> None:
    """Refuse `step` with a reason where this process is not root."""
    if os.geteuid() != 0:
        raise ClusterError(f"{step} needs root: run this command as root once, or do that step yourself")


def ensure_packages(packages: dict[str, str]) -> None:
    """Install the Debian packages whose program (the key) is not found; needs root only then."""
    missing = sorted({package for program, package in packages.items() if not shutil.which(program)})
    if not missing:
        return
    ensure_root(f"installing {' '.join(missing)} with apt-get")
    say(f"installing {' '.join(missing)}")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], timeout=300, doing="apt-get update", env=env)
    run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
        timeout=900,
        doing=f"installing {' '.join(missing)}",
        env=env,
    )


def ensure_daemon() -> None:
    """A docker daemon that can run a node: the one that answers, or one started here."""
    if not shutil.which("docker") or not succeeds(["docker", "info"]):
        ensure_packages({"dockerd": "docker.io", "containerd": "containerd", "runc": "runc", "iptables": "iptables"})
        if not succeeds(["docker", "info"]):
            _start()
    if missing_sys_resource():
        runtime = run(["docker", "info", "-f", "{{.DefaultRuntime}}"], timeout=30, doing="asking docker").strip()
        if runtime != _RUNTIME:
            raise ClusterError(
                f"the running docker daemon's default runtime is {runtime!r}, which cannot start a node on a machine "
                "without CAP_SYS_RESOURCE: stop that daemon and run this again, it then starts one that can"
            )


def _start() -> None:
    ensure_root("starting dockerd (no docker daemon answers)")
    _enable_forwarding()
    # what starts it may stand back behind other work (`prepare`); the cluster that it will run may not
    command = ["nice", "-n", str(-os.nice(0)), "dockerd"]
    if missing_sys_resource():
        command += [f"--add-runtime={_RUNTIME}={_runtime_wrapper()}", f"--default-runtime={_RUNTIME}"]
    log = cache_dir() / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"starting dockerd (log: {log})")
    with open(log, "ab") as out:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)

    def answers() -> bool:
        if daemon.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise ClusterError(f"dockerd ended at once: {' '.join(last)} (log: {log})")
        return succeeds(["docker", "info"])

    wait_until(answers, timeout=60, what="an answer from the docker daemon just started")


def _enable_forwarding() -> None:
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    if forward.read_text().strip() != "1":
        forward.write_text("1\n")


def _runtime_wrapper() -> Path:
    """The wrapper in the cache: the daemon outlives a checkout of the project."""
    source = NODE_FILES / "runc-wrap"
    return artifact("runc-wrap", digest([source]), lambda out: shutil.copy2(source, out)) / source.name


def image_field(ref: str, template: str) -> str | None:
    """One field of an image by a Go template, or none where docker does not hold the image."""
    try:
        return run(["docker", "image", "inspect", "-f", template, ref], timeout=30, doing=f"inspecting {ref}").strip()
    except ClusterError:
        return None


def image_id(ref: str) -> str:
    """The content hash of an image that was built or loaded before."""
    found = image_field(ref, "{{.Id}}")
    if not found:
        raise ClusterError(f"docker does not hold the image {ref}: build it with `tests/cluster/cluster images`")
    return found


def image_bytes(ref: str) -> int:
    """Uncompressed size of an image in bytes, all layers together."""
    image_id(ref)
    return int(image_field(ref, "{{.Size}}") or 0)


def build(
    context: Path,
    dockerfile: Path,
    ref: str,
    *,
    target: str | None = None,
    args: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
) -> None:
    """Build `dockerfile` over `context` and name the result `ref`."""
    command = ["docker", "build", "-q", "-t", ref, "-f", str(dockerfile)]
    if target:
        command += ["--target", target]
    for flag, pairs in (("--build-arg", args), ("--label", labels)):
        for name, value in (pairs or {}).items():
            command += [flag, f"{name}={value}"]
    replaced = image_field(ref, "{{.Id}}")
    run([*command, str(context)], timeout=1800, doing=f"building image {ref}", env=_BUILD_ENV)
    if replaced and replaced != image_id(ref):
        # still needed by another name or container: then docker keeps it
        succeeds(["docker", "image", "rm", replaced])


def save(refs: list[str], archive: Path) -> None:
    """Write images into one archive; layers they share are written once."""
    run(["docker", "save", "-o", archive, *refs], timeout=600, doing=f"saving {' '.join(refs)}")


def load(archive: Path) -> None:
    """Read the images of an archive into docker."""
    run(["docker", "load", "-q", "-i", archive], timeout=600, doing=f"loading {archive.name}")


def gateway() -> str:
    """IPv4 address at which the nodes and pods of a kind cluster see this machine."""
    template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
    command = ["docker", "network", "inspect", "kind", "-f", template]
    for address in run(command, timeout=30, doing="asking docker for kind's network").split():
        if ":" not in address:
            return address
    raise ClusterError("docker's network `kind` has no IPv4 gateway")


def inspect(container: str) -> dict | None:
    """What docker knows of a container, or none where there is no such container."""
    try:
        text = run(["docker", "container", "inspect", container], timeout=30, doing=f"inspecting {container}")
    except ClusterError:
        return None
    return json.loads(text)[0]
