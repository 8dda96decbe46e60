import pytest

from abatch import BatchManager
from abatch.sandbox.faults import ResetAfterAccept

pytestmark = pytest.mark.anyio


async def moods(texts, folder):
    """The code under test."""
    requests = (
        {
            "custom_id": f"text-{number}",
            "params": {
                "model": "claude-haiku-4-5",
                "max_tokens": 20,
                "messages": [{"role": "user", "content": f"Answer with JSON that has a mood: {text}"}],
            },
        }
        for number, text in enumerate(texts)
    )
    async with BatchManager(folder / ".abatch") as manager:
        job = await manager.submit(requests, to=folder / "moods.db", key="moods")
        return {result.custom_id: result.parse(dict)["mood"] async for result in job.results()}


def answer(params):
    return {"mood": "bad" if "not" in params["messages"][0]["content"] else "good"}


@pytest.mark.abatch_sandbox(answer=answer)
async def test_moods(abatch_sandbox, tmp_path):
    assert await moods(["I like it.", "I do not."], tmp_path) == {"text-0": "good", "text-1": "bad"}


@pytest.mark.abatch_sandbox(answer=answer)
async def test_a_lost_answer_is_not_paid_for_twice(abatch_sandbox, tmp_path):
    abatch_sandbox.faults.next("create", ResetAfterAccept())
    assert len(await moods(["I like it.", "I do not."], tmp_path)) == 2
    assert abatch_sandbox.account.batches == 1
    assert abatch_sandbox.account.violated == 0
