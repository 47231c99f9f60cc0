"""The kinds of objects that orch speaks of, and where they live in the API."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """Where the objects of a kind live in the API."""

    group: str
    version: str
    """Empty: whichever the server prefers, for add-ons whose API still moves."""
    plural: str
    namespaced: bool = True
    """Whether its objects live in a namespace. Of others, all of the cluster are meant."""

    @property
    def resource(self) -> str:
        """As RBAC and kubectl name it: jobs.batch."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


KINDS = {
    "Job": Kind("batch", "v1", "jobs"),
    # The version of what is rendered: an object is posted to the path of its own version.
    "JobSet": Kind("jobset.x-k8s.io", "v1alpha2", "jobsets"),
    "Pod": Kind("", "v1", "pods"),
    "Service": Kind("", "v1", "services"),
    "ConfigMap": Kind("", "v1", "configmaps"),
    "Secret": Kind("", "v1", "secrets"),
    "Event": Kind("", "v1", "events"),
    "NetworkPolicy": Kind("networking.k8s.io", "v1", "networkpolicies"),
    "ServiceAccount": Kind("", "v1", "serviceaccounts"),
    "PersistentVolumeClaim": Kind("", "v1", "persistentvolumeclaims"),
    "ResourceQuota": Kind("", "v1", "resourcequotas"),
    "LimitRange": Kind("", "v1", "limitranges"),
    "DaemonSet": Kind("apps", "v1", "daemonsets"),
    "EndpointSlice": Kind("discovery.k8s.io", "v1", "endpointslices"),
    "Namespace": Kind("", "v1", "namespaces", namespaced=False),
    "StorageClass": Kind("storage.k8s.io", "v1", "storageclasses", namespaced=False),
    "ValidatingWebhookConfiguration": Kind(
        "admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", namespaced=False
    ),
    "MutatingWebhookConfiguration": Kind(
        "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", namespaced=False
    ),
    "Node": Kind("", "v1", "nodes", namespaced=False),
    "PersistentVolume": Kind("", "v1", "persistentvolumes", namespaced=False),
    "PriorityClass": Kind("scheduling.k8s.io", "v1", "priorityclasses", namespaced=False),
    "CustomResourceDefinition": Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False),
    "LocalQueue": Kind("kueue.x-k8s.io", "", "localqueues"),
    # Who waits in a LocalQueue, as Kueue's visibility API tells it.
    "LocalQueueView": Kind("visibility.kueue.x-k8s.io", "", "localqueues"),
    "Workload": Kind("kueue.x-k8s.io", "", "workloads"),
    "ClusterQueue": Kind("kueue.x-k8s.io", "", "clusterqueues", namespaced=False),
    "ResourceFlavor": Kind("kueue.x-k8s.io", "", "resourceflavors", namespaced=False),
    "WorkloadPriorityClass": Kind("kueue.x-k8s.io", "", "workloadpriorityclasses", namespaced=False),
}
