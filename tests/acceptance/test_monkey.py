"""`wallet monkey` against the real service: api, relay and worker, on either transport."""

from tests.acceptance.conftest import System


def test_the_service_stands_the_stress_tool_and_is_clean(system: System, seed: int) -> None:
    api = system.start_api()
    system.start_relay()
    system.start_worker()
    for _ in range(2):
        # Again on the same service with the same seed: a run's wallets and keys are its own.
        monkey = system.processes.start("monkey", "--url", api.url, "--seed", str(seed), settings={})
        assert monkey.wait(within=90) == 0, monkey.output()
        assert "✗" not in monkey.output()
        assert "clean: every promise was kept" in monkey.output()
        assert "replays, byte for byte" in monkey.output()


def test_a_service_whose_worker_stands_still_is_found_out(system: System, seed: int) -> None:
    api = system.start_api()
    system.start_relay()
    options = ("--requests", "100", "--seed", str(seed), "--patience", "1")
    monkey = system.processes.start("monkey", "--url", api.url, *options, settings={})
    assert monkey.wait(within=90) == 1, monkey.output()
    assert monkey.output().count("✗") == 1
    assert "✗ the worker's totals agree" in monkey.output()
