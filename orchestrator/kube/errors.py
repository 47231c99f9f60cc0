"""What a cluster answers instead of doing what it is asked."""

from trainer.errors import OrchError


class ClusterError(OrchError):
    """The cluster did not do what was asked."""


class ClusterUnreachable(ClusterError):
    """No cluster is configured, or its API server does not answer. Another try may help."""


class ServerTrouble(ClusterUnreachable):
    """The API server answers, with an error of its own making: overloaded, starting, a webhook that is away."""


class Gone(ClusterError):
    """A resource version is too old for the server: list anew."""


class Forbidden(ClusterError):
    """Credentials are missing, expired, or lack a permission."""


class NotFound(ClusterError):
    """No such object, or no such kind, in this cluster."""


class AlreadyExists(ClusterError):
    """The name is taken."""


class Rejected(ClusterError):
    """The API server, an admission webhook or a quota refused the object."""
