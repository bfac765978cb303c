# The provisioner of the default StorageClass. Its helper pods, which make and remove the
# volumes' directories, run from the same image because they need a shell.
ARG BASE
FROM ${BASE}
COPY local-path-provisioner /usr/local/bin/local-path-provisioner
