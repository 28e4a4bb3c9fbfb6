"""The deployer's policy in docs/iam.md is what CloudFormation needs for the template's resources, and no more."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from samcli.lib.bootstrap.companion_stack.data_types import CompanionStack

from tests.deployment.cloudformation import as_written
from tests.worlds.pages import PAGES

TEMPLATE = as_written()
POLICY = json.loads(PAGES["docs/iam.md"].split("<!-- deployer -->")[1].partition("```json\n")[2].partition("```")[0])

DOCUMENTED: dict[str, str] = {
    # From the handlers of the resource schemas that CloudFormation publishes (create, read, update, delete).
    "AWS::SecretsManager::Secret": """secretsmanager: CreateSecret DeleteSecret DescribeSecret GetRandomPassword
        GetSecretValue RemoveRegionsFromReplication ReplicateSecretToRegions TagResource UntagResource UpdateSecret""",
    "AWS::Serverless::Function": """lambda: CreateFunction DeleteFunction DeleteFunctionCodeSigningConfig
        DeleteFunctionConcurrency GetCodeSigningConfig GetFunction GetFunctionCodeSigningConfig
        GetFunctionRecursionConfig GetFunctionScalingConfig GetLayerVersion GetRuntimeManagementConfig
        PassCapacityProvider PublishVersion PutFunctionCodeSigningConfig PutFunctionConcurrency
        PutFunctionRecursionConfig PutFunctionScalingConfig PutRuntimeManagementConfig TagResource UntagResource
        UpdateFunctionCode UpdateFunctionConfiguration
        iam: PassRole s3: GetObject GetObjectVersion kms: CreateGrant Decrypt Encrypt GenerateDataKey
        ec2: DescribeNetworkInterfaces DescribeSecurityGroups DescribeSubnets DescribeVpcs
        elasticfilesystem: DescribeMountTargets""",
    "AWS::IAM::Role": """iam: AttachRolePolicy CreateRole DeleteRole DeleteRolePermissionsBoundary DeleteRolePolicy
        DetachRolePolicy GetRole GetRolePolicy ListAttachedRolePolicies ListRolePolicies PutRolePermissionsBoundary
        PutRolePolicy TagRole UntagRole UpdateAssumeRolePolicy UpdateRole UpdateRoleDescription""",
    "AWS::Logs::LogGroup": """logs: AssociateKmsKey CreateLogDelivery CreateLogGroup DeleteDataProtectionPolicy
        DeleteLogGroup DeleteRetentionPolicy DescribeLogGroups DescribeResourcePolicies DisassociateKmsKey
        GetDataProtectionPolicy ListTagsLogGroup PutDataProtectionPolicy PutResourcePolicy PutRetentionPolicy
        TagLogGroup UntagLogGroup""",
    "AWS::EC2::VPCEndpoint": "ec2: CreateVpcEndpoint DeleteVpcEndpoints DescribeVpcEndpoints ModifyVpcEndpoint",
    "AWS::SNS::Topic": """sns: CreateTopic DeleteTopic GetDataProtectionPolicy GetTopicAttributes
        ListSubscriptionsByTopic ListTagsForResource PutDataProtectionPolicy SetTopicAttributes Subscribe TagResource
        Unsubscribe UntagResource""",
    "AWS::SNS::TopicPolicy": "sns: SetTopicAttributes",
    "AWS::CloudWatch::Dashboard": """cloudwatch: DeleteDashboards GetDashboard ListTagsForResource PutDashboard
        TagResource UntagResource""",
    # Whose schemas were not at hand: the calls of the service's API that do the same.
    "AWS::Lambda::Permission": "lambda: AddPermission GetPolicy RemovePermission",
    "AWS::SecretsManager::RotationSchedule": """secretsmanager: CancelRotateSecret DescribeSecret RotateSecret
        lambda: InvokeFunction""",  # RotateSecret asks it of its caller
    "AWS::Events::Rule": """events: DeleteRule DescribeRule ListTargetsByRule PutRule PutTargets RemoveTargets
        TagResource UntagResource""",
    "AWS::IAM::ManagedPolicy": """iam: CreatePolicy CreatePolicyVersion DeletePolicy DeletePolicyVersion GetPolicy
        GetPolicyVersion ListPolicyVersions TagPolicy""",
    "AWS::EC2::SecurityGroup": """ec2: AuthorizeSecurityGroupEgress AuthorizeSecurityGroupIngress CreateSecurityGroup
        CreateTags DeleteSecurityGroup DeleteTags DescribeSecurityGroups RevokeSecurityGroupEgress
        RevokeSecurityGroupIngress""",
    "AWS::CloudWatch::Alarm": """cloudwatch: DeleteAlarms DescribeAlarms ListTagsForResource PutMetricAlarm
        TagResource UntagResource""",
}

UNUSED = {
    # Properties that the template does not set.
    "AttachRolePolicy DetachRolePolicy": "the role's policies are inline",
    "CreateGrant Encrypt": "the environment has no key",
    "CreateLogDelivery DescribeResourcePolicies PutResourcePolicy": "no log delivery",
    "DeleteDataProtectionPolicy GetDataProtectionPolicy PutDataProtectionPolicy": "no data protection policy",
    "DeleteFunctionConcurrency PutFunctionConcurrency": "no reserved concurrency",
    "DeleteRetentionPolicy": "a retention is always set",
    "DeleteSecret": "a secret outlives the stack",
    "DescribeMountTargets": "no file system",
    "GetObjectVersion": "SAM names no version of an object",
    "PassCapacityProvider PutFunctionScalingConfig": "no capacity provider",
    "PublishVersion": "no version",
    "PutFunctionRecursionConfig PutRuntimeManagementConfig": "left as AWS has them",
    "RemoveRegionsFromReplication ReplicateSecretToRegions": "the template replicates nothing",
}

SAM = """cloudformation: CreateChangeSet DeleteChangeSet DeleteStack DescribeChangeSet DescribeStackEvents
    DescribeStacks ExecuteChangeSet GetTemplate GetTemplateSummary ListStackResources
    s3: CreateBucket DeleteObject GetBucketLocation GetBucketPolicy ListBucket PutBucketPolicy PutBucketTagging
    PutBucketPublicAccessBlock PutBucketVersioning PutEncryptionConfiguration PutObject
    lambda: GetFunctionConfiguration logs: ListTagsForResource TagResource UntagResource"""
"""What SAM calls itself: for the stack, for the bucket of the code; and the newer names of tagging."""


def actions(text: str) -> set[str]:
    """Read `service: Action Action other: Action`."""
    found, service = set(), ""
    for word in text.split():
        if word.endswith(":"):
            service = word
        else:
            found.add(service + word)
    return found


def granted() -> set[str]:
    def listed(value: Any) -> list[str]:  # noqa: ANN401 - JSON
        return value if isinstance(value, list) else [value]

    return {action for statement in POLICY["Statement"] for action in listed(statement["Action"])}


def needed(kind: str) -> set[str]:
    unused = {name for names in UNUSED for name in names.split()}
    return {action for action in actions(DOCUMENTED[kind]) if action.partition(":")[2] not in unused}


def test_knows_every_type_of_resource() -> None:
    assert {body["Type"] for body in TEMPLATE["Resources"].values()} == DOCUMENTED.keys()


@pytest.mark.parametrize("kind", DOCUMENTED)
def test_is_enough_for(kind: str) -> None:
    assert needed(kind) - granted() == set()


def test_is_no_more_than_that() -> None:
    assert granted() - actions(SAM) - set().union(*map(needed, DOCUMENTED)) == set()
    assert not [action for action in granted() if "*" in action]


def allows(action: str, resource: str) -> bool:
    return any(
        action in statement["Action"] and any(fnmatchcase(resource, one) for one in statement["Resource"])
        for statement in POLICY["Statement"]
        if isinstance(statement["Resource"], list)
    )


def test_lets_sam_delete_the_stack() -> None:
    """Which asks for a stack of images beside it first, and deletes the code from its bucket before the stack."""
    for name in ("secret-rotation", CompanionStack("secret-rotation").stack_name):
        assert allows("cloudformation:DescribeStacks", f"arn:aws:cloudformation:REGION:ACCOUNT:stack/{name}/*")
    assert not allows("cloudformation:DescribeStacks", "arn:aws:cloudformation:REGION:ACCOUNT:stack/another/*")
    assert "s3:DeleteObject" in granted()


def test_names_what_it_is_limited_to() -> None:
    """What has no ARN of its own, or none that is known before, is the exception."""
    free = {statement["Sid"] for statement in POLICY["Statement"] if statement["Resource"] == "*"}
    assert free == {"LayerAndSigning", "Logs", "OnlyForAVpc", "Password"}
    [passed] = [statement for statement in POLICY["Statement"] if statement["Action"] == "iam:PassRole"]
    assert passed["Condition"] == {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}
