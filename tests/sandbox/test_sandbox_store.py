"""What was accepted survives the process."""

import json
import stat

import pytest

from abatch.errors import ConfigError
from abatch.sandbox import faults as f
from abatch.sandbox.exchange import Request
from abatch.sandbox.store import Log

BATCHES = "/v1/messages/batches"


def show(desk):
    """Everything a client or a test can see."""
    page = desk.call("GET", BATCHES, limit=1000)[1]
    ended = [batch["id"] for batch in page["data"] if batch["results_url"]]
    account = desk.machine.account
    return (
        [batch | {"results_url": None} for batch in page["data"]],
        {batch_id: desk.lines(batch_id) for batch_id in ended},
        (account.batches, account.requests, account.created, account.canceled, account.deleted),
        (account.violated, account.violations, account.aborted, account.most_bytes_aborted),
    )


@pytest.fixture
def reopen(new_desk, tmp_path):
    """A machine that goes on from the log, at the time of another."""

    def reopen(log, now=None):
        desk = new_desk(record=log.append, latency=(10, 30), seed=8)
        desk.now = now or desk.now
        desk.machine.replay(log.facts())
        return desk

    return reopen


def test_everything_goes_on_after_a_restart(tmp_path, reopen, new_params):
    with Log(tmp_path / "state") as log:
        desk = reopen(log)
        failing = new_params(9, metadata={"user_id": "sandbox:errored-once:api_error"})
        first = desk.create(failing, *map(new_params, range(5)))
        canceled = desk.create(*map(new_params, range(100, 200)))
        desk.wait(5)
        desk.call("POST", f"{BATCHES}/{canceled['id']}/cancel")
        desk.wait(30)
        desk.create(new_params(1))
        deleted = desk.create(new_params(300))
        desk.machine.add_foreign(4)
        desk.wait(30)
        desk.call("DELETE", f"{BATCHES}/{deleted['id']}")
        running = desk.create(new_params(301))
        desk.machine.open(Request("POST", BATCHES, {}, desk.headers)).abandon(77)
        before, now = show(desk), desk.now
    assert before[3][0] == 1

    with Log(tmp_path / "state") as log:
        desk = reopen(log, now)
        assert show(desk) == before
        assert desk.batch(running["id"])["processing_status"] == "in_progress"
        desk.wait(30)
        assert desk.batch(running["id"])["processing_status"] == "ended"
        assert desk.machine.account.times(failing) == 1
        again = desk.create(failing)
        assert again["id"] not in {first["id"], canceled["id"]}
        assert desk.machine.account.violated == 1
        desk.wait(30)
        assert json.loads(desk.lines(again["id"])[0])["result"]["type"] == "succeeded"


def test_a_parked_batch_and_one_that_will_be_deleted_go_on_after_a_restart(tmp_path, reopen, new_params, new_body):
    with Log(tmp_path) as log:
        desk = reopen(log)
        desk.machine.faults.next("create", f.Parked(100))
        desk.machine.faults.next("create", f.Deleted(100))
        parked, doomed = (desk.call("POST", BATCHES, new_body(new_params(n)))[1]["id"] for n in range(2))
        gone = desk.create(new_params(2))["id"]
        desk.machine.delete(gone)
        now = desk.now
    with Log(tmp_path) as log:
        desk = reopen(log, now)
        assert desk.ids() == [doomed, parked]
        desk.wait(99)
        assert desk.ids() == [doomed, parked]
        assert desk.batch(parked)["processing_status"] == "in_progress"
        desk.wait(40)
        assert desk.ids() == [parked]
        assert desk.batch(parked)["processing_status"] == "ended"
        assert desk.machine.account.deleted == [gone, doomed]
        now = desk.now
    with Log(tmp_path) as log:
        desk = reopen(log, now)
        assert desk.ids() == [parked]
        assert desk.machine.account.deleted == [gone, doomed]


def test_a_torn_record_is_cut_off_wherever_it_is_torn(tmp_path, reopen, new_params):
    path = tmp_path / "accepted.log"
    with Log(tmp_path) as log:
        desk = reopen(log)
        kept = desk.create(new_params(1))
        whole = path.stat().st_size
        desk.create(new_params(2))
    content = path.read_bytes()
    assert len(content) > whole
    for length in range(whole, len(content)):
        path.write_bytes(content[:length])
        with Log(tmp_path) as log:
            desk = reopen(log)
            assert desk.ids() == [kept["id"]]
            assert path.stat().st_size == whole
            later = desk.create(new_params(3))
        with Log(tmp_path) as log:
            assert reopen(log).ids() == [later["id"], kept["id"]]


def test_a_damaged_last_record_is_cut_off(tmp_path, reopen, new_params):
    path = tmp_path / "accepted.log"
    with Log(tmp_path) as log:
        desk = reopen(log)
        kept = desk.create(new_params(1))
        desk.create(new_params(2))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with Log(tmp_path) as log:
        assert reopen(log).ids() == [kept["id"]]


def test_the_state_is_private_and_has_one_owner(tmp_path):
    with Log(tmp_path / "state"):
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "state" / "accepted.log").stat().st_mode) == 0o600
        with pytest.raises(ConfigError, match="held by another sandbox"):
            Log(tmp_path / "state")
    with Log(tmp_path / "state"):
        pass


def test_no_params_are_kept(tmp_path, reopen):
    with Log(tmp_path) as log:
        reopen(log).create(b'{"model":"m","max_tokens":1,"messages":["canary-in-a-prompt"]}')
    assert b"canary" not in (tmp_path / "accepted.log").read_bytes()
