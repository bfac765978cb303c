"""The harness that the Python tests share, one module per thing."""
