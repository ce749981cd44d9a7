#!/bin/sh
# One night of retraining, said in this one place for every schedule beside it: the corpus is listed anew, the same run
# goes on for so many steps, and every sample is embedded with the new weights. Each command goes on where it was
# stopped, so the same night may be run again; a second one at the same time is refused.
#
#   AFIELD_SOURCE  where the images are: a folder or s3://bucket/images
#   AFIELD_OUT     where everything goes: manifest/, run/ and embeddings/STEP/
#   AFIELD_RECIPE  what is trained; the words here take the place of its length and warm-up
#   AFIELD_SINCE   the first night, YYYY-MM-DD (UTC): the n-th one trains up to n times AFIELD_STEPS
#   AFIELD_STEPS   optimiser steps a night
#   AFIELD_WORDS   more of jobs.pretrain's key=value words, the same ones every night
set -eu
: "${AFIELD_SOURCE:?}" "${AFIELD_OUT:?}" "${AFIELD_RECIPE:?}" "${AFIELD_SINCE:?}" "${AFIELD_STEPS:?}"
first=$(date -u -d "$AFIELD_SINCE" +%s)
nights=$((($(date -u +%s) - first) / 86400 + 1))
steps=$((nights * AFIELD_STEPS))

afield index source.uri="$AFIELD_SOURCE" out="$AFIELD_OUT/manifest"
# The learning rate stays at its peak after the warm-up: a cosine that ends leaves nothing for the next night.
# shellcheck disable=SC2086  # several words
afield pretrain "$AFIELD_RECIPE" source.uri="$AFIELD_OUT/manifest" out="$AFIELD_OUT/run" num_steps="$steps" \
    optim.min_lr_fraction=1 optim.warmup_steps=500 ${AFIELD_WORDS-}
afield export artifact="$AFIELD_OUT/run" source.uri="$AFIELD_OUT/manifest" out="$AFIELD_OUT/embeddings/$steps"
