"""KServe's model server with a scikit-learn model, as KServe's own sklearnserver has it: see its `model.py`."""

import sys
from typing import Any

import joblib
from kserve import Model, ModelServer
from kserve.utils.utils import get_predict_input, get_predict_response


class SklearnModel(Model):
    def __init__(self, path: str) -> None:
        super().__init__("iris")
        self.model, self.ready = joblib.load(path), True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        return get_predict_response(payload, self.model.predict(get_predict_input(payload)), self.name)


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1).start([SklearnModel(sys.argv[1])])
