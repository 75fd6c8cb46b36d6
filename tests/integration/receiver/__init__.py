"""The link against real servers: transfers, resumption, refusals, losses, and ACKs that never stop."""
