"""The cluster: what the command `emoji-ldm cluster` does with the manifests in `k8s/`. Never imports Ray."""
