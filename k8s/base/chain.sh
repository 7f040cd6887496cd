#!/bin/sh
# Starts each stage when the one before is complete, and stops where one failed.
#
# It keeps nothing of its own: a chain that is started again finds in the Jobs where it was. A stage
# that somebody suspends again (kubectl apply does, as its manifest says so) is started again.
#
#   exit 0   all stages are complete
#   exit 2   a Job is not there
#   exit 3   a stage failed; those after it stay suspended
#   exit 75  Kubernetes does not answer
set -eu

CHAIN_PAUSE=${CHAIN_PAUSE:-20}       # seconds from one look to the next, at most
CHAIN_PATIENCE=${CHAIN_PATIENCE:-30} # how many looks in a row may fail
failed_before=

# One JSON line. LEVEL EVENT STAGE
say() {
  text=$(printf '%s' "$2" | tr '\n\t\r' '   ' | sed 's/[\\"]/\\&/g')
  printf '{"timestamp": "%s", "level": "%s", "event": "%s", "stage": "%s"}\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" "$text" "$3"
}

# A line with the Job's name, one with its failed indexes, then the conditions that hold:
# type|reason|message|type|reason|message|
look() {
  kubectl get job "$1" --ignore-not-found -o jsonpath='{.metadata.name}{"\n"}{.status.failedIndexes}{"\n"}{range .status.conditions[?(@.status=="True")]}{.type}|{.reason}|{.message}|{end}'
}

# Return 0 when the stage is complete, or what failed of it is to be left behind.
finish() {
  stage=$1 rest=$2 misses=0 started=
  while :; do
    if ! found=$(look "$stage" 2>/tmp/error); then
      misses=$((misses + 1))
      say warning "Kubernetes does not answer: $(tail -n 1 /tmp/error)" "$stage"
      [ "$misses" -lt "$CHAIN_PATIENCE" ] || exit 75
      sleep "$CHAIN_PAUSE"
      continue
    fi
    indexes=$(printf '%s\n' "$found" | sed -n 2p)
    conditions=$(printf '%s\n' "$found" | sed 1,2d | tr '\n' ' ')
    case "|$conditions" in
      *'|Complete|'*)
        say info "complete" "$stage"
        return 0
        ;;
      *'|Failed|'*)
        why=$(printf '%s' "|$conditions" | sed 's/.*|Failed|\([^|]*\)|\([^|]*\)|.*/\1: \2/')
        what="$stage failed: $why${indexes:+ (indexes $indexes)}"
        how="see kubectl logs --prefix --tail 5 -l app.kubernetes.io/component=$stage"
        if [ "$CHAIN_FAILED_TAGS" = continue ] && [ "${why%%:*}" = FailedIndexes ]; then
          say warning "$what; going on with the tags that succeeded; $how" "$stage"
          failed_before="$failed_before$what; "
          return 0
        fi
        say error "$what; ${rest:+not started:$rest; }$how, then delete the failed Jobs and apply again" "$stage"
        exit 3
        ;;
    esac
    if [ -z "$found" ]; then # it may be on its way: all are applied together
      misses=$((misses + 1))
      if [ "$misses" -ge "$CHAIN_PATIENCE" ]; then
        say error "there is no Job $stage: apply again" "$stage"
        exit 2
      fi
      sleep 2
      continue
    fi
    # Repeated: it changes nothing of a stage that has started.
    if kubectl patch job "$stage" --type merge --patch "$CHAIN_START" \
      --field-manager imagetag-chain >/dev/null 2>/tmp/error; then
      misses=0
      [ -n "$started" ] || say info "started, waiting for it" "$stage"
      started=yes
    else
      misses=$((misses + 1))
      say warning "cannot be started: $(tail -n 1 /tmp/error)" "$stage"
      [ "$misses" -lt "$CHAIN_PATIENCE" ] || exit 75
    fi
    # Returns early when it is complete; that it failed is seen by the next look.
    kubectl wait job "$stage" --for condition=Complete --timeout "${CHAIN_PAUSE}s" \
      >/dev/null 2>&1 || sleep 1
  done
}

trap 'exit 143' TERM

todo=" $CHAIN_STAGES"
for name in $CHAIN_STAGES; do
  todo=${todo#" $name"}
  finish "$name" "$todo"
done
if [ -n "$failed_before" ]; then
  say error "done, but for what failed: $failed_before" ""
  exit 3
fi
say info "all stages are complete" ""
