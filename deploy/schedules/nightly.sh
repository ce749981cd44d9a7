#!/bin/sh
# One night of retraining, said in this one place for every schedule beside it. A night goes on with the newest slot
# that is not finished, be it of an earlier night, before it begins one of its own; a second night at the same time is
# refused. One that takes longer than night.hours stops by itself, after a checkpoint: the next one goes on from there.
#
#   AFIELD_SOURCE    where the images are: a folder or s3://bucket/images
#   AFIELD_REGISTRY  where everything goes: versions, manifest, runs, embeddings and pages
#   AFIELD_NAME      of the model there
#   AFIELD_RECIPE    what is trained
#   AFIELD_SLOT      which slot is begun; the date of today, UTC, where it is not set
#   AFIELD_WORDS     more of jobs.nightly's key=value words, the same ones every night; night.hours=22, say
set -eu
: "${AFIELD_SOURCE:?}" "${AFIELD_REGISTRY:?}" "${AFIELD_NAME:?}" "${AFIELD_RECIPE:?}"
# shellcheck disable=SC2086  # several words
exec afield nightly "$AFIELD_RECIPE" registry="$AFIELD_REGISTRY" name="$AFIELD_NAME" source.uri="$AFIELD_SOURCE" \
    slot="${AFIELD_SLOT:-$(date -u +%F)}" ${AFIELD_WORDS-}
