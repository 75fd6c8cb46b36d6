"""The applier on real targets: exactly once through lost connections, refusals, memory pressure and large commands."""
