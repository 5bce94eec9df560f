"""What the installed Paddle does differently from other versions.

Paddle 2.6 saves traced programs as protobuf (`model.pdmodel`), Paddle 3 as its new intermediate representation, PIR
(`model.json`). Paddle 3 reads both. No module outside `paddle_private` asks for a version.
"""

from __future__ import annotations

import paddle

PADDLE = str(paddle.__version__)
SAVES_PIR = bool(paddle.get_flags("FLAGS_enable_pir_api")["FLAGS_enable_pir_api"])
TESTED = PADDLE.startswith(("2.6.", "3.2."))  # the versions that this package's tests run on
PROGRAM_SUFFIX = ".json" if SAVES_PIR else ".pdmodel"  # of the programs that `paddle.jit.save` writes
