"""The meters: what they see, and what they say can be had."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plaudit.methods.sft import SFT
from plaudit.models.forest_model import ForestModel
from plaudit.models.masters import Masters
from plaudit.train import memory
from plaudit.train.memory import LinuxMeter, PsutilMeter, Watcher, available_bytes, meter_for
from plaudit.train.rehearsal import Rehearsal, Workload
from tests.train import steps

MIB = 2**20
KNOWN = 200 * MIB


def hold_and_free():
    held = torch.ones(KNOWN // 4)
    del held


def check(meter):
    """A known allocation is seen after it is gone, and forgotten after a reset."""
    meter.reset()
    before = meter.used()
    hold_and_free()
    seen = meter.peak() - before
    assert 0.9 * KNOWN < seen < 1.2 * KNOWN
    assert meter.used() - before < 0.2 * KNOWN
    meter.reset()
    assert meter.peak() - before < 0.2 * KNOWN
    assert meter.limit() > meter.used()
    meter.close()


def test_a_freed_allocation_is_seen():
    meter = meter_for(torch.device("cpu"))
    assert isinstance(meter, LinuxMeter)
    check(meter)


def test_a_freed_allocation_is_seen_where_the_kernel_forgets_nothing(monkeypatch):
    monkeypatch.setattr(memory, "_forget_highest", lambda: False)
    check(LinuxMeter())


def test_a_freed_allocation_is_seen_without_proc(monkeypatch):
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=memory._status("VmRSS")))
    there = SimpleNamespace(available=10**10)
    psutil = SimpleNamespace(Process=lambda: process, virtual_memory=lambda: there)
    check(PsutilMeter(psutil))


def test_the_watcher_stops():
    watcher = Watcher(lambda: 3)
    assert watcher.highest() == 3
    watcher.close()
    assert not watcher._thread.is_alive()


def test_what_no_meter_knows():
    assert meter_for(torch.device("meta")) is None


def test_processes_of_one_machine_share(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**12)
    monkeypatch.setattr(memory, "_status", lambda name: {"VmRSS": 700, "RssFile": 200, "VmHWM": 700}[name])
    alone = LinuxMeter().limit()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert alone == 700 + 10**12 - 200
    assert LinuxMeter().limit() == 700 + (10**12 - 200) // 4


# -- control groups


@pytest.fixture
def machine(tmp_path):
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroups.mkdir()
    (proc / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  4000 kB\n")
    (proc / "self" / "cgroup").write_text("0::/\n")
    return proc, cgroups


def group(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def test_the_machine_alone(machine):
    assert available_bytes(*machine) == 4000 * 1024


def test_the_least_of_all_groups_on_the_way_up(machine):
    proc, cgroups = machine
    (proc / "self" / "cgroup").write_text("0::/outer/inner\n")
    stat = "anon 5\nactive_file 100\ninactive_file 23"
    group(cgroups / "outer" / "inner", {"memory.max": "max", "memory.current": 7, "memory.stat": stat})
    group(cgroups / "outer", {"memory.max": 2000, "memory.current": 900, "memory.stat": stat})
    assert available_bytes(proc, cgroups) == 2000 - 900 + 123
    group(cgroups / "outer", {"memory.current": 5000})
    assert available_bytes(proc, cgroups) == 0


def test_the_older_groups(machine):
    proc, cgroups = machine
    (proc / "self" / "cgroup").write_text("5:cpu,cpuacct:/x\n4:memory:/not/here\n")
    files = {"memory.limit_in_bytes": 3000, "memory.usage_in_bytes": 500, "memory.stat": "total_inactive_file 40"}
    group(cgroups / "memory", files)  # in a container the path is the host's
    assert available_bytes(proc, cgroups) == 3000 - 500 + 40
    group(cgroups / "memory", {"memory.limit_in_bytes": 0x7FFFFFFFFFFFF000})
    assert available_bytes(proc, cgroups) == 4000 * 1024


# -- the contract: peak memory follows the tokens


def test_peak_memory_follows_the_tokens_along_a_line():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=steps.VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = ForestModel(LlamaForCausalLM(config))
    masters = Masters([("", model)])
    workload = Workload.of(SFT(), steps.make_groups("completion", 160), 160, None)
    meter = meter_for(torch.device("cpu"))
    assert meter is not None
    sizes = (400, 800, 1600)
    with Rehearsal({"policy": model}, masters, [workload], meter, held=0).open() as rehearsal:
        found = [rehearsal(size).bytes for size in sizes]
    first, second = found[1] - found[0], found[2] - found[1]
    # Twice the growth for twice the tokens; a model of this size leaves tens of MiB, a page here and there is noise.
    assert first > 10 * MIB
    assert 1.4 < second / first < 2.8
