"""`portd verify`: are two live servers equal?

Both ends are digested (`snapshot` by PSYNC, `live` by SCAN and DUMP), records of keys go to disk by bucket (`store`),
buckets are compared one by one, and keys that differ are read again from both ends until they settle (`settle`).
`run` puts it together, `repair` copies what differs.
"""

from __future__ import annotations
