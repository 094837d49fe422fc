"""The commands `emoji-ldm cluster ...` and `emoji-ldm submit --overlay`: this system on Kubernetes. Never imports Ray.

`overlay` renders the manifests of `k8s/`, `kubectl` runs the user's kubectl, and each command is a module of its own:
`up`, `down`, `status`, `submit`, `logs`. `diagnostics` derives from the objects of the cluster why something does not
run. `lint` checks manifests without a cluster, and `simulation` estimates time and cost before a cluster is paid for.
"""
