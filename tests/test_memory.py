"""Memory that is left, as the machine and its control groups tell it."""

from __future__ import annotations

from pathlib import Path

from axoloci.memory import free_memory


def write_files(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_free_memory__of_the_machine_or_the_tightest_control_group(tmp_path: Path) -> None:
    kb = 1024
    write_files(tmp_path, {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   5000 kB\n"})
    assert free_memory(tmp_path) == 5000 * kb
    v2 = "sys/fs/cgroup"
    write_files(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu:/\n0::/job/step\n",
            f"{v2}/job/memory.max": "3000\n",
            f"{v2}/job/memory.current": "1200\n",
            f"{v2}/job/memory.stat": "anon 700\ninactive_file 400\nactive_file 100\n",
            f"{v2}/job/step/memory.max": "max\n",
            f"{v2}/job/step/memory.current": "1200\n",
            f"{v2}/job/step/memory.stat": "anon 700\ninactive_file 500\n",
        },
    )
    assert free_memory(tmp_path) == 3000 - 1200 + 500
    v1 = "sys/fs/cgroup/memory"
    write_files(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu:/\n5:memory:/not/there/in/a/container\n",
            f"{v1}/memory.limit_in_bytes": "900\n",
            f"{v1}/memory.usage_in_bytes": "600\n",
            f"{v1}/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
        },
    )
    assert free_memory(tmp_path) == 400
    for name, text in (("memory.stat", "odd\n"), ("memory.usage_in_bytes", "")):
        (tmp_path / v1 / name).write_text(text)  # as some emulate them
        assert free_memory(tmp_path) == 5000 * kb
    assert 0 < free_memory() < 2**63
