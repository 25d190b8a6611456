"""The state is saved, checked and restored; a cluster that has lost its majority comes back as another one."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from steersman.errors import ApiError

NAMES = ("a1", "a2", "a3")


def document(kind: str, name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": {"by": "bm90IGZvciBkaXNrcw=="}}


async def write(client, *names: str) -> None:
    for name in names:
        await client.create(document("ConfigMap", name))


async def names_of(client, kind: str = "configmaps") -> set[str]:
    return {item["metadata"]["name"] for item in await client.list(kind, "default")}


async def test_a_snapshot_is_saved_checked_and_begins_another_cluster(world):
    await world.begin(*NAMES)
    world.config(*NAMES)
    async with world.client(*NAMES) as client:
        await write(client, "one", "two")
        await client.create(document("Secret", "hidden"))
        before = (await client.get("configmaps", "two"))["metadata"]
        file = world.folder / "state.snapshot"
        saved = world.steer("cluster", "snapshot", "save", str(file))
        assert saved.stdout == f"snapshot/{file} saved\n", saved.stderr
        await write(client, "later")
        seen = (await client.cluster_status()).revision
    assert world.steer("cluster", "snapshot", "save", str(file)).returncode == 1  # never overwritten
    assert b"not for disks" not in file.read_bytes()
    assert b"bm90IGZvciBkaXNrcw==" in file.read_bytes()  # the ConfigMaps'
    verified = json.loads(world.steer("cluster", "snapshot", "verify", str(file), "-o", "json").stdout)
    assert verified["encrypted"] == 1
    assert verified["revision"] >= int(before["resourceVersion"])
    assert verified["keys"] > 3

    damaged = world.folder / "damaged.snapshot"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    refused = world.steer("cluster", "snapshot", "verify", str(damaged))
    assert (refused.returncode, "is damaged before byte" in refused.stderr) == (1, True)

    new = ("b1", "b2", "b3")
    cluster = world.initial(*new)
    printed = world.steer("cluster", "snapshot", "restore", str(file), "--initial-cluster", cluster, "--data-dir", "D")
    commands = [line.split()[1:] for line in printed.stdout.splitlines() if line.startswith("steer-control ")]
    assert len(commands) == 3
    for name, command in zip(new, commands, strict=True):
        shutil.copy(world.folder / "a1" / "encryption-keys.json", world.member(name).pki / "encryption-keys.json")
        words = [
            str(file) if word == file.name else str(world.member(name).data) if word == "D" else word
            for word in command
        ]
        restored = world.steer_control(*words)
        assert restored.returncode == 0, restored.stderr
        assert "already" in world.steer_control(*words).stderr
    for name in new:
        world.member(name).start("--initial-cluster", cluster)
    await world.led(*new)
    async with world.client("b2") as client:
        assert await names_of(client) == {"one", "two"}
        assert (await client.get("configmaps", "two"))["metadata"] == before
        assert (await client.get("secrets", "hidden"))["data"] == {"by": "bm90IGZvciBkaXNrcw=="}
        status = await client.cluster_status()
        assert status.revision > seen + 1_000_000
        assert {member.name for member in status.members} == set(new)
        with pytest.raises(ApiError) as gone:  # a watcher that saw what the snapshot has not is told so
            await anext(client.watch("configmaps", "default", revision=seen))
        assert gone.value.reason == "Expired"
        await write(client, "new")
    async with world.client("a1") as client:
        assert (await client.cluster_status()).cluster_id != status.cluster_id


async def test_a_lost_majority_is_survived_and_stays_lost(world):
    await world.begin(*NAMES)
    leader = await world.led(*NAMES)
    others = [name for name in NAMES if name != leader]
    async with world.client(leader) as client:
        await write(client, "one", "two", "three")
        await client.create(document("Secret", "hidden"))
        old = (await client.cluster_status()).cluster_id
    for name in NAMES:
        world.member(name).end(9)
    data = str(world.member(leader).data)
    before = sorted((path.name, path.read_bytes()) for path in (world.member(leader).data / "raft").iterdir())

    dry = world.steer_control("recover", "--data-dir", data)
    assert dry.returncode == 0, dry.stderr
    assert f"cluster {old}" in dry.stdout
    assert re.search(r"May be lost: every write acknowledged after entry \d+ of term \d+, proposed at", dry.stdout)
    assert "Find 1 more of them, and nothing is lost" in dry.stdout
    both = world.steer_control("recover", "--data-dir", data, "--data-dir", str(world.member(others[0]).data))
    assert "Lost: nothing that was acknowledged: that is on at least 2 voters, so one of these 2 has it" in both.stdout
    assert "no recovery is needed" in both.stdout
    assert sorted((path.name, path.read_bytes()) for path in (world.member(leader).data / "raft").iterdir()) == before

    address = world.member(leader).raft
    done = world.steer_control("recover", "--data-dir", data, "--name", leader, "--raft-address", address, "--apply")
    assert done.returncode == 0, done.stderr
    world.member(leader).start("--initial-cluster", world.initial(*NAMES))
    await world.led(leader)
    running = world.steer_control("recover", "--data-dir", data)
    assert (running.returncode, "a member runs" in running.stderr) == (1, True)

    # One of the lost comes back with its old disk: it cannot join, disturb, or bring the old cluster back with the first's vote.
    world.member(others[0]).start("--initial-cluster", world.initial(*NAMES))
    await world.until(lambda: f"belongs to cluster {old}" in world.member(others[0]).text())
    async with world.client(leader) as client:
        assert await names_of(client) == {"one", "two", "three"}
        hidden = await client.get("secrets", "hidden")  # carried over without its key, and read with it
        assert hidden["data"] == {"by": "bm90IGZvciBkaXNrcw=="}
        status = await client.cluster_status()
        assert status.cluster_id != old
        assert [member.name for member in status.members] == [leader]
        await write(client, "four")
        async with world.client(others[0]) as back:
            assert (await back.cluster_status()).leader == ""
        world.member(others[0]).end()
        shutil.rmtree(world.member(others[0]).data)
        await client.add_member(others[0], world.member(others[0]).raft)
        world.member(others[0]).start("--join", world.member(leader).grpc)

        async def votes() -> bool:
            try:
                return bool(await client.promote_member(others[0], timeout=5))
            except ApiError as error:
                return error.reason not in ("BadRequest", "ServiceUnavailable", "Timeout")

        await world.until(votes)
    await world.led(leader, others[0])
    async with world.client(others[0]) as client:
        assert await names_of(client) == {"one", "two", "three", "four"}


async def test_the_guide_to_recovery_says_who_is_left(world):
    await world.begin(*NAMES)
    leader = await world.led(*NAMES)
    world.config(*NAMES)
    assert f"{leader} leads: nothing needs to be recovered" in world.steer("cluster", "recover").stdout
    left, *lost = sorted(NAMES, key=lambda name: name == leader)
    for name in lost:
        world.member(name).end(9)

    async def leaderless() -> bool:
        async with world.client(left) as client:
            return not (await client.cluster_status()).leader

    await world.until(leaderless)
    told = world.steer("cluster", "recover").stdout
    assert "No leader: 1 of 3 voters answer, 2 are needed" in told
    assert f"recover --data-dir DIR --name {left} --raft-address {world.member(left).raft} --apply" in told
