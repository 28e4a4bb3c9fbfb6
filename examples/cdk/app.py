"""The rotation function from its packaged template, and a secret that it rotates (`make package BUCKET=cdk` before)."""

from __future__ import annotations

import json
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_s3_assets as assets
from aws_cdk import aws_sam as sam
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import cloudformation_include as include

PACKAGE = Path(__file__).resolve().parents[2] / "build" / "package"
ARCHITECTURE = "x86_64"


class Rotation(cdk.Stack):
    """The function for all secrets under prod/, and one of them, which is attached without being rotated at once."""

    def __init__(self, scope: cdk.App, name: str, *, alarm_email: str) -> None:
        super().__init__(scope, name)
        template = include.CfnInclude(
            self,
            "Template",
            template_file=str(PACKAGE / f"template-{ARCHITECTURE}.yaml"),
            parameters={"SecretNamePrefix": "prod/", "AlarmEmail": alarm_email},
        )
        function = template.get_resource("RotationFunction")
        assert isinstance(function, sam.CfnFunction)
        # The CDK uploads the zip itself, whichever bucket `make package` was told.
        [file] = PACKAGE.glob(f"*-{ARCHITECTURE}-*.zip")
        code = assets.Asset(self, "Code", path=str(file))
        function.code_uri = sam.CfnFunction.S3LocationProperty(bucket=code.s3_bucket_name, key=code.s3_object_key)

        # Give this password to the user in the database before the deployment tests the login.
        secret = secretsmanager.Secret(
            self,
            "Orders",
            secret_name="prod/shop/orders",
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template=json.dumps({"host": "db.example.com", "username": "orders"}),
                generate_string_key="password",
                exclude_punctuation=True,
            ),
        )
        schedule = secretsmanager.CfnRotationSchedule(
            self,
            "OrdersRotation",
            secret_id=secret.secret_arn,
            rotation_lambda_arn=function.get_att("Arn").to_string(),
            rotate_immediately_on_update=False,  # deploying tests the login; the schedule rotates
            rotation_rules=secretsmanager.CfnRotationSchedule.RotationRulesProperty(
                schedule_expression="cron(0 3 1 * ? *)", duration="2h"
            ),
        )
        schedule.node.add_dependency(template.get_resource("SecretsManagerMayInvoke"))
        cdk.CfnOutput(self, "LogGroup", value=template.get_resource("LogGroup").ref)


if __name__ == "__main__":
    app = cdk.App()
    Rotation(app, "SecretRotation", alarm_email=app.node.get_context("alarm_email"))
    app.synth()
