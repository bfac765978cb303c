# One image per binary, on nothing: /rootfs in the build context holds the stripped binary, exactly
# the shared libraries it loads, CA certificates, a nonroot user and /tmp, as assembled by
# `tests/cluster/cluster images` (tests/cluster/lakehouse_cluster/rootfs.py). Build with --target.
FROM scratch AS base
COPY rootfs/ /
USER 65532:65532

FROM base AS ingest
ENTRYPOINT ["/usr/local/bin/ingest"]

FROM base AS silver
ENTRYPOINT ["/usr/local/bin/silver"]

FROM base AS gold
ENTRYPOINT ["/usr/local/bin/gold"]

FROM base AS maintenance
ENTRYPOINT ["/usr/local/bin/maintenance"]

FROM base AS operator
ENTRYPOINT ["/usr/local/bin/lakehouse-operator"]

FROM base AS cli
ENTRYPOINT ["/usr/local/bin/lakehouse"]

FROM base AS minio
ENTRYPOINT ["/usr/local/bin/minio"]
