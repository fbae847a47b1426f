"""The ports of the server, and its gRPC services."""

import threading
from concurrent import futures
from http.server import ThreadingHTTPServer

import grpc
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from .core import Core, Failure
from .rest import handler


class Server:
    """A server on free ports of the loopback interface, as a context manager.

    `core.faults` holds what happens to the next requests, and `core.answered` the name and the
    version of the model of each that was answered.
    """

    def __init__(self, config, *, poll_seconds=0.1, tls=None, max_bytes=2**31 - 1):
        """Start it.

        Args:
            config: a `ModelServerConfig`.
            poll_seconds: between two looks for versions.
            tls: a private key and a certificate, both PEM.
            max_bytes: of a request: over gRPC the server's own limit, over REST a proxy's.
        """
        self.core = Core(config, poll_seconds, max_bytes)
        self._http = Http(("127.0.0.1", 0), handler(self.core))
        self.rest = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        self._grpc = grpc.server(
            futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", max_bytes)]
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(self.core), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self.core), self._grpc
        )
        if tls is None:
            port = self._grpc.add_insecure_port("127.0.0.1:0")
            self.grpc = f"grpc://127.0.0.1:{port}"
        else:
            port = self._grpc.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([tls]))
            self.grpc = f"grpcs://localhost:{port}"
        self._grpc.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.core.close()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._grpc.stop(None).wait()


class Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """Say nothing of clients that have gone away."""


def answered(compute, request, context):
    try:
        return compute(request)
    except Failure as failure:
        context.abort(failure.code, failure.message)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, core):
        self.core = core

    def Predict(self, request, context):
        return answered(self.core.predict, request, context)

    def Classify(self, request, context):
        return answered(self.core.classify, request, context)

    def GetModelMetadata(self, request, context):
        return answered(self.core.metadata, request, context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, core):
        self.core = core

    def GetModelStatus(self, request, context):
        return answered(self.core.status, request, context)

    def HandleReloadConfigRequest(self, request, context):
        answer = model_management_pb2.ReloadConfigResponse()
        try:
            self.core.reload(request.config)
        except Failure as failure:
            # In the answer's status, as the server has it, and not as the status of the call.
            answer.status.error_code = failure.code.value[0]
            answer.status.error_message = failure.message
        return answer
