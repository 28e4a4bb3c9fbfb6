"""An AWS Lambda function that rotates PostgreSQL credentials held in AWS Secrets Manager."""

__version__ = "0.1.0"
