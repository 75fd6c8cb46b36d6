"""`portd cutover`: the target becomes the server, with a proof that it has everything.

A sync runs between both ends and goes on running; this is another process that speaks to it over its control socket.
`cutover` puts the steps together: `checks` before, `proof` that both ends are equal, `fences` that stop the writes at the source,
`streamwatch` and `writewatch` that see what is written all the while, and a `report` of it.
"""

from __future__ import annotations
