"""A real kind cluster for `make up` and `make test`, also where no image registry is reachable."""
