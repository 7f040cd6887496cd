#!/bin/sh
# make deploy: an overlay with one's own tags and numbers, applied so that what is done stays done.
#
#   deploy.sh render   print the manifests
#   deploy.sh apply    bring the cluster of the current context to them
#   deploy.sh plan     print what they will take (imagetag plan, of this machine), and apply nothing
#
#   OVERLAY    a folder of overlays/
#   TAGS       the tags, separated by spaces; or
#   TAGS_FILE  a file with one a line; by default the overlay's own tags.txt
#   PODS       how many pods share the tags, in each job
#   WORKERS    how many train pods train each tag together
#   SET        other settings, JOB.VARIABLE=VALUE: "scrape.IMAGETAG_LIMIT=200 common.AWS_DEFAULT_REGION=eu-west-1";
#              with those of predict, new images are predicted when the classifiers are evaluated; with those of
#              embed, features are computed once on GPU nodes, and train fits heads to them on CPUs
#   REQUESTS   what a job's pod asks for and, after a colon, may take at most: "train.cpu=500m predict.memory=8Gi:16Gi"
#   ROLE       on EKS, the ARN of the IAM role that may read and write the bucket
#   REGISTRY   where the two images are: REGISTRY/imagetag-scrape, REGISTRY/imagetag-train
#   IMAGES     other images, by the last part of their names: "imagetag-train=registry.example/train:7"
#
# A Job that is complete, or under way, is left alone. One that failed, or whose settings have changed, or whose
# work went with the pod that kept the storage, is deleted and made anew, and so are those after it; what they
# find done in storage they do not do again.
set -euf
KUBECTL=${KUBECTL:-kubectl}
here=$(cd "$(dirname "$0")" && pwd)
work=$here/.deploy
number='[0-9]+(\.[0-9]+)?(m|k|[KMGTP]i|[MGTP])?'
stages="scrape explore train evaluate"

die() {
  echo "deploy: $*" >&2
  exit 2
}

count() { # NAME VALUE
  case $2 in
    '' | *[!0-9]* | 0* | ???????*) die "$1=$2: take a number from 1" ;;
  esac
}

images() { # all of the overlay
  sed -n 's/^ *\(- \)\{0,1\}image: //p' "$work/overlay.yaml" | sort -u
}

image() { # the whole name of one
  images | sed 's/:[^:/]*$//' | sort -u | grep -E "(^|/)$1\$"
}

# The patches that REQUESTS asks for.
requests() {
  for request in ${REQUESTS:-}; do
    job=${request%%.*} resource=${request#*.} quantity=${request#*=}
    resource=${resource%%=*}
    case "$resource: $stages " in
      cpu:*" $job "* | memory:*" $job "* | ephemeral-storage:*" $job "*) ;;
      *) die "REQUESTS=$request: take JOB.cpu=, JOB.memory= or JOB.ephemeral-storage=, where JOB is one of $stages" ;;
    esac
    echo "$quantity" | grep -Eq "^$number(:$number)?\$" ||
      die "REQUESTS=$request: take a quantity such as 500m, 2 or 4Gi, or two, the second being the limit: 2Gi:8Gi"
    request_to requests "${quantity%:*}"
    case $quantity in *:*) request_to limits "${quantity#*:}" ;; esac
  done
}

request_to() { # requests|limits QUANTITY, of $job and $resource; a JobSet has the Jobs in their order
  before=${stages%%"$job"*}
  path=spec/template/spec/containers/0/resources/$1/$resource
  for target in "{kind: Job, name: $job} /$path" \
    "{kind: JobSet} /spec/replicatedJobs/$(echo "$before" | wc -w)/template/$path"; do
    echo "  - target: ${target% *}"
    echo "    patch: |-"
    echo "      - {op: add, path: ${target##* }, value: \"$2\"}"
  done
}

# Kubernetes would refuse it in the midst of a deployment.
compare() {
  [ -n "${REQUESTS:-}" ] || return 0
  more=$(awk '
    function value(text) {
      unit = text
      sub(/^[0-9.]+/, "", unit)
      if (unit == "") return text + 0
      if (unit == "m") return text / 1000
      return text * (unit ~ /i$/ ? 1024 : 1000) ^ index("KMGTP", toupper(substr(unit, 1, 1)))
    }
    { gsub(/"/, "") }
    /^ *(limits|requests):$/ { part = $1; if (part == "limits:") split("", limit); next }
    $1 !~ /^(cpu|memory|ephemeral-storage):$/ { part = ""; next }
    part == "limits:" { limit[$1] = $2 }
    part == "requests:" && $1 in limit && value($2) > value(limit[$1]) {
      print $1 " a request of " $2 " is more than the limit of " limit[$1] ", which can be given with it: " $2 ":" $2
      exit
    }' "$work/all.yaml")
  [ -z "$more" ] || die "REQUESTS: $more"
}

prepare() {
  if [ -z "${OVERLAY:-}" ] || [ ! -f "$here/overlays/$OVERLAY/kustomization.yaml" ]; then
    # shellcheck disable=SC2012  # the names are our own
    die "OVERLAY=${OVERLAY:-}: take one of $(ls "$here/overlays" | paste -sd ' ' -)"
  fi
  rm -rf "$work"
  mkdir -p "$work/settings"
  $KUBECTL kustomize "$here/overlays/$OVERLAY" >"$work/overlay.yaml"
  namespace=$(sed -n '/^kind: Namespace$/,/^---/s/^  name: //p' "$work/overlay.yaml")
  [ -n "$namespace" ] || die "the overlay $OVERLAY has no Namespace"
  features=
  ! grep -q '^  name: embed-settings-' "$work/overlay.yaml" || features=already
  case "$features ${SET:-}" in
    ' embed.'* | ' '*' embed.'*) features=new ;;
  esac
  [ -z "$features" ] || stages="scrape explore embed train evaluate"
  together=
  ! grep -q '^  IMAGETAG_WORKER_ADDRESSES: ' "$work/overlay.yaml" || together=already

  if [ -n "${TAGS:-}" ]; then
    [ -z "${TAGS_FILE:-}" ] || die "give TAGS or TAGS_FILE, not both"
    # shellcheck disable=SC2086  # split at spaces; set -f keeps patterns as they are
    printf '%s\n' $TAGS >"$work/settings/tags.txt"
  elif [ -n "${TAGS_FILE:-}" ]; then
    [ -s "$TAGS_FILE" ] || die "TAGS_FILE=$TAGS_FILE: there is nothing in it"
    cp "$TAGS_FILE" "$work/settings/tags.txt"
  fi
  if [ -n "${WORKERS:-}" ]; then
    count WORKERS "$WORKERS"
    ! grep -q '^kind: JobSet$' "$work/overlay.yaml" ||
      die "WORKERS=$WORKERS: not in a JobSet, whose pods have other names; take many-nodes"
    echo "IMAGETAG_WORKERS=$WORKERS" >>"$work/settings/train.env"
    [ -n "$together" ] || together=new
  fi
  [ -z "$features" ] || [ -z "$together" ] ||
    die "one pod alone fits a head to features: neither WORKERS nor an overlay such as many-nodes goes with embed"
  case " ${SET:-}" in
    *' predict.'*)
      stages="$stages predict"
      echo "CHAIN_STAGES=$stages" >>"$work/settings/chain.env"
      case " $SET" in
        *' predict.IMAGETAG_OUTPUT='*) ;;
        *) die "SET has settings of predict, and no predict.IMAGETAG_OUTPUT" ;;
      esac
      ;;
  esac
  if [ -n "${PODS:-}" ]; then
    count PODS "$PODS"
    for job in $stages; do
      [ "$job" = train ] && [ -n "$together" ] ||
        echo "IMAGETAG_SHARD_COUNT=$PODS" >>"$work/settings/$job.env"
    done
  fi
  for setting in ${SET:-}; do
    case $setting in
      chain.*=* | predict.*=* | embed.*=*)
        [ "$features ${setting%%.*}" = "already embed" ] || grep -q '^  name: chain-settings-' "$work/overlay.yaml" ||
          die "SET=$setting: the overlay $OVERLAY has no chain"
        ;;
      common.*=* | scrape.*=* | explore.*=* | train.*=* | evaluate.*=*) ;;
      *) die "SET=$setting: take JOB.VARIABLE=VALUE, where JOB is common, scrape, explore, embed, train, evaluate, predict or chain" ;;
    esac
    echo "${setting#*.}" >>"$work/settings/${setting%%.*}.env"
  done

  {
    echo "apiVersion: kustomize.config.k8s.io/v1alpha1"
    echo "kind: Component"
    echo "configMapGenerator: # of what was given to make deploy"
    echo "  - {name: common-settings, namespace: $namespace, behavior: merge}"
    [ ! -f "$work/settings/tags.txt" ] ||
      echo "  - {name: tags, namespace: $namespace, behavior: replace, files: [tags.txt]}"
    for name in common $stages chain; do
      [ ! -f "$work/settings/$name.env" ] ||
        echo "  - {name: $name-settings, namespace: $namespace, behavior: merge, envs: [$name.env]}"
    done
    [ -z "${ROLE:-}${REQUESTS:-}" ] || echo "patches:"
    requests
    if [ -n "${ROLE:-}" ]; then
      echo "  - target: {kind: ServiceAccount, name: jobs}"
      echo "    patch: |-"
      echo "      apiVersion: v1"
      echo "      kind: ServiceAccount"
      echo "      metadata:"
      echo "        name: jobs"
      echo "        annotations: {eks.amazonaws.com/role-arn: \"$ROLE\"}"
    fi
  } >"$work/settings/kustomization.yaml"

  {
    echo "apiVersion: kustomize.config.k8s.io/v1beta1"
    echo "kind: Kustomization"
    echo "namespace: $namespace"
    echo "resources: [../overlays/$OVERLAY]"
    echo "components:"
    [ "$features" != new ] || echo "  - ../components/features"
    case $stages in
      *predict)
        predict=../overlays/$OVERLAY/predict # the overlay's own, where it has one
        [ -d "$here/overlays/$OVERLAY/predict" ] || predict=../components/predict
        echo "  - $predict"
        ;;
    esac
    echo "  - settings"
    echo "  - ../components/pods"
    [ -z "$features" ] || echo "  - ../components/features-count"
    case $stages in *predict) echo "  - ../components/predict-count" ;; esac
    case $together in
      already) echo "  - ../components/workers-count" ;;
      new) echo "  - ../components/workers" ;;
    esac
    train=$(images | grep -E '(^|/)imagetag-train:[^/]*$')
    echo "images:"
    echo "  - {name: imagetag-train, newName: ${train%:*}, newTag: \"${train##*:}\"}" # of predict
    for name in imagetag-scrape imagetag-train; do
      case " ${REGISTRY:+set} ${IMAGES:-}" in
        *" $name="*) ;;
        ' set '*) echo "  - {name: $(image "$name"), newName: $REGISTRY/$name}" ;;
      esac
    done
    for image in ${IMAGES:-}; do
      name=${image%%=*} new=${image#*=}
      case ${new##*/} in
        *@* | *:) die "IMAGES=$image: take NAME=REPOSITORY:TAG" ;;
        ?*:?*) ;;
        *) die "IMAGES=$image: take NAME=REPOSITORY:TAG" ;;
      esac
      old=$(image "$name") || die "IMAGES=$image: the overlay has no image $name"
      echo "  - {name: $old, newName: ${new%:*}, newTag: \"${new##*:}\"}"
    done
  } >"$work/kustomization.yaml"
  $KUBECTL kustomize "$work" >"$work/all.yaml"
  compare
}

apply() { # SELECTOR OPTION...
  selector=$1
  shift
  $KUBECTL apply --server-side --force-conflicts -f "$work/all.yaml" -l "$selector" "$@"
}

# Its pods are to be gone before others take their names.
delete() {
  $KUBECTL delete job "$1" -n "$namespace" --ignore-not-found --cascade=foreground --timeout=15m 2>"$work/error" &&
    return 0
  cat "$work/error" >&2
  grep -q 'timed out' "$work/error" || exit 1
  echo "deploy: the Job $1 is not gone: see kubectl get pods -n $namespace; a pod whose node is lost goes with" \
    "kubectl delete pod NAME -n $namespace --force; then again" >&2
  exit 75
}

check() {
  bare=$(sed -n 's/^ *\(- \)\{0,1\}image: \(imagetag-.*\)/\2/p' "$work/all.yaml" | sort -u | paste -sd ' ' -)
  [ -z "$bare" ] ||
    die "$bare would be pulled from docker.io, and the pods would wait in ImagePullBackOff: give" \
      "REGISTRY, where make push has put the images (docker.io/library where the nodes have them by this name)"
  phase=$($KUBECTL get namespace "$namespace" --ignore-not-found -o jsonpath='{.status.phase}')
  [ "$phase" != Terminating ] || die "the namespace $namespace is being deleted: make undeploy ends that; then again"
  left=$(grep -E -m 1 'change-me|000000000000' "$work/all.yaml") || return 0
  left=$(echo "$left" | sed 's/^[ -]*//')
  case $left in
    IMAGETAG_STORAGE*) how="give SET=common.IMAGETAG_STORAGE=s3://BUCKET/PREFIX" ;;
    eks*) how="give ROLE=arn:..., or take the annotation out where pods have Pod Identity" ;;
    *) how="give REGISTRY, where make push has put the images" ;;
  esac
  die "$left is a placeholder of the overlay $OVERLAY: $how"
}

# The settings of a ConfigMap, NAME=VALUE, a line each.
settings_of() { # NAME
  awk -v name="  name: $1-settings-" '
    /^---$/ { count = 0 }
    /^  [A-Z][A-Z0-9_]*: / { lines[++count] = substr($0, 3) }
    index($0, name) == 1 { for (i = 1; i <= count; i++) print lines[i] }
  ' "$work/all.yaml" | sed -e 's/: /=/' -e "s/=\"\(.*\)\"\$/=\1/" -e "s/='\(.*\)'\$/=\1/"
}

setting() { # JOB VARIABLE
  settings_of "$1" | sed -n "s/^$2=//p"
}

# Prices are IMAGETAG_PRICE_* of the environment; see imagetag plan --help.
plan() {
  imagetag=${IMAGETAG:-$here/../.venv/bin/imagetag}
  command -v "$imagetag" >/dev/null ||
    die "PLAN asks imagetag on this machine, and there is no $imagetag: make setup; then again (nothing was applied)"
  awk '
    /^---$/ { count = inside = 0 }
    inside && /^    / { lines[++count] = substr($0, 5); next }
    { inside = /^  tags.txt: / }
    /^  name: tags-/ { for (i = 1; i <= count; i++) print lines[i] }
  ' "$work/all.yaml" >"$work/tags.txt"
  {
    settings_of common
    settings_of scrape
    settings_of train | grep -E '^IMAGETAG_(FEATURES|MODEL|THRESHOLD_FRACTION)=' || true
    # A backbone's name; or latest, or a name in storage, which has a dash.
    settings_of embed | sed -n \
      -e 's/^IMAGETAG_EXTRACTOR=latest$/IMAGETAG_FEATURES=latest/p' \
      -e 's/^IMAGETAG_EXTRACTOR=\(.*-.*\)$/IMAGETAG_FEATURES=\1/p' \
      -e 's/^IMAGETAG_EXTRACTOR=\([a-z0-9_]*\)$/IMAGETAG_MODEL=\1/p'
    settings_of evaluate | grep -E '^IMAGETAG_(MIN_PRECISION|CONFIDENCE)=' || true
  } | grep -Ev '^IMAGETAG_(TAGS|TAGS_FILE|LOG_FORMAT|SHARD_INDEX)=' >"$work/plan.env"
  pods=$(setting train IMAGETAG_SHARD_COUNT)
  embed_pods=$(setting embed IMAGETAG_SHARD_COUNT)
  set -- --tags-file "$work/tags.txt" --train-pods "${pods:-1}" --embed-pods "${embed_pods:-1}"
  while IFS= read -r line; do
    export "${line?}"
  done <"$work/plan.env"
  exec "$imagetag" plan "$@"
}

# The pod that keeps the storage, where the overlay has one, and when it was made.
find_storage() {
  born=
  pod=$(sed -n 's/^  CHAIN_STORAGE_POD: //p' "$work/all.yaml")
  [ -n "$pod" ] || return 0
  image=$(sed -n '/^kind: StatefulSet$/,/^---$/s/^ *image: //p' "$work/all.yaml")
  state=$($KUBECTL get pod "$pod" -n "$namespace" --ignore-not-found -o \
    jsonpath='{.status.phase} {.spec.containers[0].image}')
  case $state in
    '' | *" $image") ;;
    Pending*) $KUBECTL delete pod "$pod" -n "$namespace" --ignore-not-found ;; # it never ran, and keeps nothing
    *) echo "pod/$pod is left as it is, with ${state#* }, as the pictures are in it: kubectl delete pod $pod -n $namespace replaces it, and they are gone" ;;
  esac
  $KUBECTL wait pod "$pod" -n "$namespace" --for=create --timeout=60s >/dev/null
  born=$($KUBECTL get pod "$pod" -n "$namespace" -o jsonpath='{.metadata.creationTimestamp}')
}

deploy() {
  apply '!imagetag/stage'
  find_storage
  grep -q '^    imagetag/stage: chain$' "$work/all.yaml" || return 0
  delete chain
  again=
  for stage in $stages; do
    state=$($KUBECTL get job "$stage" -n "$namespace" --ignore-not-found -o \
      jsonpath='{.metadata.name} suspend={.spec.suspend} since={.status.startTime} {.status.conditions[?(@.status=="True")].type}')
    since=${state#* since=} since=${since%% *}
    if [ -n "$born" ] && [ -n "$since" ] && expr "$since" \< "$born" >/dev/null; then
      echo "job.batch/$stage is made anew: it began before pod/$pod was made, so what it stored is gone"
      again="again "
    fi
    case "$again$state " in
      *' Failed '*) again="again " ;;
      'again '*) ;;
      *' '*)
        [ -z "$state" ] || if ! apply "imagetag/stage=$stage" --dry-run=server >/dev/null 2>"$work/error"; then
          grep -q immutable "$work/error" || { cat "$work/error" >&2; exit 1; }
          again="again "
        fi
        ;;
    esac
    if [ -z "$state" ]; then
      again="again "
    elif [ -n "$again" ]; then
      delete "$stage"
    else
      case $state in
        *suspend=true*) ;;  # not begun: some of it can still be changed
        *)
          echo "job.batch/$stage is left as it is: $state"
          continue
          ;;
      esac
    fi
    apply "imagetag/stage=$stage"
  done
  apply imagetag/stage=chain
}

case ${1:-} in
  render)
    prepare
    cat "$work/all.yaml"
    ;;
  apply)
    prepare
    check
    deploy
    ;;
  plan)
    prepare
    plan
    ;;
  *) die "take render, apply or plan" ;;
esac
