"""The V2 protocol over gRPC, as strict as over HTTP."""

import asyncio
from time import monotonic
from typing import Any

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer

from fti.common.errors import FtiError
from fti.serve.admission import OverloadedError
from fti.serve.answers import output_datatypes, to_bytes
from fti.serve.columns import BadRequestError
from fti.serve.features import RefusedRowError
from fti.serve.front import STATES_HEADER, STORE_FAILS
from fti.serve.grpc_admission import OPTIONS, Refusals, Shedding
from fti.serve.heads import HARMLESS
from fti.serve.model import PackagedModel
from fti.serve.observe.observer import REQUEST_ID_HEADER, Observed, Observer
from fti.serve.protocol import INFER, MAX_BODY, PUSHBACK, REVISION_HEADER, Request, Tensor, columns_of
from fti.serve.repository import PackageRepository

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(["INT8", "INT16", "INT32"], "int_contents"),
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_CODES = {
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_DRAIN_SECONDS, _QUIET_SECONDS = 3.0, 0.5
_STREAMS = 100  # of one connection, as few as RFC 9113 (6.5.2) advises: what is more waits with its caller, not here
_PENDING, _HARD_LIMIT = "grpc.server.max_pending_requests", "grpc.server.max_pending_requests_hard_limit"
_NO_LIMIT = 1_000_000  # what gRPC cancels by itself, it neither explains nor ever counts as ended
_ASK_AGAIN = {429, 503}
_TRITON_MODEL_NAME = 2  # the field's number in Triton's messages; in KServe's it is 1


class StrictServicer(InferenceServicer):  # type: ignore[misc]  # kserve is untyped
    """KServe's gRPC service, with strict decoding of predictions.

    Everything that an answer carries beside itself is in its trailing metadata. Sent ahead as initial metadata it would
    leave a server that is killed meanwhile with half an answer, which a gateway cannot ask for again.
    """

    model: PackagedModel
    repository: PackageRepository
    observer: Observer
    asked_at = 0.0

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Answers one prediction."""
        self.asked_at = monotonic()
        with self.observer.grpc(_texts(context.invocation_metadata()), request.id, INFER) as observed:
            try:
                deadline = self.model.admission.deadline(context.time_remaining())
                answer, states = await self._infer(request, observed, deadline)
            except BadRequestError as error:
                await self._refuse(context, error, observed)
            except FtiError as error:
                observed.cause = str(error)
                await self._refuse(context, BadRequestError(STORE_FAILS, 503), observed)
            else:
                observed.code = 200
                context.set_trailing_metadata(self._metadata(states, observed))
                return answer

    async def refuse_unread(self, method: str, metadata: Any, error: BadRequestError, context: Any) -> None:
        """Refuses a call of which only the metadata have come, or nothing that could be read."""
        if method != INFER:  # only predictions are observed
            await self._refuse(context, error)
        else:
            self.asked_at = monotonic()
            with self.observer.grpc(_texts(metadata), "", INFER) as observed:
                await self._refuse(context, error, observed)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers with the model's signature and revision."""
        return pb.ModelMetadataResponse(**await self._data_plane.model_metadata(model_name=request.name))

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Loads the model again, where that is allowed."""
        name = _model_name(request)
        try:
            await self.repository.load_again(name)
        except BadRequestError as error:
            await self._refuse(context, error)
        else:
            return pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Unloads the model, where that is allowed."""
        name = _model_name(request)
        try:
            await self.repository.unload_now(name)
        except BadRequestError as error:
            await self._refuse(context, error)
        else:
            return pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    async def _refuse(self, context: Any, error: BadRequestError, observed: Observed | None = None) -> None:
        states, code = "", _CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)
        if isinstance(error, RefusedRowError):
            states, code = error.states, grpc.StatusCode.FAILED_PRECONDITION
        if observed:
            observed.code, observed.reason = error.status, str(error)
        again = ((PUSHBACK, str(1000 * OverloadedError.retry_after)),) if error.status in _ASK_AGAIN else ()
        context.set_trailing_metadata((*self._metadata(states, observed), *again))
        await context.abort(code, str(error))

    def _metadata(self, states: str, observed: Observed | None) -> tuple[tuple[str, str], ...]:
        request_id = ((REQUEST_ID_HEADER, observed.request_id),) if observed else ()
        return (
            (REVISION_HEADER, self.model.revision),
            *request_id,
            *(((STATES_HEADER, states),) if states else ()),
        )

    async def _infer(self, request: Any, observed: Observed, deadline: float) -> tuple[Any, str]:
        model = self.model
        if request.model_name != model.name:
            raise BadRequestError(f"model_name: {request.model_name[:60]!r}. Allowed: {model.name}", 404)
        if request.model_version not in {"", model.revision}:
            raise BadRequestError(f"model_version: {request.model_version[:60]!r}. Allowed: {model.revision}", 404)
        _check_parameters(request)
        if not request.inputs:
            raise BadRequestError("inputs: missing or empty. Allowed: a list of tensors")
        asked = [output.name for output in request.outputs]
        if not set(asked) <= model.outputs or len(set(asked)) != len(asked):
            raise BadRequestError(f"outputs: allowed is each once of {', '.join(sorted(model.outputs))}")
        columns, rows = columns_of(_tensors(request), model.schema)
        decoded = Request(columns, rows, request.id, asked=observed.asked)
        answer = await model.answer(decoded, deadline)
        observed.predicted(decoded, answer)
        datatypes, values = (
            output_datatypes(model.signature),
            {"prediction": answer.labels, "probability": answer.scores},
        )
        chosen = {name: (datatypes[name], values[name]) for name in asked or datatypes}
        response = pb.ModelInferResponse(
            model_name=model.name,
            model_version=model.revision,
            id=request.id,
            outputs=[
                pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=values.shape)
                for name, (datatype, values) in chosen.items()
            ],
            raw_output_contents=[to_bytes(*output) for output in chosen.values()],
        )
        return response, answer.states


class LocalGrpcServer(GRPCServer):  # type: ignore[misc]
    """KServe's gRPC server, bound to a chosen address.

    Args:
        address: `host:port`.
        model: The model.
        repository: Of the model.
        observer: Sees every request.
        arguments: `port`, `data_plane` and `model_repository_extension`, as KServe's own.
    """

    def __init__(
        self, address: str, model: PackagedModel, repository: PackageRepository, observer: Observer, **arguments: Any
    ) -> None:
        super().__init__(kwargs={}, **arguments)
        self._address, self._model, self._repository, self._observer = address, model, repository, observer

    async def start(self, max_workers: int = 0) -> None:
        """Serves until stopped."""
        servicer = StrictServicer(self._data_plane, self._model_repository_extension)
        servicer.model, servicer.repository, servicer.observer = self._model, self._repository, self._observer
        most = self._model.admission.limits.max_body_bytes
        limits = [("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", MAX_BODY)]
        limits += [(_PENDING, _NO_LIMIT), (_HARD_LIMIT, _NO_LIMIT), ("grpc.max_concurrent_streams", _STREAMS)]
        # Without SO_REUSEPORT a second server on the port fails instead of stealing requests.
        options = [*limits, *OPTIONS, ("grpc.so_reuseport", 0)]
        interceptors = (
            Shedding(self._model.admission, servicer.refuse_unread),
            Refusals(servicer.refuse_unread),
        )
        self._server = grpc.aio.server(interceptors=interceptors, options=options)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_insecure_port(self._address)
        self._servicer = servicer
        await self._server.start()
        await self._server.wait_for_termination()

    async def stop(self, sig: int | None = None) -> None:
        """Stops once nobody asks any more, or after a while: gRPC cancels calls that it has not yet taken up.

        By then HTTP is closed, by which gateways know that they shall ask elsewhere.
        """
        deadline = monotonic() + _DRAIN_SECONDS
        while self._server and monotonic() < min(deadline, self._servicer.asked_at + _QUIET_SECONDS):
            await asyncio.sleep(_QUIET_SECONDS / 10)
        await super().stop(sig)


def _texts(metadata: Any) -> dict[str, str]:
    return {name: value for name, value in metadata or () if isinstance(value, str)}


def _check_parameters(request: Any) -> None:
    # KServe's client says of its tensors what only HTTP must know.
    every = [("the request", request, HARMLESS)]
    every += [(f"inputs: {tensor.name[:60]}", tensor, frozenset({"binary_data_size"})) for tensor in request.inputs]
    every += [(f"outputs: {tensor.name[:60]}", tensor, frozenset({"binary_data"})) for tensor in request.outputs]
    for where, part, allowed in every:
        if unknown := [name for name in part.parameters if name not in allowed]:
            names = ", ".join(sorted(allowed))
            raise BadRequestError(f"{where}: unknown parameter {unknown[0][:60]!r}. Allowed: {names}")


def _model_name(request: Any) -> str:
    """The model that a request to load or unload names, be it of KServe's form or of Triton's."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    fields = {field.field_number: field.data for field in UnknownFieldSet(request)}
    name = fields.get(_TRITON_MODEL_NAME, request.model_name)
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _tensors(request: Any) -> list[Tensor]:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise BadRequestError(f"raw_input_contents: {len(raw)}. Allowed: {len(request.inputs)}, one for each input")
    tensors = []
    for place, tensor in enumerate(request.inputs):
        values: list[Any] | bytes
        if raw and tensor.HasField("contents"):
            raise BadRequestError(f"{tensor.name}: has contents beside raw_input_contents. Allowed: either")
        values = raw[place] if raw else _contents(tensor)
        tensors.append(Tensor(tensor.name, tensor.datatype, list(tensor.shape), values))
    return tensors


def _contents(tensor: Any) -> list[Any]:
    field = _CONTENTS.get(tensor.datatype, "")
    used = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if used != [field]:
        got = ", ".join(used) or "no contents"
        raise BadRequestError(
            f"{tensor.name}: {got} for {tensor.datatype[:20]!r}. Allowed: {field or ', '.join(_CONTENTS)}"
        )
    values = list(getattr(tensor.contents, field))
    if tensor.datatype != "BYTES":
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise BadRequestError(f"{tensor.name}: a value is not UTF-8") from error
