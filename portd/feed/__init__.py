"""Where bytes come from: a snapshot, a stream, a file, handed to whoever applies them."""
