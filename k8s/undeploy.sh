#!/bin/sh
# make undeploy: the namespace and all that is in it. A namespace that is stuck in its deletion is freed.
#
#   NAMESPACE  by default imagetag
#   TIMEOUT    of each step, by default 10m
#
# Jobs go first. Kubernetes deletes a namespace's pods before its Jobs, and the last failed pod of an index
# stays until it has a successor (backoffLimitPerIndex), which a namespace that is being deleted forbids.
# And JobSets before Jobs, which they would make anew.
#
#   exit 0   it is gone, or was not there
#   exit 75  it is not gone yet
set -eu
KUBECTL=${KUBECTL:-kubectl}
namespace=${NAMESPACE:-imagetag}
timeout=${TIMEOUT:-10m}
error=$(mktemp)
trap 'rm -f "$error"' EXIT

# WHAT KUBECTL-ARGUMENT...
delete() {
  what=$1
  shift
  code=0
  $KUBECTL delete "$@" --ignore-not-found --timeout="$timeout" 2>"$error" || code=$?
  cat "$error" >&2
  [ "$code" -ne 0 ] || return 0
  grep -q 'timed out' "$error" || exit "$code"
  echo "undeploy: $what of $namespace are not gone after $timeout: run it again, or see kubectl get pods,events -n" \
    "$namespace; a pod whose node is lost goes with kubectl delete pod NAME -n $namespace --force" >&2
  exit 75
}

found=$($KUBECTL get namespace "$namespace" --ignore-not-found -o name)
if [ -z "$found" ]; then
  echo "there is no namespace $namespace"
  exit 0
fi
if $KUBECTL api-resources --api-group=jobset.x-k8s.io -o name 2>/dev/null | grep -q '^jobsets\.'; then
  delete JobSets jobsets.jobset.x-k8s.io --all -n "$namespace" --cascade=foreground
fi
delete Jobs jobs --all -n "$namespace" --cascade=foreground
delete "other objects" namespace "$namespace"
