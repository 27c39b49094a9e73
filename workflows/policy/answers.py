"""The merge queue's answers in words: what happened to a candidate, the evidence, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from activities.contracts import GateResult
from activities.queue_contracts import Evidence, Submitted
from activities.settings import tail
from workflows.contracts import Code, LandResult, MergeAnswer

MEANING: dict[Code, tuple[str, str]] = {
    Code.CONFLICT: (
        "it does not merge with the target",
        "merge the target into the branch, resolve the conflict, and send it in again",
    ),
    Code.GATE_RED: (
        "its gates are red on the target, which is green without it",
        "merge the target into the branch, run the gates there, mend it, and send it in again",
    ),
    Code.SEMANTIC_CONFLICT: (
        "its gates were green, and are red with what has landed since",
        "merge the target into the branch, mend what no longer goes together, and send it in again",
    ),
    Code.GATE_INFRA: (
        "the gates could not be run, or cannot pass on this machine",
        "mend the machine or the gate's command, and send it in again: the change is not to blame",
    ),
    Code.MAIN_RED: (
        "the target itself is red: nobody in the queue is to blame",
        "mend the target, or revert what made it red; then the queue goes on",
    ),
    Code.CAS_LOST: (
        "the target has moved meanwhile",
        "nothing, it is built anew; with ff-only: rebase the branch onto the target, and send it in again",
    ),
    Code.HEAD_MOVED: (
        "the branch has moved since it was sent in",
        "send it in again: only what was tested lands",
    ),
    Code.CHECKOUT_BLOCKED: (
        "changes of yours in a checkout of the target are in the way",
        "commit them or move them away, then: starter.py queue retry-checkout",
    ),
    Code.POLICY: (
        "the policy of the target does not let it land",
        "mend what is named, or take it out of the change; one that waits is let through by: starter.py queue allow",
    ),
    Code.PUSH_REJECTED: (
        "the remote does not take it",
        "see what the remote says, mend that, and send it in again",
    ),
    Code.NOOP: (
        "the target has all of it already",
        "nothing",
    ),
}
"""What each code says, and what moves it on."""

_FILES, _TASKS, _LINES = 20, 10, 15


def explain_answer(answer: MergeAnswer) -> str:
    """A few lines for a person: what happened, the evidence, what to do."""
    if answer.kind == "landed":
        return f"LANDED as {_sha(answer.sha or '')}"
    if answer.kind == "withdrawn":
        return "WITHDRAWN" + (f": {answer.reason}" if answer.reason else "")
    return explain(answer.code, answer.reason, evidence_of(answer))


def explain(code: Code | None, reason: str, evidence: Evidence) -> str:
    """`code` None: our own trouble."""
    what, remedy = (
        MEANING[code] if code else (reason or "our own trouble", "see the worker's log, and send it in again")
    )
    lines = [f"{code or 'FAILED'}: {what}"]
    if reason and reason != what:
        lines.append(f"  {reason}")
    return "\n".join([*lines, *(f"  {line}" for line in _evidence(evidence)), f"What to do: {remedy}"])


def evidence_of(answer: MergeAnswer) -> Evidence:
    """All of it in one place."""
    known, conflict = answer.evidence, answer.conflict
    return known.model_copy(
        update={
            "base": known.base or answer.base or "",
            "files": known.files or (conflict.files if conflict else []),
            "stages": known.stages or (conflict.stages if conflict else []),
            "messages": known.messages or (conflict.messages if conflict else []),
            "gates": known.gates or answer.gates,
        }
    )


def refused(sent: Submitted) -> MergeAnswer:
    """Of what was not handed over, as if the queue had sent it back."""
    gates, evidence = [sent.preflight] if sent.preflight else [], Evidence(messages=sent.refused[1:])
    return MergeAnswer(
        op=sent.op, kind="policy", code=Code.POLICY, reason=sent.refused[0], gates=gates, evidence=evidence
    )


def land_result(answer: MergeAnswer) -> LandResult:
    match answer.kind:
        case "landed":
            return LandResult(outcome="merged", sha=answer.sha)
        case "noop":
            return LandResult(outcome="no-changes", code=Code.NOOP, reason=MEANING[Code.NOOP][0])
        case "withdrawn":
            return LandResult(outcome="withdrawn", reason=answer.reason)
    return LandResult(outcome="sent-back", code=answer.code, reason=answer.reason, evidence=evidence_of(answer))


def _evidence(evidence: Evidence) -> Iterator[str]:
    if evidence.files:
        yield f"files: {_listed(evidence.files, _FILES)}"
    yield from (f"stage {stage}" for stage in evidence.stages[:_LINES])
    yield from (message.strip() for message in evidence.messages[:_LINES])
    for gate in evidence.gates:
        if not gate.passed:
            yield from _gate(gate)
    if evidence.runs:
        yield f"red {evidence.runs} times on the same commit" if evidence.runs > 1 else "red once"
    if evidence.fails_alone is not None:
        yield f"by itself on the target it is {'red too' if evidence.fails_alone else 'green'}"
    if evidence.landed_by:
        touching = ", and touch these files" if evidence.files else ""
        yield f"landed meanwhile{touching}: {_listed(evidence.landed_by, _TASKS)}"
    places = [f"{name} {_sha(sha)}" for name, sha in (("base", evidence.base), ("tip", evidence.tip)) if sha]
    if places:
        yield ", ".join(places)


def _gate(gate: GateResult) -> Iterator[str]:
    ended = "ended by the time-out" if gate.exit_code is None else f"exit {gate.exit_code}"
    yield f"gate {gate.name}: {ended} after {gate.seconds:.1f} s" + (f", log {gate.log}" if gate.log else "")
    if gate.hint:
        yield f"  {gate.fault}: {gate.hint}"
    yield from (f"  | {line}" for line in tail(gate.tail, 1_000).strip().splitlines()[-_LINES:])


def _listed(items: Sequence[str], most: int) -> str:
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")


def _sha(sha: str) -> str:
    return sha[:12]
