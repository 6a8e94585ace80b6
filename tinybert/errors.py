"""What can go wrong, sorted by whose move it is: the caller's, the world's, or nobody's (altered data)."""


class InputError(ValueError):
    """The caller's mistake: the message says what was found, what is allowed and what to change."""


class ConfigError(InputError):
    """A field, or a combination of fields, of the form is not allowed."""


class SourceError(InputError):
    """A source URI names nothing that can be read."""


class DataError(InputError):
    """The data set cannot be used as it is."""


class ModelError(InputError):
    """A model cannot play the part it was given."""


class ShapeError(InputError):
    """Two tensors that must agree in shape do not."""


class StoreError(InputError):
    """The object store refuses: credentials, permissions, bucket, or a full disk."""


class QualityError(InputError):
    """A stage finished, but its result is too poor for the next stage to build on."""


class IntegrityError(RuntimeError):
    """A stored artifact is not what its digest says."""


class TransientError(RuntimeError):
    """The world's fault (network, server, device): the same call may well succeed later, so it is retried."""
