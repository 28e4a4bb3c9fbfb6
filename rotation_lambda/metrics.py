"""What a dashboard and an alarm see: CloudWatch makes metrics of lines in the log (embedded metric format)."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.metric_properties import MetricUnit

from rotation_lambda.errors import UnexpectedError
from rotation_lambda.event import Step

NAMESPACE = "SecretRotation"
UNITS = {
    **dict.fromkeys(("RotationSucceeded", "StepFailed", "Recovered"), MetricUnit.Count),
    **dict.fromkeys(("StepDuration", "OutageWindow"), MetricUnit.Milliseconds),
    **dict.fromkeys(("PreflightFailed", "PreflightWarnings"), MetricUnit.Count),
    **dict.fromkeys(("DaysSinceRotation", "DaysOverdue", "DaysUntilExpiry"), MetricUnit.NoUnit),
}
"""Every metric, and its unit; CloudWatch has none for days."""


@contextmanager
def of_step(function: str, step: Step, secret_id: Callable[[], str]) -> Iterator[dict[str, float]]:
    """Emit what the step of this block measures, and how long it takes or which code it fails with.

    `secret_id` is called at the end, when the secret's ARN may be known where only its name or a part of it was.
    """
    began, measured = time.monotonic(), dict[str, float]()
    try:
        yield measured
    except Exception as error:
        code = getattr(error, "code", UnexpectedError.code)
        emit(function, secret_id(), {**measured, "StepFailed": 1}, code=code, step=step)
        raise
    duration = {"StepDuration": 1000 * (time.monotonic() - began)}
    emit(function, secret_id(), {**measured, **duration}, step=step)


def emit(function: str, secret_id: str, values: Mapping[str, float], *, code: str = "", step: str = "") -> None:
    """Print the values, keys of UNITS, as one line that CloudWatch Logs makes metrics of; nothing is called.

    They stand under the dimension Secret, the secret's name, and under Function, for alarms about all of its secrets;
    with a `code` under Secret and Code as well. The step is only in the line, since each further dimension is paid for.
    Like a line of the log that cannot be written, a failure here fails nothing.
    """
    name = re.sub(r"^arn:.*:secret:(.+?)(-[^-]{6})?$", r"\1", secret_id)
    with suppress(Exception):
        line = AmazonCloudWatchEMFProvider(namespace=NAMESPACE, service="")  # POWERTOOLS_SERVICE_NAME would add one
        line.add_dimension("Secret", name)
        line.add_dimensions(Function=function)
        if code:
            line.add_dimensions(Secret=name, Code=code)
        line.add_metadata("step", step)
        for metric, value in values.items():
            line.add_metric(metric, UNITS[metric], value)
        line.flush_metrics()
