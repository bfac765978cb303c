# The ingest stage with a Chromium beside it, for sources whose pages are rendered (scrape.render). Chromium's libraries are those of Debian,
# so this image has a distribution and a shell, as no other image of a stage has.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN groupadd --gid 65532 nonroot \
    && useradd --uid 65532 --gid nonroot --home-dir /tmp --no-create-home --shell /usr/sbin/nologin nonroot \
    && apt-get update \
    # a font, without which Chromium does not begin
    && apt-get install -y --no-install-recommends ca-certificates chromium-headless-shell fonts-dejavu-core \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/* /usr/share/doc/* /usr/share/man/*
COPY ingest /usr/local/bin/ingest
# Built elsewhere: with a newer C library than Debian's it would not begin.
RUN ! ldd /usr/local/bin/ingest 2>&1 | grep 'not found'
# Pods have no user namespaces, so Chromium cannot make a sandbox of its own there; SECURITY.md says what confines it.
ENV LAKEHOUSE_CHROMIUM=/usr/lib/chromium/chromium-headless-shell \
    LAKEHOUSE_CHROMIUM_SANDBOX=off
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/ingest"]
