"""The wing that talks to PostgreSQL: logins and sessions, and nothing of what the rest of the house decides."""

from rotation_lambda.postgres.answers import name_login
from rotation_lambda.postgres.login import Postgres
from rotation_lambda.postgres.roles import quote_name
from rotation_lambda.postgres.session import Session
from rotation_lambda.postgres.survey import Survey

__all__ = ["Postgres", "Session", "Survey", "name_login", "quote_name"]
