"""How operators' JSON becomes our models: strictly, and a refusal is one line that names the field."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverter,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
    PayloadConverter,
)
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ExecuteWorkflowInput,
    HandleSignalInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

with workflow.unsafe.imports_passed_through():
    from activities.masking import MASKS
    from activities.settings import INVALID_TASK, explain


class _StrictJSON(PydanticJSONPlainPayloadConverter):
    def from_payload(self, payload: Payload, type_hint: Any = None) -> Any:
        try:
            return super().from_payload(payload, type_hint)
        except ValidationError as error:
            # Without the cause: pydantic's own text would put the input's values into the history.
            name = getattr(type_hint, "__name__", "input")
            raise ApplicationError(f"invalid {name}: {explain(error)}", type=INVALID_TASK, non_retryable=True) from None


class StrictPayloadConverter(CompositePayloadConverter):
    def __init__(self) -> None:
        strict = _StrictJSON()
        super().__init__(
            *(
                strict if isinstance(known, JSONPlainPayloadConverter) else known
                for known in DefaultPayloadConverter.default_encoding_payload_converters
            )
        )


class MaskingFailureConverter(DefaultFailureConverter):
    """A failure's words may hold what a program said: no secret of them gets into a history."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        super().to_failure(exception, payload_converter, failure)
        failure.message, failure.stack_trace = MASKS.text(failure.message), MASKS.text(failure.stack_trace)


class EncodedFailureConverter(MaskingFailureConverter):
    """The words go into a payload, where a codec can encrypt them."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        super().to_failure(exception, payload_converter, failure)
        words = {"message": failure.message, "stack_trace": failure.stack_trace}
        failure.encoded_attributes.CopyFrom(payload_converter.to_payloads([words])[0])
        failure.message, failure.stack_trace = "Encoded failure", ""


data_converter = DataConverter(
    payload_converter_class=StrictPayloadConverter, failure_converter_class=MaskingFailureConverter
)


class InputGuard(Interceptor):
    """A workflow started with the wrong number of inputs fails at once; a signal with too many, or null, is ignored.

    Without it they would fail the workflow *task*, which Temporal tries again for ever.
    """

    def workflow_interceptor_class(self, _: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        try:
            inspect.signature(input.run_fn).bind(None, *input.args)
        except TypeError:
            raise ApplicationError(
                f"{workflow.info().workflow_type} takes one JSON object as its --input, {len(input.args)} were given",
                type=INVALID_TASK,
                non_retryable=True,
            ) from None
        return await super().execute_workflow(input)

    async def handle_signal(self, input: HandleSignalInput) -> None:
        handler = workflow.get_signal_handler(input.signal)
        if handler is not None:
            try:
                _check(inspect.signature(handler), input.args)
            except TypeError as error:
                text = f"signal {input.signal} ignored: {error}"
                report = getattr(workflow.instance(), "problem", workflow.logger.warning)
                report(text)
                return
        await super().handle_signal(input)


def _check(signature: inspect.Signature, args: Sequence[Any]) -> None:
    """Raises TypeError. A null that an SDK sends is no JSON, so no model has looked at it."""
    for name, value in signature.bind(*args).arguments.items():
        if value is None and signature.parameters[name].default is inspect.Parameter.empty:
            raise TypeError(f"{name} must not be null")
