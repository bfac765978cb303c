"""The command line of tests/cluster/cluster."""

from __future__ import annotations

import argparse
import sys

from . import __doc__ as package_doc
from . import images, kind, platform
from .gobuild import tool
from .settings import RELEASES, kubeconfig
from .shell import ClusterError, run

_TOOLS = ("kubectl", "helm", "kind")


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; 0 when it did what it says, 1 with one message otherwise."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ClusterError as failed:
        print(f"cluster: error: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cluster: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cluster", description=package_doc)
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, run_it, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run_it)
        return command

    up = add("up", _up, "create the cluster, build and load the images, install the charts")
    up.add_argument("--fresh", action="store_true", help="for tests: replace the cluster that earlier tests made")
    add("prepare", _prepare, "build ahead what `up` needs and must build, all but our own programs")
    tools = add("tools", _tools, "build the programs the other commands use, and print their paths")
    tools.add_argument("names", nargs="*", help=f"default: {' '.join(_TOOLS)}; also minio, …")
    add("create", lambda _: kind.create(), "have a ready cluster: adopt the one that runs, or create it")
    build = add("images", _images, "build images and load them into the cluster")
    build.add_argument("names", nargs="*", help=f"default: {' '.join(images.NAMES)}; also {' '.join(images.EXTRAS)}")
    build.add_argument("--no-load", action="store_true", help="build only; no cluster is needed")
    sizes = add("sizes", lambda o: images.check_sizes(o.profile), "fail if an image is larger than its limit")
    for command in (up, build, sizes):
        command.add_argument(
            "--profile", choices=images.PROFILES, default="release", help="how Cargo built our programs"
        )
    install = add("platform", lambda o: platform.install(tuple(o.releases)), "install or upgrade the charts")
    install.add_argument("releases", nargs="*", help=f"default: {' '.join(RELEASES)}")
    tests = add("helm-test", lambda o: platform.test(tuple(o.releases)), "run the charts' own tests")
    tests.add_argument("releases", nargs="*", help=f"default: {' '.join(RELEASES)}")
    add("kubeconfig", lambda _: print(kubeconfig()), "print the path of the cluster's kubeconfig")
    add("status", lambda _: kind.status(), "show the node, the releases and the pods")
    add("kubectl", _kubectl, "run the cluster's kubectl with its kubeconfig").add_argument(
        "arguments", nargs=argparse.REMAINDER
    )
    add("delete", lambda _: kind.delete(), "delete the cluster with everything in it")
    return parser


def _up(options: argparse.Namespace) -> None:
    kind.create(fresh=options.fresh)
    images.build(images.NAMES, options.profile)
    images.load(images.NAMES)
    platform.install(RELEASES)


def _prepare(_: argparse.Namespace) -> None:
    images.build(("minio",))
    kind.prepare()
    images.build(images.OTHERS)


def _tools(options: argparse.Namespace) -> None:
    for name in options.names or _TOOLS:
        print(tool(name))


def _images(options: argparse.Namespace) -> None:
    names = tuple(options.names) or images.NAMES
    images.build(names, options.profile)
    if not options.no_load:
        images.load(names)


def _kubectl(options: argparse.Namespace) -> None:
    sys.stdout.write(
        run([tool("kubectl"), "--kubeconfig", kubeconfig(), *options.arguments], timeout=600, doing="kubectl")
    )
