"""The power goes while a store is written to, on a real ext4: nothing is lost that was acknowledged.

`--power-cuts N` says how often; crash/machine.py how, crash/power.py what is done meanwhile, crash/judge.py what must
hold. SQLite is the control group: without syncs it has to lose something nearly each time.
"""

import pytest

from apart import run_apart


@pytest.mark.timeout(0)  # it has its own
def test_power_cuts(tmp_path, seed, request):
    cuts = request.config.option.power_cuts
    if cuts == 0:
        pytest.skip("--power-cuts N asks for it: it mounts file systems and shuts them down, as root")
    run_apart("crash.power", tmp_path, cuts, seed, timeout=60 + 10 * cuts)
