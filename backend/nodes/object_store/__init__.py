"""Nodes in buckets: S3 and all that speaks it, Google Cloud Storage, Azure Blob Storage.

Loaded only by a drive that has such a node (`backend.nodes.factory`)."""
