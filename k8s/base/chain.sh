#!/bin/sh
# Starts each stage when the one before is complete, and stops where one failed.
#
# It keeps nothing of its own: a chain that is started again finds in the Jobs where it was. A stage
# that somebody suspends again (kubectl apply does, as its manifest says so) is started again.
#
#   exit 0   all stages are complete
#   exit 2   a Job is not there
#   exit 3   a stage failed, or what it stored is gone; those after it stay suspended
#   exit 75  Kubernetes does not answer
set -eu

CHAIN_PAUSE=${CHAIN_PAUSE:-20}       # seconds from one look to the next, at most
CHAIN_PATIENCE=${CHAIN_PATIENCE:-30} # how many looks in a row may fail
namespace=${CHAIN_NAMESPACE:-imagetag}
again="make deploy again; with kubectl alone, or for a bucket that was emptied: kubectl delete jobs --all -n $namespace --cascade=foreground, then apply again"
failed_before=
child=
work=$(mktemp -d)

# Run it beside the shell: a trap waits for what the shell runs itself, and SIGTERM is to end all at once.
beside() {
  "$@" &
  child=$!
  wait "$child"
}
trap 'rm -rf "$work"' EXIT
trap 'kill "$child" 2>/dev/null || :; exit 143' TERM

# One JSON line. LEVEL EVENT STAGE
say() {
  text=$(printf '%s' "$2" | tr '\n\t\r' '   ' | sed 's/[\\"]/\\&/g')
  printf '{"timestamp": "%s", "level": "%s", "event": "%s", "stage": "%s"}\n' \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" "$text" "$3"
}

# Into a file: a line each with the Job's name, its failed indexes, and when it was complete, then the
# conditions that hold: type|reason|message|type|reason|message|
look() {
  beside kubectl get job "$1" --ignore-not-found -o jsonpath='{.metadata.name}{"\n"}{.status.failedIndexes}{"\n"}{.status.completionTime}{"\n"}{range .status.conditions[?(@.status=="True")]}{.type}|{.reason}|{.message}|{end}' \
    >"$work/job" 2>"$work/error"
}

# Return 0 when what was stored until that time is there still: the pod that keeps it is not newer. TIME
kept() {
  [ -n "${CHAIN_STORAGE_POD:-}" ] || return 0
  beside kubectl get pod "$CHAIN_STORAGE_POD" -o jsonpath='{.metadata.creationTimestamp}' \
    >"$work/pod" 2>"$work/error" || return 75
  ! expr "$1" \< "$(cat "$work/pod")" >/dev/null
}

# Kubernetes did not answer: wait, but not for ever.
miss() {
  misses=$((misses + 1))
  say warning "Kubernetes does not answer: $(tail -n 1 "$work/error")" "$stage"
  [ "$misses" -lt "$CHAIN_PATIENCE" ] || exit 75
  beside sleep "$CHAIN_PAUSE"
}

# Return 0 when the stage is complete, or what failed of it is to be left behind.
finish() {
  stage=$1 rest=$2 misses=0 started=
  while :; do
    if ! look "$stage"; then
      miss
      continue
    fi
    indexes=$(sed -n 2p "$work/job")
    conditions=$(sed 1,3d "$work/job" | tr '\n' ' ')
    case "|$conditions" in
      *'|Complete|'*)
        lost=0
        kept "$(sed -n 3p "$work/job")" || lost=$?
        case $lost in
          0)
            say info "complete" "$stage"
            return 0
            ;;
          1)
            say error "$stage was complete before the pod $CHAIN_STORAGE_POD was made, so what it stored is gone: $again" "$stage"
            exit 3
            ;;
        esac
        miss
        continue
        ;;
      *'|Failed|'*)
        why=$(printf '%s' "|$conditions" | sed 's/.*|Failed|\([^|]*\)|\([^|]*\)|.*/\1: \2/')
        what="$stage failed: $why${indexes:+ (indexes $indexes)}"
        how="see kubectl logs -n $namespace --prefix --tail 5 -l app.kubernetes.io/component=$stage"
        if [ "$CHAIN_FAILED_TAGS" = continue ] && [ "${why%%:*}" = FailedIndexes ]; then
          say warning "$what; going on with the tags that succeeded; $how" "$stage"
          failed_before="$failed_before$what; "
          return 0
        fi
        say error "$what; ${rest:+not started:$rest; }$how, then $again" "$stage"
        exit 3
        ;;
    esac
    if [ ! -s "$work/job" ]; then # it may be on its way: all are applied together
      misses=$((misses + 1))
      if [ "$misses" -ge "$CHAIN_PATIENCE" ]; then
        say error "there is no Job $stage: apply again" "$stage"
        exit 2
      fi
      beside sleep 2
      continue
    fi
    # Repeated: it changes nothing of a stage that has started.
    if beside kubectl patch job "$stage" --type merge --patch "$CHAIN_START" \
      --field-manager imagetag-chain >/dev/null 2>"$work/error"; then
      misses=0
      [ -n "$started" ] || say info "started, waiting for it" "$stage"
      started=yes
    else
      misses=$((misses + 1))
      say warning "cannot be started: $(tail -n 1 "$work/error")" "$stage"
      [ "$misses" -lt "$CHAIN_PATIENCE" ] || exit 75
    fi
    # Returns early when it is complete; that it failed is seen by the next look.
    beside kubectl wait job "$stage" --for condition=Complete --timeout "${CHAIN_PAUSE}s" \
      >/dev/null 2>&1 || beside sleep 1
  done
}

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
