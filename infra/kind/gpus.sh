#!/bin/sh
# Adds eight simulated GPUs to each GPU node of a kind cluster. They disappear when the kubelet restarts; run it again then.
set -eu
context=${1:-kind-emoji-ldm}
for node in $(kubectl --context "$context" get nodes -l nvidia.com/gpu.present=true -o name); do
  kubectl --context "$context" patch "$node" --subresource=status --type=json \
    -p '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "8"}]'
done
