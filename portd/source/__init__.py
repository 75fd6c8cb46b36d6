"""The source's side: handshake, link, what to do when it is lost."""
