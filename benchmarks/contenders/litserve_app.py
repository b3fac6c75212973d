"""LitServe with a scikit-learn model: one worker, as it recommends for a CPU."""

import sys
from typing import Any

import joblib
import litserve


class Iris(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = joblib.load(sys.argv[1])

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # a type would be FastAPI's of the body
        return request["instances"]

    def predict(self, rows: Any) -> Any:
        return self.model.predict_proba(rows)

    def encode_response(self, scores: Any) -> Any:
        return {"predictions": scores.argmax(axis=1).tolist(), "probabilities": scores.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Iris(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
