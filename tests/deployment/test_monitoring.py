"""Alarms and dashboard look at metrics that the code emits, under the dimensions that it emits them with."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import pytest

from local import dashboard
from rotation_lambda import metrics
from tests import ROOT
from tests.deployment.cloudformation import TWO_ANSWERS, deploy

WITH_DASHBOARD = {**TWO_ANSWERS, "CreateDashboard": "true"}
DIMENSIONS = {"Secret", "Function", "Secret,Code"}
"""What test_metrics.py sees in the lines: the names of each set of dimensions."""


def widgets(kind: str) -> list[dict[str, Any]]:
    """Return the properties of all widgets of a kind, as CloudWatch gets them."""
    body = json.loads(deploy(WITH_DASHBOARD).properties("Dashboard")["DashboardBody"])
    return [widget["properties"] for widget in body["widgets"] if widget["type"] == kind]


def searched() -> list[tuple[str, str, str, int, dict[str, Any]]]:
    """Return what each search of the dashboard looks for: dimensions, metric, statistic and period; and its widget."""
    found = []
    for widget in widgets("metric"):
        [[metric]] = widget["metrics"]
        pattern = r"SEARCH\('\{SecretRotation,([\w,]+)\} MetricName=\"(\w+)\"', '(\w+)', (\d+)\)"
        match = re.fullmatch(pattern, metric["expression"])
        assert match, metric["expression"]
        found.append((match[1], match[2], match[3], int(match[4]), widget))
    return found


def ours() -> dict[str, dict[str, Any]]:
    stack = deploy()
    alarms = {name: body["Properties"] for name, body in stack.resources.items() if name.endswith("Alarm")}
    return {name: alarm for name, alarm in alarms.items() if alarm["Namespace"] == metrics.NAMESPACE}


class TestAlarms:
    def test_look_at_metrics_of_this_function(self) -> None:
        assert {alarm["MetricName"] for alarm in ours().values()} < metrics.UNITS.keys()
        for alarm in ours().values():
            assert alarm["Dimensions"] == [{"Name": "Function", "Value": "<RotationFunction>"}]

    @pytest.mark.parametrize(
        ("name", "metric", "statistic", "bad", "good"),
        [
            ("PreflightAlarm", "PreflightFailed", "Sum", 1, 0),
            ("OverdueAlarm", "DaysOverdue", "Maximum", 1, 0.9),
            ("ExpiryAlarm", "DaysUntilExpiry", "Minimum", 13, 14),
        ],
    )
    def test_go_off_for_what_is_bad(self, name: str, metric: str, statistic: str, bad: float, good: float) -> None:
        alarm = ours()[name]
        assert (alarm["MetricName"], alarm["Statistic"]) == (metric, statistic)
        below = alarm["ComparisonOperator"] == "LessThanThreshold"
        assert below or alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
        assert [(value < alarm["Threshold"]) is below for value in (bad, good)] == [True, False]

    def test_are_silent_between_two_preflights(self) -> None:
        assert {alarm["TreatMissingData"] for alarm in ours().values()} == {"notBreaching"}

    def test_say_what_to_do_and_where_to_read(self) -> None:
        stack = deploy()
        for name, body in stack.resources.items():
            if name.endswith("Alarm"):
                text = body["Properties"]["AlarmDescription"]
                assert "the log group <LogGroup>" in text
                assert "\n" not in text
                assert len(text) <= 1024  # PutMetricAlarm
                assert body["Properties"]["AlarmActions"] == ["<AlarmTopic>"]

    def test_name_the_log_that_is_kept(self) -> None:
        stack = deploy({**TWO_ANSWERS, "RetainLogGroup": "true"})
        assert "<RetainedLogGroup>" in stack.properties("ErrorAlarm")["AlarmDescription"]

    def test_of_the_preflight_are_there_if_it_runs(self) -> None:
        assert deploy({**TWO_ANSWERS, "PreflightSchedule": "none"}).resources.keys() & ours().keys() == set()


class TestSchedule:
    def test_invokes_the_function_for_all_its_secrets(self) -> None:
        stack = deploy({**TWO_ANSWERS, "PreflightSchedule": "cron(0 6 * * ? *)"})
        rule = stack.properties("PreflightRule")
        assert rule["ScheduleExpression"] == "cron(0 6 * * ? *)"
        [target] = rule["Targets"]
        assert (target["Arn"], json.loads(target["Input"])) == ("<RotationFunction>.Arn", {"Step": "preflight"})

    def test_is_the_only_one_of_eventbridge_that_may(self) -> None:
        assert deploy().properties("EventBridgeMayInvoke") == {
            "FunctionName": "<RotationFunction>.Arn",
            "Action": "lambda:InvokeFunction",
            "Principal": "events.amazonaws.com",
            "SourceArn": "<PreflightRule>.Arn",
        }


class TestDashboard:
    def test_looks_at_every_metric_but_the_one_that_has_an_alarm_alone(self) -> None:
        assert {metric for _, metric, _, _, _ in searched()} == metrics.UNITS.keys() - {"DaysOverdue"}

    def test_looks_where_the_code_emits(self) -> None:
        assert {dimensions for dimensions, _, _, _, _ in searched()} == DIMENSIONS - {"Function"}
        source = ast.parse((ROOT / "rotation_lambda" / "metrics.py").read_text())
        calls = [node for node in ast.walk(source) if isinstance(node, ast.Call)]
        sets = {
            ",".join(str(keyword.arg) for keyword in call.keywords)
            for call in calls
            if isinstance(call.func, ast.Attribute) and call.func.attr == "add_dimensions"
        }
        assert sets | {"Secret"} == DIMENSIONS

    def test_names_the_secret_at_each_line(self) -> None:
        for dimensions, _, _, _, widget in searched():
            [[metric]] = widget["metrics"]
            assert metric["label"] == " ".join(f"${{PROP('Dim.{name}')}}" for name in dimensions.split(","))

    def test_searches_for_what_it_shows(self) -> None:
        for _, _, statistic, period, widget in searched():
            assert (widget["stat"], widget["period"]) == (statistic, period)
            assert widget["region"] == "us-east-1"

    def test_lists_the_rotations_of_a_month_from_the_functions_log(self) -> None:
        """A search finds only metrics that had a value in the last two weeks, and rotations are monthly by default."""
        [log, _] = widgets("log")
        query = "SOURCE '<LogGroup>' | fields @timestamp, Secret, OutageWindow.0 as outage_ms"
        assert log["query"].startswith(f"{query} | filter ispresent(RotationSucceeded.0) |")
        assert {"RotationSucceeded", "OutageWindow"} < metrics.UNITS.keys()

    def test_shows_what_failed_from_the_functions_log(self) -> None:
        [_, log] = widgets("log")
        assert log["query"].startswith("SOURCE '<LogGroup>' | fields ")
        assert {"code", "hint", "check", "secret_id", "step"} <= set(re.findall(r"\w+", log["query"]))

    def test_has_a_picture_that_is_up_to_date(self) -> None:
        """If not: make docs."""
        body = dashboard.body()
        assert [one["properties"]["title"] for one in body["widgets"] if one["type"] == "metric"] == [
            one["title"] for one in widgets("metric")
        ]
        assert dashboard.FILE.read_text() == dashboard.draw(body)

    def test_covers_no_widget_with_another(self) -> None:
        body = json.loads(deploy(WITH_DASHBOARD).properties("Dashboard")["DashboardBody"])
        cells = [
            (x, y)
            for one in body["widgets"]
            for x in range(one["x"], one["x"] + one["width"])
            for y in range(one["y"], one["y"] + one["height"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
