"""The V2 protocol over gRPC, as strict as over HTTP."""

import logging
from typing import Any

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer

from fti.common.errors import FtiError, OnlineStoreError
from fti.serve.answers import answers, to_bytes
from fti.serve.columns import BadRequestError
from fti.serve.features import RefusedRowError
from fti.serve.front import STATES_HEADER, STORE_FAILS
from fti.serve.model import PackagedModel
from fti.serve.protocol import MAX_BODY, REVISION_HEADER, Request, Tensor, columns_of

log = logging.getLogger(__name__)

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(["INT8", "INT16", "INT32"], "int_contents"),
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class StrictServicer(InferenceServicer):  # type: ignore[misc]  # kserve is untyped
    """KServe's gRPC service, with strict decoding of predictions."""

    model: PackagedModel

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        """Answers one prediction."""
        await context.send_initial_metadata(((REVISION_HEADER, self.model.revision),))
        try:
            answer, states = await self._infer(request)
            if states:
                context.set_trailing_metadata(((STATES_HEADER, states),))
            return answer
        except RefusedRowError as error:
            context.set_trailing_metadata(((STATES_HEADER, error.states),))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except BadRequestError as error:
            code = grpc.StatusCode.NOT_FOUND if error.status == 404 else grpc.StatusCode.INVALID_ARGUMENT
            await context.abort(code, str(error))
        except FtiError as error:
            if not isinstance(error, OnlineStoreError):  # that one is in the log already
                log.error("%s", error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, STORE_FAILS)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Refused: one server serves one model."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "a server serves the one model that it was started with")

    RepositoryModelUnload = RepositoryModelLoad

    async def _infer(self, request: Any) -> tuple[Any, str]:
        model = self.model
        if request.model_name != model.name:
            raise BadRequestError(f"model_name: {request.model_name[:60]!r}. Allowed: {model.name}", 404)
        if request.model_version not in {"", model.revision}:
            raise BadRequestError(f"model_version: {request.model_version[:60]!r}. Allowed: {model.revision}", 404)
        parameters = [*request.parameters, *(name for tensor in request.inputs for name in tensor.parameters)]
        if parameters:
            raise BadRequestError(f"parameters: unknown {parameters[0][:60]!r}. Allowed: none")
        if not request.inputs:
            raise BadRequestError("inputs: missing or empty. Allowed: a list of tensors")
        asked = [output.name for output in request.outputs]
        if not set(asked) <= model.outputs or len(set(asked)) != len(asked):
            raise BadRequestError(f"outputs: allowed is each once of {', '.join(sorted(model.outputs))}")
        columns, rows = columns_of(_tensors(request), model.schema)
        answer = await model.answer(Request(columns, rows, request.id))
        outputs = answers(model.signature, answer.scores, answer.labels)
        chosen = {name: outputs[name] for name in asked or outputs}
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
        arguments: `port`, `data_plane` and `model_repository_extension`, as KServe's own.
    """

    def __init__(self, address: str, model: PackagedModel, **arguments: Any) -> None:
        super().__init__(kwargs={}, **arguments)
        self._address, self._model = address, model

    async def start(self, max_workers: int = 0) -> None:
        """Serves until stopped."""
        servicer = StrictServicer(self._data_plane, self._model_repository_extension)
        servicer.model = self._model
        limits = [("grpc.max_receive_message_length", MAX_BODY), ("grpc.max_send_message_length", MAX_BODY)]
        # Without SO_REUSEPORT a second server on the port fails instead of stealing requests.
        options = [*limits, ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(interceptors=(ExceptionToStatusInterceptor(),), options=options)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_insecure_port(self._address)
        await self._server.start()
        await self._server.wait_for_termination()


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
