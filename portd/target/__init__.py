"""The target's side: probe, lanes for the snapshot, applier for the stream, checkpoint, dead letters."""
