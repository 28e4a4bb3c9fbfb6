# The rotation function from its packaged template, and a secret that it rotates. First, in this repository:
#   make package BUCKET=my-bucket PREFIX=rotation/

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.33" # the first with rotate_immediately
    }
  }
}

variable "bucket" {
  description = "The bucket that `make package` was told"
  type        = string
}

variable "prefix" {
  description = "The prefix that `make package` was told, such as rotation/"
  type        = string
  default     = ""
}

variable "architecture" {
  description = "x86_64 or arm64"
  type        = string
  default     = "x86_64"
}

variable "alarm_email" {
  description = "Who is told when a rotation or a preflight fails"
  type        = string
}

variable "login" {
  description = "The secret's JSON: host, username, password (docs/secret-format.md). A rotation changes it afterwards"
  type        = map(string)
  sensitive   = true
}

locals {
  package = "${path.module}/../../build/package"
  zip     = one(fileset(local.package, "*-${var.architecture}-*.zip"))
}

# The name of the zip changes with its content, and with it the template: a new version is deployed as a change of both.
resource "aws_s3_object" "code" {
  bucket = var.bucket
  key    = "${var.prefix}${local.zip}"
  source = "${local.package}/${local.zip}"
}

resource "aws_cloudformation_stack" "rotation" {
  name          = "secret-rotation"
  template_body = file("${local.package}/template-${var.architecture}.yaml")
  capabilities  = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"] # AUTO_EXPAND: the template is a SAM template
  depends_on    = [aws_s3_object.code]

  parameters = {
    SecretNamePrefix = "prod/"
    AlarmEmail       = var.alarm_email
  }
}

resource "aws_secretsmanager_secret" "orders" {
  name = "prod/shop/orders"
}

resource "aws_secretsmanager_secret_version" "orders" {
  secret_id     = aws_secretsmanager_secret.orders.id
  secret_string = jsonencode(var.login)

  lifecycle {
    ignore_changes = [secret_string, version_stages] # the rotation changes both
  }
}

# rotate_immediately = false: applying this tests the login, and the first rotation is the scheduled one.
resource "aws_secretsmanager_secret_rotation" "orders" {
  secret_id           = aws_secretsmanager_secret_version.orders.secret_id
  rotation_lambda_arn = aws_cloudformation_stack.rotation.outputs["FunctionArn"]
  rotate_immediately  = false

  rotation_rules {
    schedule_expression = "cron(0 3 1 * ? *)"
    duration            = "2h"
  }
}

output "log_group" {
  description = "Where the result of the login test is"
  value       = aws_cloudformation_stack.rotation.outputs["LogGroupName"]
}
