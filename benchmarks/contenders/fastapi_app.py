"""FastAPI, pydantic and scikit-learn, as one would write it."""

import sys
from typing import Any

import joblib
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Flower(BaseModel):
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float


class Request(BaseModel):
    instances: list[Flower]


class Response(BaseModel):
    predictions: list[int]
    probabilities: list[list[float]]


def main() -> None:
    model, app = joblib.load(sys.argv[1]), FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        rows = [[f.sepal_length, f.sepal_width, f.petal_length, f.petal_width] for f in request.instances]
        scores = model.predict_proba(rows)
        return Response(predictions=scores.argmax(axis=1).tolist(), probabilities=scores.tolist())

    options: Any = {"http": "httptools", "loop": "uvloop"}
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning", **options)


if __name__ == "__main__":
    main()
