"""The server: merges device documents, steers deployments and turns them into outcomes."""
