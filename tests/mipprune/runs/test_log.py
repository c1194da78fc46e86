"""What numbers are called whose method says it, and those of which nobody says anything."""

from mipprune.report.figures import method_charts
from mipprune.runs.log import LogEntry, described
from mipprune.runs.record import Timeline

COST = LogEntry("expected cost", "share")


def test_what_the_log_does_not_know_is_called_by_its_key_and_by_its_first_word_with_others():
    found = described({"nu": COST}, ["nu", "regime_kept", "regime_free", "small_scales"])
    assert found["nu"] is COST
    assert [found[key].title for key in ("regime_kept", "regime_free")] == ["regime", "regime"]
    assert found["small_scales"].title == "small scales"


def test_numbers_with_one_title_share_a_chart_and_are_called_by_the_rest_of_their_keys():
    rising, flat = [(1, 0.1), (2, 0.2)], [(1, 3.0), (2, 3.0)]
    time = Timeline(
        (("regularize", 0, 2),),
        {"expected_macs": rising, "expected_params": rising, "nu": rising, "c": flat},
    )
    log = {"expected_macs": COST, "expected_params": COST, "nu": LogEntry("price", "ν")}
    charts, constants = method_charts(time, log)
    assert [chart.title for chart in charts] == ["Expected cost", "Price"]
    assert [line["name"] for line in charts[0].legend] == ["macs", "params"]
    assert [line["name"] for line in charts[1].legend] == ["price"]
    assert constants == {"c": "3"}
