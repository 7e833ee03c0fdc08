"""One parameter server: its shards, its answers, its snapshots, its process."""
