"""Past one process: batches on Ray Data, replicas on Ray Serve (docs/scale.md)."""
