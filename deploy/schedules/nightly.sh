#!/bin/sh
# One night of retraining, said in this one place for every schedule beside it. It goes on where it was stopped, so the
# same night may be run again; a second one at the same time is refused, and one that a newer has overtaken does nothing.
#
#   AFIELD_SOURCE    where the images are: a folder or s3://bucket/images
#   AFIELD_REGISTRY  where everything goes: versions, manifest, runs, embeddings and pages
#   AFIELD_NAME      of the model there
#   AFIELD_RECIPE    what is trained
#   AFIELD_SLOT      which night; the date of today, UTC, where it is not set
#   AFIELD_WORDS     more of jobs.retrain's key=value words, the same ones every night
set -eu
: "${AFIELD_SOURCE:?}" "${AFIELD_REGISTRY:?}" "${AFIELD_NAME:?}" "${AFIELD_RECIPE:?}"
# shellcheck disable=SC2086  # several words
exec afield retrain "$AFIELD_RECIPE" registry="$AFIELD_REGISTRY" name="$AFIELD_NAME" source.uri="$AFIELD_SOURCE" \
    slot="${AFIELD_SLOT:-$(date -u +%F)}" ${AFIELD_WORDS-}
