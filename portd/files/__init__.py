"""Files as ends: what a snapshot is read from and what output is written to. Nothing here knows what is in them.

`inputs` opens a file, standard input or something compressed; `outputs` writes under another name until all is there;
`aof` knows which files belong to an append-only file.
"""
