"""Write two transactions and a half into the URL given, then die as a crash would have it."""

import asyncio
import os
import signal
import sys

from abatch.backend import connect
from abatch.testing import BackendContract
from abatch.testing.contract import make_lines


async def main(url: str) -> None:
    contract = BackendContract()
    sink = await contract.sink(await connect(url, contract.job))
    lines = make_lines(2500)
    for begin in range(0, 2500, 500):
        await sink.write(lines[begin : begin + 500])
    os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main(sys.argv[1]))
