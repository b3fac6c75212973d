"""The one error tree. Every error says what was got, what is allowed, and what to do.

FtiError
├── ConfigError            a setting, parameter or option that cannot be used
├── StorageError           a file, bucket or URL that cannot be read or written
├── SourceError            source data that cannot be parsed
├── ContractError          a data contract that is itself wrong
├── RejectedDataError      data that break their contract beyond its tolerance
├── TransformError         a SQL transform that fails
├── FeatureStoreError      Feast refuses: a registry, view, service or entity
│   └── OnlineStoreError   the online store does not answer
├── TrainingError          data, algorithm or hyperparameters that cannot train a model
├── PackageError           a model package that is incomplete, unreadable or tampered with
├── UnblessedModelError    a model pushed without the blessing of an evaluation
├── ServingError           the local serving of an InferenceService fails
├── PipelinesError         Kubeflow Pipelines refuses or does not answer, or a run there failed
└── BusyError              somebody else holds what this needs: a run, a port
"""


class FtiError(Exception):
    """The base of every error that a user of this library can cause or mend.

    Args:
        got: What was found, in one sentence without a full stop. Never holds a secret.
        allowed: What would have been accepted.
        remedy: What the reader can do next.
    """

    def __init__(self, got: str, *, allowed: str = "", remedy: str = "") -> None:
        self.got, self.allowed, self.remedy = got, allowed, remedy
        parts = [got.rstrip(".")]
        if allowed:
            parts.append(f"Allowed: {allowed.rstrip('.')}")
        if remedy:
            parts.append(remedy.rstrip("."))
        super().__init__(". ".join(parts) + ".")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive pickling between processes by themselves.
        return _rebuild, (type(self), self.got, self.allowed, self.remedy)


def _rebuild(kind: type[FtiError], got: str, allowed: str, remedy: str) -> FtiError:
    return kind(got, allowed=allowed, remedy=remedy)


class ConfigError(FtiError):
    """A setting, parameter or option that cannot be used."""


class StorageError(FtiError):
    """A file, bucket or URL that cannot be read or written."""


class SourceError(FtiError):
    """Source data that cannot be parsed."""


class ContractError(FtiError):
    """A data contract that is itself wrong."""


class RejectedDataError(FtiError):
    """Data that break their contract beyond its tolerance."""


class TransformError(FtiError):
    """A SQL transform that fails."""


class FeatureStoreError(FtiError):
    """Feast refuses: a registry, view, service or entity."""


class OnlineStoreError(FeatureStoreError):
    """The online store does not answer."""


class TrainingError(FtiError):
    """Data, algorithm or hyperparameters that cannot train a model."""


class PackageError(FtiError):
    """A model package that is incomplete, unreadable or tampered with."""


class UnblessedModelError(FtiError):
    """A model pushed without the blessing of an evaluation."""


class ServingError(FtiError):
    """The local serving of an InferenceService fails."""


class BusyError(FtiError):
    """Somebody else holds what this needs: a run, a port."""


class PipelinesError(FtiError):
    """Kubeflow Pipelines refuses or does not answer, or a run there failed."""
