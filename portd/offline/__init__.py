"""What is done with snapshots that are not on their way from one server to another.

`decode` shows one, `dump` keeps one in a file, `restore` brings one into a server; `fetch` is the source's side of the
first two, `stats` the report of the first.
"""
