"""The benchmarks still run, and say rightly whether a goal is reached. What they measure is not looked at here."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from blocks import ROOT

from benchmarks.fleet import Child
from benchmarks.goals import Goal, goals
from benchmarks.load import Load
from benchmarks.small_goals import http_goals
from benchmarks.stats import percentile, ratio
from benchmarks.subjects import Subject

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc")


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (Goal("most", 0.35, 0.35), "yes"),
        (Goal("most", 0.36, 0.35), "NO"),
        (Goal("least", 40.0, 40.0, at_least=True), "yes"),
        (Goal("least", 39.9, 40.0, at_least=True), "NO"),
        (Goal("most", math.inf, 8.0), "NO"),
        (Goal("most", None, 8.0), "not measured"),
    ],
)
def test_verdict_of_a_goal(goal: Goal, verdict: str) -> None:
    assert goal.verdict == verdict
    assert goals("part", goal).splitlines()[-1].split("|")[-2].strip() == verdict


def test_a_ratio_is_taken_round_by_round() -> None:
    assert ratio([2.0, 40.0, 3.0], [1.0, 10.0, 1.0]) == 3.0
    assert ratio([2.0], [0.0]) == math.inf


def test_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0], 99) == 1.0


def test_goals_of_requests_come_from_the_rounds() -> None:
    def subject(name: str, cpu: float, rate: float) -> Subject:
        return Subject(name, Child(0, 0), loads=[Load(int(rate * 2), 2.0, 1.0, 2.0)], cpu=[cpu])

    nginx, own = (10.0, 12.0, 20.0, 24.0), (60.0, 72.0, 144.0, 150.0)
    series = {
        connections: [subject("nginx", nginx[at], 9000.0), subject("keypool", own[at], 1000.0 - 400 * at // 3)]
        for at, connections in enumerate((16, 64, 256, 1000))
    }
    seconds = {"nginx": [[0.0001] * 9], "keypool": [[0.0004] * 9]}
    found = {goal.what: goal for goal in http_goals(series, seconds, seconds)}
    assert found["CPU a request, x nginx, 64 connections"].figure == pytest.approx(6.0)
    assert found["CPU a request, x asgiproxy, 64 connections"].figure is None
    assert found["CPU a request, 256 to 16 connections, x nginx's change"].figure == pytest.approx(1.2)
    assert found["req/s, 1000 to 64 connections"].figure == pytest.approx(600 / 867, rel=0.01)
    assert found["added p50 ms over nginx's, one at a time"].figure == pytest.approx(0.3)
    assert found["p99 ms of bursts of 16"].figure == pytest.approx(0.4)


def test_a_benchmark_runs_from_the_command_line() -> None:
    said = run("benchmarks", "foreign", "--quick")
    assert "### foreign: a path that is not the pool's" in said
    assert "### foreign: goals" in said


def test_what_is_counted_can_be_done() -> None:
    nowhere = "http://127.0.0.1:9"
    options = f"--times 3 --upstream {nowhere} --sockets {nowhere}"
    run("benchmarks.work", "null", "foreign", "request", *options.split())
