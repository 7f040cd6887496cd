#!/bin/sh
# make deploy: an overlay with one's own tags and numbers, applied so that what is done stays done.
#
#   deploy.sh render   print the manifests
#   deploy.sh apply    bring the cluster of the current context to them
#
#   OVERLAY    a folder of overlays/
#   TAGS       the tags, separated by spaces; or
#   TAGS_FILE  a file with one a line; by default the overlay's own tags.txt
#   PODS       how many pods share the tags, in each job
#   WORKERS    how many train pods train each tag together
#   SET        other settings, JOB.VARIABLE=VALUE: "scrape.IMAGETAG_LIMIT=200 common.AWS_DEFAULT_REGION=eu-west-1";
#              with those of predict, new images are predicted when the classifiers are evaluated
#   ROLE       on EKS, the ARN of the IAM role that may read and write the bucket
#   REGISTRY   where the two images are: REGISTRY/imagetag-scrape, REGISTRY/imagetag-train
#   IMAGES     other images, by the last part of their names: "imagetag-train=registry.example/train:7"
#
# A Job that is complete, or under way, is left alone. One that failed, or whose settings have changed, is
# deleted and made anew, and so are those after it; what they find done in storage they do not do again.
set -euf
KUBECTL=${KUBECTL:-kubectl}
here=$(cd "$(dirname "$0")" && pwd)
work=$here/.deploy
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
  case " ${SET:-}" in
    *' predict.'*)
      stages="$stages predict"
      for name in TAG OUTPUT; do
        case " $SET" in
          *" predict.IMAGETAG_$name="*) ;;
          *) die "SET has settings of predict, and no predict.IMAGETAG_$name" ;;
        esac
      done
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
      chain.*=* | predict.*=*)
        grep -q '^  name: chain-settings-' "$work/overlay.yaml" ||
          die "SET=$setting: the overlay $OVERLAY has no chain"
        ;;
      common.*=* | scrape.*=* | explore.*=* | train.*=* | evaluate.*=*) ;;
      *) die "SET=$setting: take JOB.VARIABLE=VALUE, where JOB is common, scrape, explore, train, evaluate, predict or chain" ;;
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
    if [ -n "${ROLE:-}" ]; then
      echo "patches:"
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
    case $stages in *predict) echo "  - ../components/predict" ;; esac
    echo "  - settings"
    echo "  - ../components/pods"
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
}

apply() { # SELECTOR OPTION...
  selector=$1
  shift
  $KUBECTL apply --server-side --force-conflicts -f "$work/all.yaml" -l "$selector" "$@"
}

delete() {
  $KUBECTL delete job "$1" -n "$namespace" --ignore-not-found --cascade=foreground --timeout=15m
}

check() {
  left=$(grep -E -m 1 'change-me|000000000000' "$work/all.yaml") || return 0
  left=$(echo "$left" | sed 's/^[ -]*//')
  case $left in
    IMAGETAG_STORAGE*) how="give SET=common.IMAGETAG_STORAGE=s3://BUCKET/PREFIX" ;;
    eks*) how="give ROLE=arn:..., or take the annotation out where pods have Pod Identity" ;;
    *) how="give REGISTRY, where make push has put the images" ;;
  esac
  die "$left is a placeholder of the overlay $OVERLAY: $how"
}

deploy() {
  apply '!imagetag/stage'
  grep -q '^    imagetag/stage: chain$' "$work/all.yaml" || return 0
  delete chain
  again=
  for stage in $stages; do
    state=$($KUBECTL get job "$stage" -n "$namespace" --ignore-not-found -o \
      jsonpath='{.metadata.name} suspend={.spec.suspend} {.status.conditions[?(@.status=="True")].type}')
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
  *) die "take render or apply" ;;
esac
