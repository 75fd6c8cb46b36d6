"""`portd cutover`: the target becomes the server, with a proof that it has everything.

A sync runs between both ends and goes on running; this is another process that speaks to it over its control socket.
`cutover` puts the steps together: `checks` before, `proof` that both ends are equal, `fences` that stop the writes at the source,
`streamwatch` and `writewatch` that see what is written all the while, and a `report` of it. `ends` finds what there is: of each end,
the servers (`places`), and between them the links of the sync (`shard`): one, or one for each primary of a cluster.
"""

from __future__ import annotations
