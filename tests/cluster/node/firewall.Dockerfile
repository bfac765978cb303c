# kube-router drives the same tools as kube-proxy; BASE is that one's image.
ARG BASE
FROM ${BASE}
COPY kube-router /usr/local/bin/kube-router
