"""CloudFormation's part, as far as template.yaml goes: SAM's transform, parameters, rules, conditions and functions."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
from samcli.yamlhelper import yaml_parse

from tests import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REGION, ACCOUNT = "us-east-1", "123456789012"
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/shop/orders-a1B2c3"
TWO_ANSWERS = {"SecretArn": SECRET, "AlarmEmail": "dba@example.com"}
PARTITIONS = {
    "aws": (REGION, "amazonaws.com"),
    "aws-cn": ("cn-north-1", "amazonaws.com.cn"),
    "aws-us-gov": ("us-gov-west-1", "amazonaws.com"),
}
_NO_VALUE = object()
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Fn::And": all,
    "Fn::Contains": lambda given: given[1] in given[0],
    "Fn::Equals": lambda given: given[0] == given[1],
    "Fn::Join": lambda given: given[0].join(given[1]),
    "Fn::Not": lambda given: not given[0],
    "Fn::Or": any,
    "Fn::Select": lambda given: given[1][int(given[0])],
    "Fn::Split": lambda given: given[1].split(given[0]),
}


class RefusedError(Exception):
    """CloudFormation would not begin: a parameter or a rule says no."""


@dataclass(frozen=True, slots=True)
class Stack:
    """What CloudFormation would make of the template: resources with their properties resolved, and outputs."""

    parameters: Mapping[str, str]
    resources: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def properties(self, name: str) -> Any:  # noqa: ANN401 - JSON
        return self.resources[name].get("Properties", {})

    def statements(self, policy: str | None = None) -> list[dict[str, Any]]:
        """Return the statements of the role's policies, or of one of them."""
        policies = self.properties("Role")["Policies"]
        return [
            statement
            for one in policies
            if policy in {None, one["PolicyName"]}
            for statement in one["PolicyDocument"]["Statement"]
        ]


def as_written() -> dict[str, Any]:
    """Return template.yaml, its functions in their long form."""
    return copy.deepcopy(_once_parsed())


@cache
def _once_parsed() -> dict[str, Any]:
    template: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
    return template


def transformed(answers: Mapping[str, str]) -> dict[str, Any]:
    """Return the template as SAM's transform leaves it, given the parameters as CloudFormation would hand them over."""
    from samtranslator.parser.parser import Parser  # noqa: PLC0415 - it takes seconds, of every run of any test
    from samtranslator.translator.translator import Translator  # noqa: PLC0415

    template = as_written()
    template["Resources"]["RotationFunction"]["Properties"]["CodeUri"] = "s3://bucket/key"
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=REGION))
    done: dict[str, Any] = translator.translate(template, dict(answers))
    translator.metrics.publish()
    return done


@cache
def _once_transformed() -> dict[str, Any]:
    """Return that once for all: the answers do not change it, as test_template.py proves."""
    return transformed(TWO_ANSWERS)


def deploy(answers: Mapping[str, str] = TWO_ANSWERS, partition: str = "aws") -> Stack:
    """Return the stack that the answers make; RefusedError names the parameter, or says what a rule says.

    To refer to a resource whose condition is false is a KeyError, as it would fail in CloudFormation.
    """
    template = _once_transformed()
    region, suffix = PARTITIONS[partition]
    pseudo = {
        "AWS::AccountId": ACCOUNT,
        "AWS::NoValue": _NO_VALUE,
        "AWS::Partition": partition,
        "AWS::Region": region,
        "AWS::StackName": "stack",
        "AWS::URLSuffix": suffix,
    }
    parameters = _parameters(template["Parameters"], answers)
    _check_rules(template["Rules"], _Resolver({**pseudo, **parameters}, {}, {}))
    resolver = _Resolver({**pseudo, **parameters}, template["Conditions"], template["Mappings"])
    there = frozenset(name for name, body in template["Resources"].items() if resolver.holds(body))
    resolver = replace(resolver, there=there)
    outputs = {name: body for name, body in template["Outputs"].items() if resolver.holds(body)}
    return Stack(
        parameters,
        {name: resolver.resolve(template["Resources"][name]) for name in sorted(there)},
        {name: resolver.resolve(body)["Value"] for name, body in outputs.items()},
    )


def _parameters(declared: Mapping[str, Any], answers: Mapping[str, str]) -> dict[str, str]:
    if unknown := answers.keys() - declared.keys():
        raise RefusedError(f"no such parameter: {', '.join(unknown)}")
    values = {name: str(answers.get(name, body["Default"])) for name, body in declared.items()}
    for name, value in values.items():
        body = declared[name]
        fits = re.fullmatch(body.get("AllowedPattern", "(?s:.*)"), value, re.ASCII) is not None
        fits &= value in {str(allowed) for allowed in body.get("AllowedValues", [value])}
        if body["Type"] == "Number":
            number = int(value) if re.fullmatch(r"\d+", value) else -1
            fits &= int(body.get("MinValue", number)) <= number <= int(body.get("MaxValue", number))
        if not fits:
            raise RefusedError(name)
    return values


def _check_rules(rules: Mapping[str, Any], resolver: _Resolver) -> None:
    for rule in rules.values():
        if resolver.resolve(rule.get("RuleCondition", True)):
            for assertion in rule["Assertions"]:
                if not resolver.resolve(assertion["Assert"]):
                    raise RefusedError(assertion["AssertDescription"])


@dataclass(frozen=True, slots=True)
class _Resolver:
    values: Mapping[str, Any]
    conditions: Mapping[str, Any]
    mappings: Mapping[str, Any]
    there: frozenset[str] = frozenset()

    def holds(self, body: Mapping[str, Any]) -> bool:
        """Tell whether a resource or an output is made."""
        return "Condition" not in body or self.resolve({"Condition": body["Condition"]})

    def resolve(self, node: Any) -> Any:  # noqa: ANN401, C901, PLR0911 - JSON, and a kind of node each
        match node:
            case {"Ref": name}:
                return self._value(name)
            case {"Condition": str(name), **rest} if not rest:
                return self.resolve(self.conditions[name])
            case {"Fn::GetAtt": [name, attribute]}:
                return f"{self._value(name)}.{attribute}"
            case {"Fn::Sub": [text, named]}:
                resolver = replace(self, values={**self.values, **self.resolve(named)})
                return resolver.resolve({"Fn::Sub": text})
            case {"Fn::Sub": text}:
                filled = re.sub(r"\$\{([\w:]+)\}", lambda found: str(self._value(found[1])), text)
                return filled.replace("${!", "${")
            case {"Fn::FindInMap": [name, first, second]}:
                return self.mappings[name][first][second]
            case {"Fn::If": [name, yes, no]}:
                return self.resolve(yes if self.resolve({"Condition": name}) else no)
            case dict() if len(node) == 1 and (function := next(iter(node))).startswith("Fn::"):
                return _FUNCTIONS[function](self.resolve(node[function]))
            case dict():
                # A resource's condition is a name and done with; a policy statement's is a part of it.
                parts = {key: value for key, value in node.items() if key != "Condition" or isinstance(value, dict)}
                resolved = {key: self.resolve(value) for key, value in parts.items()}
                return {key: value for key, value in resolved.items() if value is not _NO_VALUE}
            case list():
                return [value for value in map(self.resolve, node) if value is not _NO_VALUE]
            case _:
                return node

    def _value(self, name: str) -> Any:  # noqa: ANN401 - JSON
        if name in self.values:
            return self.values[name]
        if name not in self.there:
            raise KeyError(f"{name} is not made with these answers")
        return f"<{name}>"


def references(node: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    """Yield every name that a part of the template refers to: a parameter, a resource, a condition."""
    if isinstance(node, list):
        for value in node:
            yield from references(value)
    if isinstance(node, dict):
        for key, value in node.items():
            match key, value:
                case (("Ref" | "Condition" | "DependsOn"), str(name)):
                    yield name
                case (("Fn::GetAtt" | "Fn::If"), [str(name), *_]):
                    yield name
                case "Fn::Sub", ([str(text), *_] | str(text)):
                    yield from re.findall(r"\$\{([\w:]+)", text)
                case _:
                    pass
            yield from references(value)
