"""`portd check`: what will go wrong in a sync, found before it begins; changes nothing on either end.

`survey` asks both ends, the modules named after what they judge turn answers into findings, `run` puts it together.
"""

from __future__ import annotations
