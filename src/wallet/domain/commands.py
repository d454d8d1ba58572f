"""The commands: what a client asks for, frozen at the edge with every id it will ever need.

A command that is run a second time (after a deadlock, or a COMMIT whose answer was lost) is the same
command: its key, audit id and transfer id were made before its first run.
"""

from decimal import Decimal
from typing import NamedTuple, assert_never

from wallet.domain.events import TransferTerms
from wallet.domain.identifiers import ApiAuditId, RequestId, TransferId, WalletId
from wallet.domain.money import format_money
from wallet.domain.transfer import CreditOutcome
from wallet.domain.values import Value


class OperationKey(NamedTuple):
    """The scope of an idempotency key: the wallet of the path and the client's key."""

    wallet_id: WalletId
    request_id: RequestId


class Deposit(Value, frozen=True, kw_only=True):
    """Add an amount to a wallet, which is made if it does not exist."""

    wallet_id: WalletId
    request_id: RequestId
    api_audit_id: ApiAuditId
    amount: Decimal


class Withdraw(Value, frozen=True, kw_only=True):
    """Take an amount from a wallet."""

    wallet_id: WalletId
    request_id: RequestId
    api_audit_id: ApiAuditId
    amount: Decimal


class Transfer(Value, frozen=True, kw_only=True):
    """Move an amount from a wallet (wallet_id) to another, which is made if it does not exist."""

    wallet_id: WalletId
    request_id: RequestId
    api_audit_id: ApiAuditId
    amount: Decimal
    to_wallet_id: WalletId
    transfer_id: TransferId


Command = Deposit | Withdraw | Transfer


class CreditTransfer(Value, frozen=True, kw_only=True):
    """Step 2 of a stepwise transfer, at the receiver."""

    terms: TransferTerms
    request_id: RequestId
    api_audit_id: ApiAuditId


class ConcludeTransfer(Value, frozen=True, kw_only=True):
    """Step 3 of a stepwise transfer, at the sender, after the receiver's final word."""

    terms: TransferTerms
    request_id: RequestId
    api_audit_id: ApiAuditId
    credit: CreditOutcome


SagaStep = CreditTransfer | ConcludeTransfer


def key_of(command: Command | SagaStep) -> OperationKey:
    """The key under which the outcome of this command (or of the transfer it is a step of) is stored."""
    # The class's own constructor would double the cost of the function that each command calls most often.
    match command:
        case Deposit() | Withdraw() | Transfer():
            return tuple.__new__(OperationKey, (command.wallet_id, command.request_id))
        case CreditTransfer() | ConcludeTransfer():
            return tuple.__new__(OperationKey, (command.terms.from_wallet_id, command.request_id))
        case _:
            assert_never(command)


def kind_of(command: Command) -> str:
    """The operation's name: deposit, withdraw or transfer."""
    match command:
        case Deposit():
            return "deposit"
        case Withdraw():
            return "withdraw"
        case Transfer():
            return "transfer"
        case _:
            assert_never(command)


def fingerprint_of(command: Command) -> str:
    """What makes two requests the same one: operation, parsed amount, counterparty.

    Readable on purpose, so that an auditor can compare it by eye. The counterparty comes last, hence the
    colons that an id may contain cannot make two different requests look alike.
    """
    counterparty = command.to_wallet_id if isinstance(command, Transfer) else ""
    return f"{kind_of(command)}:{format_money(command.amount)}:{counterparty}"
