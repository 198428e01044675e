"""From files to documents to passages. Runs in worker processes: never imports torch or lancedb."""
