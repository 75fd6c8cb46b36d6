"""The compiled kernel: bytes in, bytes out. No I/O, no asyncio."""
