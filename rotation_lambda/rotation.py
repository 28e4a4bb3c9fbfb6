"""One rotation, whatever its strategy: the version it leads to, the outside world, and what all strategies do alike."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import ClassVar, NamedTuple, Protocol, TypeVar

from rotation_lambda import errors
from rotation_lambda.credential import Credential, SslMode
from rotation_lambda.deadline import BEFORE_CHANGE_S, HOLD_S, MOST_WAIT_S, RESERVE_S, Deadline
from rotation_lambda.settings import PasswordPolicy, Strategy
from rotation_lambda.staging import SecretVersions, StagingLabel
from rotation_lambda.trust import Trust

logger = logging.getLogger(__name__)

MOST_ORPHANS = 5
"""How many retained versions are tried: few enough for a server that locks a role out after some refusals."""

CHANGED_MEANWHILE = "40001"  # serialization_failure, PostgreSQL's word for the like
# … tuple concurrently updated, deadlock, role made meanwhile and before
_TWIN = {CHANGED_MEANWHILE, "XX000", "40P01", "23505", "42710"}


_Result = TypeVar("_Result")


class Secrets(Protocol):
    """What a rotation needs of Secrets Manager, for one secret."""

    def describe_secret(self) -> SecretVersions: ...
    def get_secret_value(self, version: str) -> str: ...
    def get_random_password(self, policy: PasswordPolicy) -> str: ...
    def put_secret_value(self, version: str, value: str, rotation_token: str | None) -> bool: ...
    def update_secret_version_stage(self, label: StagingLabel, *, move_to: str, remove_from: str) -> None: ...
    def list_secret_version_ids(self) -> list[str]: ...


class Session(AbstractContextManager["Session"], Protocol):
    """What a rotation needs of a session in the database."""

    @property
    def credential(self) -> Credential: ...
    @property
    def runs_as(self) -> str: ...
    @property
    def in_recovery(self) -> bool: ...
    def close(self) -> None: ...
    def check_identity(self) -> list[str]: ...
    def hold_role(self, login: Credential) -> None: ...
    def is_alive(self) -> bool: ...
    def change_password(
        self, pending: Credential, confirm: Callable[[], None] = ..., trust: Trust | None = None
    ) -> list[str]: ...


class Database(Protocol):
    """What a rotation needs of the database: a session, LoginRefusedError, or an error that stops the step."""

    def log_in(self, credential: Credential, *, scram_only: bool = False, reserve: float = 0.0) -> Session: ...
    def sslmode_of(self, credential: Credential) -> SslMode: ...


class Superusers(Protocol):
    """Finds the credential of the superuser that a secret names, once it is shown to be of the same database."""

    @property
    def pinned(self) -> bool: ...
    def of(self, current: Credential) -> Credential: ...


class Proof(NamedTuple):
    """When setSecret of this process proved a version by a login, and AWSCURRENT's version then.

    `changed` is when the database took the password; None where an earlier try had changed it. Both are seconds on the
    deadline's clock.
    """

    at: float
    current: str
    changed: float | None


PROOF_S = 300.0
"""How long a proof is good for; the four steps follow each other within seconds."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation to the version `token`; `versions` are the labels as the step found them.

    `memory` has what was proved of this secret's version, for as long as the process lives and no event names another
    version. `measure` is told the metrics that only a rotation knows.
    """

    token: str
    versions: SecretVersions
    secrets: Secrets
    database: Database
    deadline: Deadline
    superusers: Superusers
    choice: Strategy
    memory: dict[str, Proof] = field(default_factory=dict)
    measure: Callable[[str, float], None] = lambda *_: None

    old_one_works: ClassVar[bool] = False
    """Whether AWSCURRENT logs in until its label moves, so that no application waits for it."""

    by_superuser: ClassVar[bool] = False
    """Whether a superuser changes the password, who can hold the row of a user that may not do so itself."""

    @staticmethod
    def next_user(current: Credential) -> str:
        """Return the user of the next credential."""
        return current.username

    def check_pending(self, current: Credential, pending: Credential) -> None:
        """Return when AWSPENDING is what createSecret makes of AWSCURRENT; otherwise raise CredentialMismatchError."""
        user = self.next_user(current)
        if pending.username != user and pending.username in {current.username, *current.pair}:
            raise errors.CredentialMismatchError(
                f"AWSPENDING (version {self.token}) is for {pending.username!a} and was made under another strategy "
                f"(ROTATION_STRATEGY, or `masterarn`) than today's, whose next user is {user!a}."
            )
        pending.check_same_login(current.with_password(pending.password, user), self.token)

    def prove(self, credential: Credential, reserve: float = RESERVE_S) -> Session | None:
        """Return an open session, or None where the password is right and the login rejected; raise LoginRefusedError.

        A rejected login, as by a reached connection limit, is no refusal: it is the password that rotates. What gives
        no answer is waited for until the reserve.
        """
        return self.deadline.wait_for(lambda: self._prove_once(credential, reserve), reserve)

    def _prove_once(self, credential: Credential, reserve: float) -> Session | None:
        try:
            return self.database.log_in(credential, scram_only=credential.label not in {*StagingLabel}, reserve=reserve)
        except errors.LoginNotAllowedError as error:
            logger.warning("The password of %s is accepted, but: %s %s", credential.label, error.what, error.hint)
            return None
        except errors.LoginRefusedError as error:
            self.memory.clear()
            raise errors.LoginRefusedError(f"{credential.label}, version {credential.version}: {error.what}") from None

    def promote(self, pending: Credential) -> None:
        """Move AWSCURRENT to AWSPENDING's version once a login has proved it, while no other can change the role.

        Lock, prove, move: a change of the password in between waits for the row that we hold, and looks at the labels
        before it commits. Where the row cannot be had, AWSCURRENT moves all the same, since holding the row is open to
        strangers, and a login afterwards tells whether it was right; so does one where the row was lost meanwhile.

        A refusal stops it, and a host that DNS does not know. No answer is waited for until the reserve; where the old
        password has not worked since setSecret, AWSCURRENT moves then with a warning, if setSecret of this very process
        had the proof, and none was refused since: waiting helps no application, and a version that was never set is
        never promoted.
        """
        self._check_unedited(pending)
        session, there = None, pending
        with ExitStack() as held:
            try:
                if session := self._hold(pending):
                    held.enter_context(session)
                    self._check_in_force(there := on_server_of(session.credential, pending))
            except errors.DatabaseError as error:
                is_known = not error.unknown or isinstance(error, errors.HostNotFoundError)
                if is_known or self.old_one_works or not self._was_proved():
                    self.memory.clear()
                    raise
                logger.warning("AWSCURRENT moves although the last login got no answer: %s", error.what)
                session = None
            self._move(look=session is None or self.old_one_works)
            moved, is_held = self.deadline.clock(), session is not None and session.is_alive()
        proof, told = self.memory.pop(self.token, None), ""
        if not is_held:
            logger.info("AWSCURRENT has moved without the role's row, and is verified afterwards.")
            self._look_back(there, max(RESERVE_S, self.deadline.left() - MOST_WAIT_S))
        if proof and proof.changed is not None and not self.old_one_works:
            window = 1000 * (moved - proof.changed)
            self.measure("OutageWindow", window)
            told = f" New logins with the old password were refused for {window:.0f} ms."
        logger.info("Moved AWSCURRENT to the version.%s", told)

    def _check_unedited(self, pending: Credential) -> None:
        """Return when AWSPENDING is still what createSecret would make of AWSCURRENT: no other login was stored.

        Where setSecret of this process has compared them, and AWSCURRENT is the same version still, that is known.
        """
        if self._was_proved():
            return
        current = read_credential(self.secrets, self.versions.current, StagingLabel.CURRENT)
        try:
            self.check_pending(current, pending)
        except errors.CredentialMismatchError as error:
            doubt = self._disproof(current)
            if isinstance(doubt, errors.LoginRefusedError):
                error.critical = True
                error.what += (
                    f" AWSCURRENT does not log in: {doubt.what} Store it again with the password of AWSPENDING "
                    f"(version {self.token}), which the database may have."
                )
            elif doubt:
                error.what += f" Whether AWSCURRENT logs in is not known: {doubt.what}"
            raise
        if lost := ", ".join(f"`{key}`" for key in current.other_keys_differing(pending)):
            told = "AWSCURRENT (version %s) was stored after createSecret: its %s will not be in the new version."
            logger.warning(told, current.version, lost)

    def _was_proved(self) -> bool:
        """Tell whether setSecret of this process has proved the version not long ago, with AWSCURRENT where it is."""
        proof = self.memory.get(self.token)
        return bool(proof and proof.current == self.versions.current and self.deadline.clock() - proof.at <= PROOF_S)

    def _remember(self, changed: float | None) -> None:
        """Keep for finishSecret that a login has proved AWSPENDING just now."""
        self.memory[self.token] = Proof(self.deadline.clock(), self.versions.current, changed)

    def _hold(self, pending: Credential) -> Session | None:
        """Return a session that holds the row of AWSPENDING's user, which has logged in; None where it cannot be had.

        An honest change holds it for HOLD_S at most, which is waited for; so is a new primary, whose password may be
        another one, also where the session was lost. Raises LoginRefusedError, and what no answer ends in.
        """

        def hold() -> Session | None:
            session = self.prove(pending)
            try:
                return self._take_row(session, pending)
            except errors.RotationError as error:
                if getattr(error, "unknown", False):  # whether the proof still holds, a fresh one tells
                    raise errors.RoleLockedError(error.what, hint=error.hint) from None
                if isinstance(error, errors.DatabaseError) and may_pass(error):
                    raise
                logger.info("The role's row cannot be held: %s", error.what)
            return None

        try:
            return self.deadline.wait_for(hold, RESERVE_S, passes=may_pass, at_most=HOLD_S)
        except (errors.DatabaseReadOnlyError, errors.PasswordChangeError, errors.RoleLockedError) as error:
            if error.lost:  # what let AWSPENDING in may be gone
                self._check_in_force(pending)
        return None

    def _take_row(self, session: Session | None, pending: Credential) -> Session | None:
        """Return the session, or its superuser's where it may not, with the row; a session without it is closed."""
        if session:
            try:
                return _with_row(session, pending)
            except errors.DatabaseError as error:
                if is_anothers(error) or not self.by_superuser:
                    raise
        if not self.by_superuser:
            return None
        superuser = self.superusers.of(pending)
        return _with_row(self.database.log_in(superuser, scram_only=True, reserve=RESERVE_S), pending)

    def _log_in(self, login: Credential, reserve: float = BEFORE_CHANGE_S) -> Session:
        """Log in, and wait for an answer until the reserve; only a labelled version's password is offered by md5."""
        scram_only = login.label not in set(StagingLabel)
        ask = partial(self.database.log_in, login, scram_only=scram_only, reserve=reserve)
        return self.deadline.wait_for(ask, reserve)

    def _find_way(
        self, login: Credential, *known: Credential
    ) -> tuple[Credential, Session | errors.LoginNotAllowedError]:
        """Return the login with the password that the database accepts, and a session, or why its door stays shut.

        Only a refused password leads to the next one. Whatever else comes is raised, and nothing was changed.
        """
        refused, skipped = [], 0
        for credential in self._ways_in(login, *known):
            if credential is None:
                skipped += 1
                continue
            orphan = credential.label not in set(StagingLabel)
            door: Session | errors.LoginNotAllowedError
            try:
                door = self._log_in(credential)
            except errors.LoginRefusedError:
                refused.append(credential.label)
                continue
            except errors.LoginNotAllowedError as error:
                door = error
            except errors.AuthenticationMethodError:
                if not orphan:
                    raise
                skipped += 1
                continue
            if orphan:
                logger.warning("%s, which has no staging label, had the password that is in force.", credential.label)
                self.measure("Recovered", 1)
            return credential, door
        unread = f" {skipped} retained versions could not be tried." if skipped else ""
        what = f"Role {login.username!a}: the database refused the password of each of {', '.join(refused)}.{unread}"
        raise errors.LoginRefusedError(what)

    def _ways_in(self, login: Credential, *known: Credential) -> Iterator[Credential | None]:
        """Yield what may let the login's user in, after what is `known` the likeliest first.

        A crashed or cancelled rotation can leave the password that is in force in a version without a label; Secrets
        Manager keeps those for a while. Of another version only the password is borrowed, and only of the same user's:
        where to connect, and as whom, is AWSCURRENT's to say. To another server than that version's own it does not go,
        nor with weaker TLS, but to a listed superuser's: who stored AWSCURRENT may own that server, and pass the login
        on to the right one. None stands for a version that cannot be read, or does not go there.
        """
        yield from known
        passwords = {credential.password for credential in known}
        orphans = 0
        for version, label in self._other_versions({credential.label for credential in known}):
            try:
                other = read_credential(self.secrets, version, label)
            except errors.RotationError as error:
                logger.warning("%s is passed over: %s", label, error.what)
                yield None
                continue
            if other.username == login.username and other.password not in passwords:
                is_listed = login.label != StagingLabel.CURRENT and self.superusers.pinned
                if not is_listed and not as_sure_as(self.database, login, other):
                    logger.warning("%s is passed over: it is for another server, or for stricter TLS.", label)
                    yield None
                    continue
                passwords.add(other.password)
                yield replace(login, password=other.password, label=label, version=version)
                orphans += label not in set(StagingLabel)
                if orphans == MOST_ORPHANS:
                    return

    def _other_versions(self, known: set[str]) -> Iterator[tuple[str, str]]:
        """Yield versions by id, and what they are called: AWSPREVIOUS, AWSPENDING, those that have lost their label."""
        labelled = {self.versions.with_label(label): label for label in (StagingLabel.PREVIOUS, StagingLabel.PENDING)}
        yield from ((version, label) for version, label in labelled.items() if version and label not in known)
        try:
            retained = self.secrets.list_secret_version_ids()
        except errors.RotationError as error:
            logger.warning("Versions without a label are passed over: %s", error)
            return
        yield from ((one, f"Version {one}") for one in retained if one not in {self.versions.current, *labelled})

    def _trust(self, current: Credential, is_accepted: Callable[[str], bool], session: Session | None = None) -> Trust:
        """Return what speaks for the secret beside its value; a password is tried only where the tag does not do.

        What it came to counts for the whole step: for a put-back, when that password is no longer in force, and for the
        next try, after logins that took longer than the row may be held.
        """
        runs_as = session.runs_as if session else None
        pinned = self.superusers.pinned
        return Trust(current, cache(lambda user: user in self.versions.users or is_accepted(user)), runs_as, pinned)

    def _check_in_force(self, login: Credential) -> None:
        """Return when a fresh login is accepted, be it before a shut door: its first session may be all it may have."""
        with suppress(errors.LoginNotAllowedError):
            self._log_in(login, RESERVE_S).close()

    def _move(self, *, look: bool) -> None:
        """Move AWSCURRENT, after a look at the labels where no row is held, or where the old password works."""
        before = self.versions.current
        try:
            if look:
                self._check_labels()
            self.secrets.update_secret_version_stage(StagingLabel.CURRENT, move_to=self.token, remove_from=before)
        except errors.VersionNotPendingError:
            if not self.secrets.describe_secret().is_current(self.token):  # a twin of this step was faster
                raise

    def _look_back(self, pending: Credential, reserve: float) -> None:
        """Return when AWSCURRENT still logs in after its move; otherwise move it back to the version that does.

        A standby's yes does not count: it may be behind, or have been the primary. It is waited for until the reserve.
        With alternating users that of the former version does: the password of the user in use has not changed.
        """
        doubt = refusal = self._disproof(replace(pending, label=StagingLabel.CURRENT), 0.0, standby=False)
        if isinstance(refusal, errors.LoginRefusedError):
            former = read_credential(self.secrets, self.versions.current, StagingLabel.PREVIOUS)
            doubt = self._disproof(on_server_of(pending, former), 0.0, standby=self.old_one_works)
        if isinstance(doubt, errors.DatabaseReadOnlyError) and self.deadline.pause(2.0, reserve):
            return self._look_back(pending, reserve)
        if not isinstance(refusal, errors.LoginRefusedError):
            told = "AWSCURRENT has moved. Whether it logs in is not known: %s"
            return logger.warning(told, refusal.what) if refusal else None
        before, moved = self.versions.current, f"AWSCURRENT has moved to version {self.token}, and then: {refusal.what}"
        if doubt:
            what = f"{moved} Nor is it certain that the former AWSCURRENT (version {before}) logs in: {doubt.what}"
            raise errors.UnprovenPasswordError(what)
        try:
            self.secrets.update_secret_version_stage(StagingLabel.CURRENT, move_to=before, remove_from=self.token)
        except errors.RotationError as error:
            what = f"{moved} Nor could it be moved back to version {before}, which logs in: {error.what}"
            raise errors.UnprovenPasswordError(what) from None
        what = f"{refusal.what} AWSCURRENT has been moved back to version {before}, which logs in."
        hint = "Wait: Secrets Manager retries. Another rotation, or a failover, has undone the change of the password."
        raise errors.VerificationFailedError(what, hint=hint)

    def _start_over(self, change: Callable[[], _Result]) -> _Result:
        """Change a password, again where fresh logins may find another state: a twin's change, a new primary.

        So it is where a session was lost before its COMMIT, as by a failover: nothing was changed.
        """
        return self.deadline.wait_for(change, BEFORE_CHANGE_S, passes=may_pass)

    def _change(
        self, session: Session, pending: Credential, confirm: Callable[[], None], trust: Trust | None = None
    ) -> float:
        """Have a session change the password of AWSPENDING's user; return when, by the deadline's clock.

        Nothing is begun that could not be verified and put back.
        """
        what = f"Less than {BEFORE_CHANGE_S:.0f} seconds are left, too little to change the password and to verify it."
        self.deadline.check(BEFORE_CHANGE_S, what)
        change = partial(session.change_password, pending, confirm, trust)
        for note in self._carry_out(change, on_server_of(session.credential, pending), RESERVE_S):
            logger.warning(errors.mask(note))
        return self.deadline.clock()

    def _carry_out(self, change: Callable[[], list[str]], login: Credential, reserve: float) -> list[str]:
        """Change a password, and return the notes; of a COMMIT without an answer a login tells whether it came true."""
        try:
            return change()
        except errors.PasswordChangeError as error:
            if not error.in_doubt:
                raise
            if doubt := self._disproof(login, reserve):
                error.what += f" The login that would tell: {doubt.what}"
                raise
        return []

    def _is_shown_to(self, superuser: Credential, login: Credential, *, accepted: bool) -> bool:
        """Tell whether an accepted login shows a superuser whose password it is, if need be on its own server."""
        there = login.at(superuser)
        return accepted and (as_sure_as(self.database, login, there) or self._is_accepted(there, there))

    def _is_accepted(self, login: Credential, *known: Credential) -> bool:
        """Tell whether a password that the secret has, or had, for the login's user is in force."""
        try:
            credential, door = self._find_way(login, *known)
        except errors.LoginRefusedError:
            return False
        return shows(self.database, credential, door)

    def _change_by_superuser(
        self, superuser: Credential, pending: Credential, trust: Trust, verify: Callable[[Session], None]
    ) -> None:
        """Have the secret's superuser change the password of AWSPENDING's user, and the strategy verify it.

        The labels are looked at right before COMMIT: from ALTER ROLE on PostgreSQL keeps every other change of the role
        waiting, so that a rotation which was replaced meanwhile does not undo the password of the new one.
        """

        def change() -> float:
            try:
                session = self._log_in(superuser)
            except errors.LoginRefusedError as error:
                raise errors.LoginRefusedError(
                    f"The superuser of `masterarn`: {error.what}",
                    hint=f"Wait: its own rotation may be at work, and Secrets Manager retries. If not: {error.hint}",
                ) from None
            with session:
                changed = self._change(session, pending, self._check_labels, trust)
                verify(session)
            return changed

        self._remember(self._start_over(change))
        told = "The superuser %a has set the password of %a; a login verified it."
        logger.info(told, superuser.username, pending.username)

    def _disproof_elsewhere(self, pending: Credential, session: Session) -> errors.DatabaseError | None:
        """Return why AWSPENDING does not log in at the secret's own host, where that is not the superuser's."""
        there = on_server_of(session.credential, pending)
        return None if there is pending else self._disproof(pending, lags=True)

    def _check_labels(self) -> None:
        """Return when the labels are where they were as the step began; raise VersionNotPendingError otherwise."""
        now = self.secrets.describe_secret()
        if now.with_label(StagingLabel.PENDING) != self.token or now.current != self.versions.current:
            raise errors.VersionNotPendingError("The labels have moved meanwhile: another rotation is at work.")

    def _disproof(
        self, login: Credential, reserve: float = RESERVE_S, *, lags: bool = False, standby: bool = True
    ) -> errors.DatabaseError | None:
        """Return None once the database accepts the login, or why it does not: the second refusal, after a pause.

        No answer is waited for until the reserve, MOST_WAIT_S at most, and counts as a refusal then; so is a refusal
        where the host `lags` behind the server that has the change already, as a replica does. Where the word of a
        `standby` does not do, a login to one is a DatabaseReadOnlyError.
        """
        refusals = list[errors.DatabaseError]()

        def passes(error: errors.DatabaseError) -> bool:
            refusals.extend([error] * (not error.unknown))
            return error.unknown or lags or len(refusals) < 2  # noqa: PLR2004

        try:
            session = self.deadline.wait_for(lambda: self._prove_once(login, reserve), reserve, passes=passes)
        except errors.DatabaseError as error:
            return refusals[-1] if refusals else error
        if session is not None:
            session.close()
            if session.in_recovery and not standby:
                return errors.DatabaseReadOnlyError(f"{login.label} logs in on a standby alone, which may be behind.")
        return None


def on_server_of(there: Credential, login: Credential) -> Credential:
    """Return the login on the server of another one, a superuser's, if that is another than its own."""
    return login if login.address == there.address else login.at(there)


def shows(database: Database, credential: Credential, door: Session | errors.DatabaseError | None) -> bool:
    """Tell whether what a login led to shows that the password is the user's; a session is closed.

    A refusal after authentication, or None for one, does so only where the server has proved who it is.
    """
    if door is None or isinstance(door, errors.DatabaseError):
        proved = database.sslmode_of(credential) is SslMode.VERIFY_FULL
        return isinstance(door, errors.LoginNotAllowedError | None) and proved
    door.close()
    return True


def as_sure_as(database: Database, login: Credential, there: Credential) -> bool:
    """Tell whether a login goes to the server that another one does, which proves no less who it is.

    Where the secret's own login goes, and over which TLS, its writer says, and may own the server there. So a superuser
    goes by what is accepted where the superuser's own login goes.
    """
    same = (login.end, login.tls_server_name) == (there.end, there.tls_server_name)
    ours, theirs = (list(SslMode).index(database.sslmode_of(one)) for one in (login, there))
    return same and ours >= theirs


def _with_row(session: Session, login: Credential) -> Session:
    with ExitStack() as stack:
        stack.push(session)
        session.hold_role(login)
        stack.pop_all()
    return session


def may_pass(error: errors.RotationError) -> bool:
    """Tell whether fresh logins may find another state: after another's change of the role, or with a new primary."""
    return getattr(error, "lost", None) is True or isinstance(error, errors.DatabaseReadOnlyError) or is_anothers(error)


def is_anothers(error: errors.RotationError) -> bool:
    """Tell whether it was another's change of the same role that stood in the way."""
    return isinstance(error, errors.RoleLockedError) or getattr(error, "sqlstate", None) in _TWIN


def read_credential(secrets: Secrets, version: str, label: str) -> Credential:
    """Return a version's credential; MissingVersionError, or an InvalidSecretError that names it, if it has none."""
    text = secrets.get_secret_value(version)
    try:
        return replace(Credential.parse(text), label=label, version=version)
    except errors.InvalidSecretError as error:
        raise errors.InvalidSecretError(f"{label}, version {version}: {error.what}", hint=error.hint) from None
